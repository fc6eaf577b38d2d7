"""Cost of planning a call that was planned before: python benchmarks/planner.py

Level: Python on this machine. Goal: at most 15 microseconds.
"""

from __future__ import annotations

import functools
import pathlib
import statistics
import sys
import time

import kernels
import torch

GOAL = 15.0  # microseconds


def median_microseconds(call, calls=2000, rounds=15) -> float:
    """Median over rounds of the mean time of a call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(times)


def main() -> int:
    planner = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build").planner
    cu_seqlens = torch.tensor([0, 300, 1000], dtype=torch.int32)
    packed = [torch.empty(1000, heads, 64, dtype=torch.float16) for heads in (32, 8, 8, 32)]
    dense = [torch.empty(2, 512, heads, 128) for heads in (32, 8, 8, 32)]
    worst = 0.0
    for name, tensors, cu in [("packed", packed, cu_seqlens), ("dense", dense, None)]:
        query, key, value, output = tensors
        inputs = (output, None, query, key, value, cu, cu, *[None] * 4, 0.125, -1, 0, 0.0, 1000)
        call = functools.partial(planner.plan_forward, *inputs)
        microseconds = median_microseconds(call)
        worst = max(worst, microseconds)
        print(f"planning a repeated {name} call: {microseconds:.2f} us (goal {GOAL:.0f})")
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
