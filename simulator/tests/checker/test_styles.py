"""The checker on kernels in the styles of public ones: silent on the right ones, exact about seeded bugs."""

import collections
import re

import pytest
from kernel_styles import STYLES
from metal_simulator import LaunchError
from metal_simulator.checker.findings import KINDS
from seeded_bugs import ERROR, UNWRITTEN


def three(sizes):
    return (sizes, 1, 1) if isinstance(sizes, int) else sizes


def launch(library, style, order="forward"):
    """Findings, and what the error of the launch says."""
    options = {"check": True, "timeout": 2, "order": order, "threadgroup_memory": style.threadgroup_memory or None}
    if style.all_checks:
        options.update(check_written=True, check_nan=True)
    try:
        report = library.kernel("f").launch(style.buffers(), three(style.groups), three(style.threads), **options)
    except LaunchError as error:
        return error.findings, str(error)
    return report.findings, ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
def test_right_kernels_are_silent(written, style):
    library = written(style.text)
    for order in ("forward",) if style.name == "turns" else ("forward", "reverse", 11):
        assert launch(library, style, order) == ((), "")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("style", "bug"),
    [(s, b) for s in STYLES for b in s.bugs],
    ids=lambda v: v.name if hasattr(v, "bugs") else v.new[:40],
)
def test_seeded_bug_is_named(written, style, bug):
    assert style.text.count(bug.old) == 1
    text = style.text.replace(bug.old, bug.new)
    findings, error = launch(written(text), style)
    if bug.kind == ERROR:
        assert re.search(bug.memory, error)
        places = re.findall(r"written.metal:(\d+)", error.split("\n")[0])
    else:
        matching = [f for f in findings if f.kind == bug.kind and f.memory == bug.memory]
        assert matching, findings
        assert bug.element is None or any(f.element == bug.element for f in matching), matching
        assert bug.threads is None or any(f.threads == bug.threads for f in matching), matching
        for finding in matching:
            threads = 0 if bug.kind == UNWRITTEN else 2 if bug.kind.startswith(("race", "collective")) else 1
            assert len(finding.threads) == threads == len(finding.threadgroups) and bool(finding.places) == bool(
                threads
            )
        places = [place.rsplit(":", 1)[1] for f in matching for place in f.places]
    named = {text.split("\n")[int(line) - 3] for line in places}
    assert all(any(piece in line for line in named) for piece in bug.lines), named


def test_every_kind_of_finding_has_three_bugs():
    count = collections.Counter(bug.kind for style in STYLES for bug in style.bugs)
    assert set(count) == {*KINDS.values(), UNWRITTEN, ERROR} and min(count.values()) >= 3, count
