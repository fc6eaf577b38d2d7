"""Kernels in the styles of public ones, right as they stand, and bugs seeded into them: what the checker must say.

A bug replaces text of a kernel that occurs once. The finding that it must lead to: kind, memory, element (None for
any), and a piece of each line that it names; then the two threads, where the schedule does not matter. Of a launch that
fails, kind is ERROR and memory what the error says.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np


class Bug(NamedTuple):
    old: str
    new: str
    kind: str
    memory: str
    element: Optional[int]
    lines: Tuple[str, ...]
    threads: Optional[Tuple[int, ...]] = None


class Style(NamedTuple):
    """A kernel f, its launch (buffers are made anew by a function) and its bugs."""

    name: str
    text: str
    buffers: callable
    groups: int
    threads: int
    bugs: Tuple[Bug, ...]
    threadgroup_memory: Tuple[int, ...] = ()
    all_checks: bool = False


def f32(n, value=0.0):
    return np.full(n, value, np.float32)


def u32(n, value=0):
    return np.full(n, value, np.uint32)


RACE, TWO = "race: read and write", "race: two writes"
GROUPS_RACE, GROUPS_TWO = "race between threadgroups: read and write", "race between threadgroups: two writes"
READ, WRITE = "read out of bounds", "write out of bounds"
ERROR, UNWRITTEN, CONST = "error", "element never written", "write to a const buffer"
MADE, WRITTEN, DIVERGENT = "NaN made from numbers", "NaN written", "collective in divergent control flow"
NEVER, MISALIGNED = "read of threadgroup memory never written", "misaligned vector access"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
