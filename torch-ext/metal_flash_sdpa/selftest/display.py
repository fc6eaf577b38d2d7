"""What people see of the self-test: lines of 80 columns; on a terminal also colour, and what goes on right now."""

from __future__ import annotations

import math
import os
import sys
import textwrap
from typing import Any, Callable, Dict, List, Optional, TextIO

COLUMNS = 80
_COLOURS = {"good": "\x1b[32m", "bad": "\x1b[31m", "strong": "\x1b[1m"}
_RESET, _ERASE = "\x1b[0m", "\r\x1b[K"
_UNIT, _LONGEST = 8, 25  # characters of a bar: those of a ratio of 1, and all


class Show:
    """Called with a line, prints it. By default to stderr, wrapped; print_line takes the lines as they are instead."""

    def __init__(self, print_line: Optional[Callable[[str], None]] = None, stream: Optional[TextIO] = None) -> None:
        self._print_line = print_line
        self._stream = stream or sys.stderr
        self._is_terminal = print_line is None and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colour = self._is_terminal and not os.environ.get("NO_COLOR")
        self._has_progress = False

    def __call__(self, text: str, style: str = "") -> None:
        """style: "good", "bad", "strong" or "" for the colour, where there is any."""
        if self._print_line is not None:
            return self._print_line(text)
        self._end_progress()
        for line in wrapped(text):
            painted = f"{_COLOURS[style]}{line}{_RESET}" if line and style and self._has_colour else line
            print(painted, file=self._stream, flush=True)

    def progress(self, text: str) -> None:
        """On a terminal, in the last line until there is another one."""
        if self._is_terminal:
            print(_ERASE + text[: COLUMNS - 1], end="", file=self._stream, flush=True)
            self._has_progress = True

    def _end_progress(self) -> None:
        if self._has_progress:
            print(_ERASE, end="", file=self._stream)
            self._has_progress = False


def wrapped(text: str) -> List[str]:
    """Lines of at most COLUMNS, as far as words allow; what is carried over is indented by four more."""
    lines: List[str] = []
    for line in text.split("\n"):
        if len(line) <= COLUMNS:
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line.strip(),
            COLUMNS,
            initial_indent=indent,
            subsequent_indent=indent + " " * 4,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def bar(ratio: float) -> str:
    """A bar as long as a ratio, with | where 1 is and > at the end of what is longer than there is room."""
    length = min(_LONGEST, round(_UNIT * ratio))
    cells = ["=" if place < length else " " for place in range(_LONGEST)]
    if round(_UNIT * ratio) > _LONGEST:
        cells[-1] = ">"
    cells[_UNIT] = "|"
    return "".join(cells).rstrip()


def conclusion(report: Dict[str, Any]) -> List[str]:
    """The verdict, then what it rests on: a line for each launcher, and one for its times."""
    lines = ["everything is right" if report["passed"] else "NOT everything is right: please report the lines above"]
    for name, result in report["launchers"].items():
        groups, timings = result["groups"].values(), result["timings"]
        problems, failed = (sum(group[count] for group in groups) for count in ("problems", "failed"))
        error = max(group["output_error"] for group in groups)
        wrong = [f"{failed} of {problems} problems"] if failed else []
        wrong += [test for test in ("threads", "ranges", "dropout", "append") if result.get(test, "right") != "right"]
        wrong += [shape for shape, timing in timings.items() if not timing.get("error", math.nan) <= 1]
        state = f"WRONG: {', '.join(wrong)}" if wrong else f"{problems} problems, error {error:.2f} of what is allowed"
        lines.append(f"  {name}: {state}")
        ratios = sorted(
            timing["sdpa_ms"] / timing["ours_ms"] for timing in timings.values() if timing.get("sdpa_ms") is not None
        )
        if ratios:
            lines.append(
                f"  {len(ratios)} shapes, {ratios[0]:.2f} to {ratios[-1]:.2f} times as fast as SDPA, "
                f"median {ratios[len(ratios) // 2]:.2f}"
            )
    return lines
