"""What the planner needs to know of a GPU, and how to find it out."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch

# Multiply-adds of a core in one launch. M1, the slowest GPU, does them in a second at 60 % of its peak (128 a clock,
# 1.28 GHz); macOS ends what keeps the GPU for long.
LAUNCH_WORK = 100 * 10**9


class Device(NamedTuple):
    family: int  # Apple GPU family: 7 (M1), 8 (M2), 9 (M3, M4), 10 (M5)
    cores: int
    preferred: Any = None  # the tiles.Tile on trial: taken instead of the table's where it can serve
    launch_work: int = LAUNCH_WORK
    matrix_unit: bool = False  # whether kernels may use it (launching/unit_check.py finds out)


SMALLEST = Device(family=7, cores=8)  # M1: plans for it run on every GPU
_FAMILY_OF_CHIP = {1: 7, 2: 8, 3: 9, 4: 9, 5: 10}  # by the number after the M
FAMILIES = tuple(sorted(set(_FAMILY_OF_CHIP.values())))  # that plans are made for


def known(family: int, cores: int) -> Device:
    """The nearest GPU that plans are made for; an unknown family or number of cores, 0, becomes the smallest's."""
    return Device(min(max(family, SMALLEST.family), FAMILIES[-1]), cores if cores > 0 else SMALLEST.cores)


def of_name(name: str, cores: int) -> Device:
    """The GPU of a chip's name, like "Apple M3 Max": a newer chip becomes the newest, any other the smallest."""
    chip = re.search(r"\bM(\d+)\b", name)
    number = int(chip.group(1)) if chip else 0
    return known(_FAMILY_OF_CHIP.get(min(number, max(_FAMILY_OF_CHIP)), 0), cores)


def of_torch() -> Device:
    """The GPU as torch describes it; what torch does not know is taken from the smallest."""
    return of_name(_ask("get_name", ""), _ask("get_core_count", 0))


def _ask(name: str, unknown):
    try:
        return getattr(torch.backends.mps, name)()
    except (AttributeError, RuntimeError):  # a torch without that function, or without a GPU
        return unknown
