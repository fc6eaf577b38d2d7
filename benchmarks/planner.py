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
    heads = {"query": 32, "key": 8, "value": 8}
    packed = {name: torch.empty(1000, number, 64, dtype=torch.float16) for name, number in heads.items()}
    dense = {name: torch.empty(2, 512, number, 128) for name, number in heads.items()}

    def call(tensors, cu_seqlens):
        fields = dict.fromkeys(build.call.TENSORS)
        fields |= tensors | {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens}
        fields |= {"max_seqlen_q": 1000, "max_seqlen_k": 1000, "softmax_scale": 0.125, "softcap": 0.0}
        return build.call.Call(**fields, window_left=-1, window_right=0, num_splits=0)

    def plan(call):
        planner.plan_forward(device, call.query, None, call)

    missed = False
    for name, repeating in [("packed", call(packed, cu_seqlens)), ("dense", call(dense, None))]:
        repeated = median_microseconds(functools.partial(plan, repeating))
        ever = (repeating._replace(window_left=size) for size in itertools.count(1))  # each another plan
        new = median_microseconds(lambda ever=ever: plan(next(ever)), calls=200)
        print(
            f"planning a {name} call: repeated {repeated:.2f} us (goal {GOAL:.0f}), new {new:.1f} us ({NEW_GOAL:.0f})"
        )
        missed |= repeated > GOAL or new > NEW_GOAL
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
