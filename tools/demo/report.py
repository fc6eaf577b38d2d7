"""What the demonstration prints: progress with the time passed, and figures with the level they were obtained at."""

from __future__ import annotations

import time


class Report:
    """Prints steps and figures; remembers which bounds were missed."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.missed: list[str] = []

    def step(self, text: str) -> None:
        """Says what is done now, with the seconds since the start."""
        print(f"\n{time.perf_counter() - self.start:6.1f} s  {text}", flush=True)

    def fact(self, level: str, text: str) -> None:
        """Prints a figure obtained at `level`, one of the levels of proof in the README."""
        print(f"          [{level}] {text}", flush=True)

    def bound(self, level: str, name: str, value: float, limit: float) -> None:
        """Prints `value` beside the bound it must keep; a NaN misses every bound."""
        kept = value <= limit
        self.fact(level, f"{name}: {value:.2e}, bound {limit:.2e}: {'ok' if kept else 'MISSED'}")
        if not kept:
            self.missed.append(name)
