"""Blocks of keys that a mask hides from all rows of a SIMD group are not multiplied.

Levels: counters of the simulator; simulation.
"""

from __future__ import annotations

import itertools
import pathlib

import pytest
import torch
from cases import random_tensor
from metal_simulator import Library
from metal_simulator.profiler import cost_model
from reference import assert_output, attention
from simulated_launcher import SimulatedLauncher

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa" / "attention_forward.metal"
LENGTH = 256  # tiles of 64 rows and blocks of 32 keys (Apple7), of 32 and 32 (Apple9)
POSITION = torch.arange(LENGTH)
MASKS = {
    "all": torch.ones(LENGTH, LENGTH, dtype=torch.bool),
    "documents of 64": POSITION[:, None] // 64 == POSITION // 64,
    "causal": POSITION[:, None] >= POSITION,
    "one key": POSITION[None] == LENGTH - 1,
    "one row": POSITION[:, None].expand(-1, LENGTH) == 9,
    "none": torch.zeros(LENGTH, LENGTH, dtype=torch.bool),
}
VISITED = {  # of the 32 x 8 blocks of 8 rows and 32 keys
    "all": 256,
    "documents of 64": 64,
    "causal": 144,
    "one key": 32,
    "one row": 8,
    "none": 0,
}


def products(kernel, inputs, mask, family: int) -> float:
    """That the simulator counts in a call."""
    counts = []

    def launcher(plan, tensors):
        counted = Library(SOURCE, include=[SOURCE.parent]).kernel(plan.kernel, dict(plan.constants), build="count")
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        profile = counted.profile(buffers, plan.grid, plan.threads)
        rows = [profile.rows[index].classes for index in profile.order]
        products = [name.startswith("mma") for name in cost_model.CLASSES]
        counts.append(sum(sum(itertools.compress(row, products)) for row in rows))

    with kernel.launchers.use_launcher(launcher, kernel.device.Device(family, 1)):
        kernel.flash_attn_with_kvcache(*inputs, num_splits=1, attn_bias=mask)
    [count] = counts
    return count


@pytest.mark.parametrize("family", [7, 9])
def test_products_of_visited_blocks_alone(kernel, family):
    inputs = [random_tensor(seed, 1, LENGTH, 1, 64, dtype=torch.float16) for seed in range(3)]
    counts = {name: products(kernel, inputs, mask, family) for name, mask in MASKS.items()}
    share = {name: round(256 * count / counts["all"]) for name, count in counts.items()}
    assert share == VISITED


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("family", [7, 9])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_numbers(kernel, name, family, head_dim):
    inputs = [random_tensor(seed, 1, LENGTH, 1, head_dim, dtype=torch.float16) for seed in range(3)]
    with kernel.launchers.use_launcher(SimulatedLauncher(check=True), kernel.device.Device(family, 8)):
        output = kernel.flash_attn_func(*inputs, attn_bias=MASKS[name])
    expected, _ = attention(*inputs, attn_bias=MASKS[name][None, None])
    assert_output(output, expected, inputs[2])
