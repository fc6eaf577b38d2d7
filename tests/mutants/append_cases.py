"""What mutants of the kernel that appends to a cache are run on."""

import torch
from appending import Problem, call
from simulated_launcher import SimulatedLauncher

from .backward_cases import Found

LARGE = {"dtype": torch.float32, "head_dim": 100, "value_dim": 37, "strides": "part", "long_lengths": True}
PROBLEMS = (
    Problem([5, 2**40, 3], rows=[4, 0, 5], long_rows=True, pairs=40, **LARGE),  # more pairs than a SIMD group has lanes
    Problem([2**32 - 2, 5, -1], new=2, rows=[4, -1, 2], queries=3, pairs=5, heads=3, heads_kv=3, **LARGE),
    Problem([14, 47], new=4, capacity=16, pages=[[3, 0, 1], [2, 4, 5]], interleaved=False, pairs=9),
    Problem([2**31 - 1, -2, 20], new=3, queries=2, pairs=8, causal=False),
)


def all_of(kernel, folder, check: bool, fast_math: bool) -> None:
    """Integers of 32 and 64 bits, lengths and places in and out of bounds, more and fewer queries than new tokens."""
    for problem in PROBLEMS:
        try:
            done = call(kernel, problem, SimulatedLauncher(check, kernels=folder, timeout=3, fast_math=fast_math))
        except AssertionError as error:
            raise Found(str(error)) from None
        if not check:
            done.verify(attended=False)
