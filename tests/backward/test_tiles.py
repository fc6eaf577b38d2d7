"""The table of the backward's tiles beside what the simulator counts of its kernels."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from cases import DTYPES
from metal_simulator.profiler import cost_model, registers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from backward_tiles import compiled, every_kernel, gradients_bytes, launches
from tiles import library_bytes


@pytest.mark.sampled(3)
@pytest.mark.parametrize("family", [7, 9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_row_leaves_a_core_its_full_rate(kernel, family, dtype):
    """16 SIMD groups by registers and, of whole threadgroups, 15 by memory: 98 % of the full rate."""
    tables = importlib.import_module(f"{kernel.__name__}.planning.backward_tiles").TABLES
    for row in tables[family][dtype]:
        for plan, _ in launches(kernel, family, dtype, *row.queries[:2]):
            needs = compiled(plan).budget()
            assert registers.of_family(needs.registers_by_family, family).live <= 104, plan.kernel
            held = cost_model.THREADGROUP_BYTES // needs.threadgroup_bytes * plan.threads[0] // 32
            assert held >= 15, plan.kernel


@pytest.mark.nightly
def test_the_library_stays_small_with_gradients(kernel):
    """64 kernels, of 0.63 MiB by the instructions that the simulator counts, beside 0.86 of the forward's; here by
    those of every seventh."""
    assert len(list(every_kernel(kernel))) <= 80
    assert library_bytes(kernel, step=7) + gradients_bytes(kernel, step=7) < 2 * 2**20
