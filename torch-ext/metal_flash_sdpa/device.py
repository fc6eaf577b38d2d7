"""What the planner needs to know of a GPU."""

from __future__ import annotations

from typing import NamedTuple


class Device(NamedTuple):
    family: int  # Apple GPU family: 7 (M1), 8 (M2), 9 (M3, M4), 10 (M5)
    cores: int


SMALLEST = Device(family=7, cores=8)  # M1: plans for it run on every GPU
