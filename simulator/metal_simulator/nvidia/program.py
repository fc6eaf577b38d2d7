"""A kernel assembled for an NVIDIA GPU."""

from __future__ import annotations

from typing import Iterable, NamedTuple, Tuple

ENTRY = "metal_kernel"  # name of the entry point in every cubin
UNSET = "metal_unset_"  # beginning of the names of variables for constants that the host sets


class Program(NamedTuple):
    """cubin: the code. description: parameters, gates, unset constants, threads, architecture, resources; as `build`
    describes them."""

    cubin: bytes
    description: dict


def slots(parameters: Iterable[Tuple[str, int]]) -> Tuple[int, int]:
    """How many buffers and threadgroup arguments an entry point takes, by the (kind, index) of the parameters."""
    counts = {"buffer": 0, "threadgroup": 0}
    for kind, index in parameters:
        if kind in counts:
            counts[kind] = max(counts[kind], index + 1)
    return counts["buffer"], counts["threadgroup"]
