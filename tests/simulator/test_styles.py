"""The checker on kernels in the styles of public ones: silent on the right ones, exact about seeded bugs."""

import pytest
from kernel_styles import STYLES
from metal_simulator import LaunchError


def three(sizes):
    return (sizes, 1, 1) if isinstance(sizes, int) else sizes


def findings(library, style, **keywords):
    sizes = three(style.groups), three(style.threads)
    memory = style.threadgroup_memory or None
    kernel = library.kernel("f")
    try:
        return kernel.launch(
            style.buffers(), *sizes, check=True, threadgroup_memory=memory, timeout=10, **keywords
        ).findings
    except LaunchError as error:
        return error.findings


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
def test_right_kernels_are_silent(written, style):
    library = written(style.text)
    orders = ("forward",) if style.name == "turns" else ("forward", "reverse", 11)
    for order in orders:
        assert findings(library, style, order=order) == ()


@pytest.mark.parametrize(
    ("style", "bug"),
    [(s, b) for s in STYLES for b in s.bugs],
    ids=lambda v: v.name if hasattr(v, "bugs") else v.new[:40],
)
def test_seeded_bug_is_named(written, style, bug):
    assert style.text.count(bug.old) == 1
    text = style.text.replace(bug.old, bug.new)
    lines = text.split("\n")
    found = findings(written(text), style)
    assert found, "not found"
    matching = [f for f in found if f.kind == bug.kind and f.memory == bug.memory]
    assert matching, found
    one = matching[0]
    assert bug.element is None or any(f.element == bug.element for f in matching), matching
    assert bug.threads is None or any(f.threads == bug.threads for f in matching), matching
    named = {lines[int(place.rsplit(":", 1)[1]) - 3] for f in matching for place in f.places}
    assert all(any(piece in line for line in named) for piece in bug.lines), named
    assert len(one.threads) == (2 if one.kind.startswith("race") else 1) and one.places
