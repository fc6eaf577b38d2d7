"""What the demonstration prints: progress with the time passed, and figures with the level they were obtained at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")


class Report:
    """Shows steps and figures; keeps the figures, and knows which bounds were missed.

    display: the self-test's module of that name; show: what prints, its Show.
    """

    def __init__(self, display, show) -> None:
        self.start = time.perf_counter()
        self.figures: list[dict[str, Any]] = []  # of `bound`, `same` and `faster`
        self._display, self._show = display, show

    def step(self, text: str, style: str = "strong") -> None:
        """Says what is done now, with the seconds since the start."""
        self._show(f"\n{time.perf_counter() - self.start:6.1f} s  {text}", style)

    def fact(self, level: str, text: str, style: str = "") -> None:
        """Shows a figure obtained at `level`, one of the levels of docs/proofs.md."""
        self._show(f"          [{level}] {text}", style)

    def line(self, text: str) -> None:
        self._show(f"          {text}")

    def bound(self, level: str, name: str, value: float, limit: float) -> None:
        """Shows `value` beside the bound it must keep; a NaN misses every bound."""
        self._check(level, name, value, limit, f"{value:.2e}, bound {limit:.2e}", value <= limit)

    def same(self, level: str, name: str, value: int, expected: int) -> None:
        """Shows a count beside the one that it must be."""
        self._check(level, name, value, expected, f"{value}, expected {expected}", value == expected)

    def _check(self, level: str, name: str, value: float, limit: float, text: str, kept: bool) -> None:
        self.figures.append({"level": level, "name": name, "value": value, "limit": limit, "kept": kept})
        self.fact(level, f"{name}: {text}: {'ok' if kept else 'MISSED'}", "" if kept else "bad")

    def faster(self, level: str, name: str, seconds: float, other: float) -> None:
        """Shows the time of something beside that of another way."""
        ratio = other / seconds
        self.figures.append({"level": level, "name": name, "seconds": seconds, "other": other})
        self.fact(level, f"{name}: {other:.2f} s, {seconds:.2f} s")
        self.line(f"{ratio:.2f} times as fast  {self._display.bar(ratio)}")

    def each(self, items: list[Item], name: str) -> Iterator[Item]:
        """The items, with a line of progress on a terminal."""
        for number, item in enumerate(items):
            self._show.progress(f"          {name} {number + 1} of {len(items)}")
            yield item

    @property
    def missed(self) -> list[str]:
        return [figure["name"] for figure in self.figures if not figure.get("kept", True)]

    def conclude(self) -> None:
        """The verdict, then what it rests on."""
        missed = self.missed
        self.step("MISSED, see below" if missed else "every bound was kept", "bad" if missed else "good")
        for figure in self.figures:
            if "kept" in figure:
                self.line(f"{'ok' if figure['kept'] else 'MISSED':8}[{figure['level']}] {figure['name']}")
        self.line("Nothing here has run on an Apple GPU.")


def shortened(sentence: str, length: int = 60) -> str:
    """With at most so many characters."""
    return sentence if len(sentence) <= length else f"{sentence[: length - 4]} ..."
