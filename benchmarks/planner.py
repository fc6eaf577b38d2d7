"""Cost of planning, for shapes planned before and for new ones: python benchmarks/planner.py

Level: Python on this machine.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import statistics
import sys
import time

import kernels
import torch

GOAL, NEW_GOAL = 15.0, 150.0  # microseconds


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
    build = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build")
    planner, device = build.planner, build.device.Device(family=7, cores=32)
    cu_seqlens = torch.tensor([0, 300, 1000], dtype=torch.int32)
    packed = [torch.empty(1000, heads, 64, dtype=torch.float16) for heads in (32, 8, 8, 32)]
    dense = [torch.empty(2, 512, heads, 128) for heads in (32, 8, 8, 32)]

    def plan(tensors, cu, window):
        query, key, value, output = tensors
        inputs = output, None, query, key, value, cu, cu, *[None] * 4
        planner.plan_forward(device, *inputs, 1000, 1000, 0.125, window, 0, 0.0, 0)

    missed = False
    for name, *inputs in [("packed", packed, cu_seqlens), ("dense", dense, None)]:
        repeated = median_microseconds(functools.partial(plan, *inputs, -1))
        windows = itertools.count(1)  # each another plan
        new = median_microseconds(lambda case=inputs, ever=windows: plan(*case, next(ever)), calls=200)
        print(
            f"planning a {name} call: repeated {repeated:.2f} us (goal {GOAL:.0f}), new {new:.1f} us ({NEW_GOAL:.0f})"
        )
        missed |= repeated > GOAL or new > NEW_GOAL
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
