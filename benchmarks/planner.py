"""Cost of planning, for shapes planned before and for new ones: python benchmarks/planner.py

With --beside, also that of another build, with the median of the ratios ours / other; both run in turns in one process.
Level: Python on this machine.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
import time
from typing import Callable, List

import kernels
import torch

GOAL, NEW_GOAL = 15.0, 150.0  # microseconds
BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"
WINDOWS = 1500  # more plans than the planner keeps


def planned_calls(kernel, function: str, arguments: dict, windows) -> List[Callable]:
    """What a public function's calls have planned, one for each window on the left: a call of the planner each."""
    plan_forward, found = kernel.planner.plan_forward, []

    def plan(*arguments):
        found.append(lambda: plan_forward(*arguments))
        return plan_forward(*arguments)

    kernel.planner.plan_forward = plan
    try:
        with kernel.launchers.use_launcher(lambda plan, tensors: None, kernel.device.Device(family=7, cores=32)):
            for window in windows:
                getattr(kernel, function)(**arguments, window_size=(window, 0))
    finally:
        kernel.planner.plan_forward = plan_forward
    return found


def cases() -> dict:
    """By name: a public function and its arguments."""
    cu_seqlens = torch.tensor([0, 300, 1000], dtype=torch.int32)
    lengths = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 1000, "max_seqlen_k": 1000}
    heads = {"q": 32, "k": 8, "v": 8}
    packed = {name: torch.empty(1000, number, 64, dtype=torch.float16) for name, number in heads.items()}
    dense = {name: torch.empty(2, 512, number, 128) for name, number in heads.items()}
    return {"packed": ("flash_attn_varlen_func", packed | lengths), "dense": ("flash_attn_func", dense)}


def microseconds(plans, calls: int) -> float:
    """Mean processor time of that many of the plans."""
    plans = list(itertools.islice(plans, calls))
    start = time.thread_time()
    for plan in plans:
        plan()
    return (time.thread_time() - start) / calls * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="folder of the staged variants")
    parser.add_argument("--beside", type=pathlib.Path, help="such a folder of another checkout, to be compared with")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side (default: 15)")
    options = parser.parse_args()
    builds = [kernels.get_local_kernel(folder) for folder in (options.build, options.beside) if folder]
    missed = False
    for name, (function, arguments) in cases().items():
        for kind, windows, calls, goal in (("repeated", 1, 2000, GOAL), ("new", WINDOWS, 200, NEW_GOAL)):
            sides = [itertools.cycle(planned_calls(kernel, function, arguments, range(windows))) for kernel in builds]
            rounds = [[microseconds(side, calls) for side in sides] for _ in range(options.rounds)]
            ours, *others = (statistics.median(side) for side in zip(*rounds))
            line = f"planning a {kind} {name} call: {ours:.2f} us (goal {goal:.0f})"
            for other in others:
                ratio = statistics.median(ours / other for ours, other in rounds)
                line += f", other {other:.2f} us, ours / other {ratio:.3f}"
            print(line, flush=True)
            missed |= ours > goal
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
