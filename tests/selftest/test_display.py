"""What people see of the self-test: 80 columns, the verdict first, colour and progress on terminals alone."""

from __future__ import annotations

import io
import json
import re

import pytest
import torch

WORKLOAD = "prefill_2k"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def display(kernel, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return kernel.selftest.display


@pytest.fixture
def selftest(kernel, monkeypatch):
    """The self-test on a machine without an Apple GPU, with one standard shape."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    workloads = kernel.selftest.workloads
    monkeypatch.setattr(workloads, "WORKLOADS", {WORKLOAD: workloads.WORKLOADS[WORKLOAD]})
    return kernel.selftest


def seen(written: str) -> list[str]:
    """The lines that a terminal shows in the end; nothing is ever wider than it."""
    lines = [line.split("\r\x1b[K") for line in re.sub(r"\x1b\[\d*m", "", written).split("\n")]
    assert all(len(part) <= 80 for parts in lines for part in parts), lines
    return [parts[-1] for parts in lines]


def test_lines_colour_and_progress_of_a_terminal(display) -> None:
    stream = Terminal()
    show = display.Show(stream=stream)
    show("first")
    show.progress("1 of 2 " + "and more " * 20)
    show.progress("2 of 2")
    show("\nwrong", "bad")
    assert stream.getvalue().endswith("\r\x1b[K2 of 2\r\x1b[K\n\x1b[31mwrong\x1b[0m\n")
    assert seen(stream.getvalue()) == ["first", "", "wrong", ""]


@pytest.mark.parametrize(("name", "value", "has_progress"), [("NO_COLOR", "1", True), ("TERM", "dumb", False)])
def test_the_user_s_settings(display, monkeypatch, name: str, value: str, has_progress: bool) -> None:
    monkeypatch.setenv(name, value)
    stream = Terminal()
    show = display.Show(stream=stream)
    show.progress("1 of 2")
    show("right", "good")
    assert stream.getvalue() == "\r\x1b[K1 of 2\r\x1b[K" * has_progress + "right\n"


def test_an_empty_setting_is_none(display, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")  # https://no-color.org: not empty
    stream = Terminal()
    display.Show(stream=stream)("right", "good")
    assert stream.getvalue() == "\x1b[32mright\x1b[0m\n"


def test_files_get_plain_lines(display) -> None:
    stream, lines = io.StringIO(), []
    for show in (display.Show(stream=stream), display.Show(lines.append)):
        show.progress("1 of 2")
        show("right", "good")
    assert stream.getvalue() == "right\n" and lines == ["right"]


def test_long_lines_are_wrapped_and_short_ones_kept(display) -> None:
    words = "  kernel  with " + ", ".join(["has_a_feature"] * 12) + "\n\n  two  spaces"
    first, *rest = display.wrapped(words)
    assert first.startswith("  kernel  with has_a_feature,") and rest[-2:] == ["", "  two  spaces"]
    assert all(line.startswith("      has_a_feature") for line in rest[:-2]) and len(rest) > 3
    assert max(map(len, [first, *rest])) <= 80
    assert display.wrapped("x" * 100) == ["x" * 100]  # a word stays whole, to be copied


def test_bars(display) -> None:
    assert display.bar(0) == "        |" and display.bar(0.5) == "====    |" and display.bar(1) == "========|"
    assert display.bar(2) == "========|=======" and len(display.bar(3)) == 24
    assert display.bar(1000) == display.bar(3.3) == "========|" + "=" * 15 + ">"


def test_a_run_in_a_terminal(selftest, display, monkeypatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    report = selftest.run(count=9)
    lines = seen(stream.getvalue())
    assert "1 of 1" in stream.getvalue() and "1 of 1" not in "\n".join(lines)
    verdict = lines.index("everything is right")
    assert lines[verdict - 1] == "" and "\x1b[32meverything is right" in stream.getvalue()
    error = max(group["output_error"] for group in report["launchers"]["CPU implementation"]["groups"].values())
    timing = report["launchers"]["CPU implementation"]["timings"][WORKLOAD]
    ratio = timing["sdpa_ms"] / timing["ours_ms"]
    assert lines[verdict + 1 :] == [
        f"  CPU implementation: 9 problems, error {error:.2f} of what is allowed",
        f"  1 shapes, {ratio:.2f} to {ratio:.2f} times as fast as SDPA, median {ratio:.2f}",
        "",
    ]
    row = f"  {WORKLOAD:22} {timing['ours_ms']:9.3f} {timing['sdpa_ms']:9.3f} {ratio:6.2f} {display.bar(ratio)}"
    assert row in lines


def test_a_run_that_is_wrong(selftest, display, monkeypatch) -> None:
    """Three problems of a group are shown, the report has all; the verdict names what was wrong."""

    def fails(*_arguments):
        raise RuntimeError("the GPU is on fire " * 10)

    monkeypatch.setattr(selftest.cases, "solve", fails)
    monkeypatch.setattr(selftest.timing, "time_workload", fails)
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    report = selftest.run(count=45)
    lines = seen(stream.getvalue())
    assert len(report["launchers"]["CPU implementation"]["failures"]) == 45
    assert sum("WRONG Case(" in line for line in lines) == 9 * 3
    assert "\x1b[31mNOT everything is right: please report the lines above" in stream.getvalue()
    assert lines[-2] == f"  CPU implementation: WRONG: 45 of 45 problems, threads, {WORKLOAD}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "7 problems, error 0.25 of what is allowed"),
        ({"threads": "WRONG"}, "WRONG: threads"),
        ({"ranges": "RuntimeError: no"}, "WRONG: ranges"),
        ({"dropout": "WRONG"}, "WRONG: dropout"),
        ({"timings": {"one": {"error": 0.5, "ours_ms": 1, "sdpa_ms": None}}}, "7 problems, error 0.25 of"),
        ({"timings": {"one": {"error": 1.5, "ours_ms": 1, "sdpa_ms": None}}}, "WRONG: one"),
        ({"timings": {"one": {"error": float("nan"), "ours_ms": 1, "sdpa_ms": 2}}}, "WRONG: one"),
    ],
)
def test_the_verdict_says_what_was_wrong(display, changes: dict, said: str) -> None:
    groups = {"float32 dense": {"problems": 7, "failed": 0, "output_error": 0.25}}
    launcher = {"groups": groups, "threads": "right", "timings": {}, **changes}
    lines = display.conclusion({"passed": "WRONG" not in said, "launchers": {"run-time": launcher}})
    assert lines[0].startswith("NOT everything is right" if "WRONG" in said else "everything is right")
    assert lines[1].startswith(f"  run-time: {said}")
    assert (len(lines) == 3) == (launcher["timings"].get("one", {}).get("sdpa_ms") is not None)
    assert json.dumps(launcher)
