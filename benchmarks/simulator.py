"""Speed of the simulator on the forward kernel: python benchmarks/simulator.py

One head, fp16, head_dim 64, not causal. Level: simulation; these are seconds of this machine's CPU and say nothing
about a GPU. Goal: 512 x 512 in at most 1 second without checks.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "simulator")]

from simulated_launcher import SimulatedLauncher  # noqa: E402

GOAL = 1.0  # seconds, 512 x 512, unchecked


def seconds(kernel, length: int, check: bool, rounds: int) -> float:
    """Median time of one call; the kernel is compiled before."""
    query, key, value = torch.randn(3, 1, length, 1, 64, dtype=torch.float16)
    times = []
    with kernel.launchers.use_launcher(SimulatedLauncher(check=check)):
        kernel.flash_attn_func(query[:, :8], key[:, :8], value[:, :8])
        for _ in range(rounds):
            start = time.perf_counter()
            kernel.flash_attn_func(query, key, value)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    kernel = kernels.get_local_kernel(ROOT / "build")
    unchecked = seconds(kernel, 512, check=False, rounds=7)
    checked = seconds(kernel, 512, check=True, rounds=3)
    print(f"512 x 512:   {unchecked:.3f} s (goal {GOAL:.1f}); with checks {checked:.3f} s, {checked / unchecked:.1f} x")
    long = seconds(kernel, 1024, check=False, rounds=3)
    long_checked = seconds(kernel, 1024, check=True, rounds=3)
    print(f"1024 x 1024: {long:.3f} s; with checks {long_checked:.3f} s, {long_checked / long:.1f} x")
    return int(unchecked > GOAL)


if __name__ == "__main__":
    sys.exit(main())
