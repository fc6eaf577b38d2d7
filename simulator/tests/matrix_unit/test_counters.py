"""Counters and predicted times of products by the matrix unit."""

import re

import numpy as np
import pytest
import torch
from metal_simulator import Library
from metal_simulator.profiler import cost_model, report
from metal_simulator.profiler.counters import Profile, Row
from metal_simulator.profiler.instruction_classes import CLASSES

M5_MAX = report.chip_named("M5 Max")
PEAK = 1024 * 40 * 1.62e9  # FLOP a second


@pytest.fixture(scope="module")
def unit(request):
    folder = request.path.parent.parent / "kernels"
    return Library(folder / "matrix_unit.metal", language="metal4.0", deployment_target="26.2")


@pytest.mark.parametrize(("name", "sizes", "classes"), [
    ("half", (256, 512), {"matrix_unit": 1}),
    ("tall", (512, 256), {"matrix_unit": 1}),
    ("wide", (1024, 1024), {"matrix_unit": 4}),
    ("float_exact", (256, 512), {"mma_float": 16}),  # fp32 that must not be cut: on the ALUs
])  # fmt: skip
def test_products(unit, name, sizes, classes):
    types = {"wide": torch.bfloat16, "float_exact": torch.float}
    a, b = torch.zeros(sizes[0], dtype=types.get(name, torch.half)), torch.zeros(sizes[1], dtype=torch.half)
    b = b.float() if name in types else b
    profile = unit.kernel(name).profile([a, b, torch.zeros(1024)], (3, 1, 1), (64, 1, 1))
    found = {k: n for k, n in profile.classes.items() if k.startswith("m")}
    assert found == {k: 6 * n for k, n in classes.items()}
    assert Profile.from_json(profile.to_json()) == profile


def test_accesses_of_operands_in_memory(unit):
    """a is [16, 64], b [32, 64], each read once by columns of 16."""
    a, b, c, rows = (np.zeros(n, t) for n, t in ((1024, "f2"), (2048, "f2"), (512, "f4"), (32, "f4")))
    numbers = [np.array([n], np.int32) for n in (64, 32)]
    profile = unit.kernel("in_memory").profile([a, b, c, rows, *numbers], (1, 1, 1), (32, 1, 1))
    traffic = {t.name: t for t in profile.traffic}
    assert (traffic["a"].read, traffic["a"].first_read) == (2048, 2048)
    assert (traffic["b"].read, traffic["b"].first_read) == (4096, 4096)
    assert traffic["a"].instructions == 32 and traffic["a"].lines == 64  # two rows at a time
    assert profile.classes["matrix_unit"] == 4 and profile.classes["reduction"] == 4


def counts(**numbers):
    return tuple(numbers.get(name, 0) for name in CLASSES)


def profile(classes, groups=40 * 64, **row):
    rows = (Row(counts(**classes), **{**dict.fromkeys(Row._fields[1:], 0), **row}),)
    return Profile("f", (groups, 1, 1), (128, 1, 1), 0, 64.0, 0, rows, (0,) * groups, (), {})


def seconds(found):
    return found.seconds - cost_model.LAUNCH_SECONDS


def test_clocks():
    assert cost_model.unit_clocks(profile({"matrix_unit": 5}, groups=3), 10) == 3 * 5 * 64
    assert cost_model.unit_clocks(profile({"matrix_unit": 5}), 9) == 0
    assert cost_model.clocks(counts(matrix_unit=1), 7) == cost_model.clocks(counts(matrix_unit=1), 9) == 16 * 17
    assert cost_model.clocks(counts(matrix_unit=1, simple=3), 10) == 3


@pytest.mark.parametrize(("classes", "row", "bound", "clocks"), [
    ({"matrix_unit": 1000}, {}, "matrix unit", 64000 / 4 / 0.88),
    ({"matrix_unit": 1000, "simple": 70000}, {}, "matrix unit", 64000 / 4 / 0.88),
    ({"matrix_unit": 1000, "simple": 80000}, {}, "compute", 80000 / 4),
    ({"matrix_unit": 1000}, {"device_clocks": 20000}, "L1", 20000),
])  # fmt: skip
def test_the_longest_of_unit_alus_and_l1(classes, row, bound, clocks):
    found = cost_model.predict(profile(classes, **row), M5_MAX)
    assert found.bound == bound
    assert found.clocks == pytest.approx(64 * clocks)
    assert found.unit_share == pytest.approx(64 * 1000 * 64 / 4 / (found.seconds * 1.62e9))
    without = cost_model.predict(profile({**classes, "matrix_unit": 0}, **row), M5_MAX)
    assert without.unit_share == 0


@pytest.mark.parametrize(("head_dim", "published"), [(64, 56.3e12), (128, 54.1e12)])
def test_published_attention(head_dim, published):
    """MLX's attention on M5 Max, bf16, causal 8192: a block of 16 x 32 scores takes 4 D / 64 products, 195 clocks of
    complex ALU operations and 150 of simple ones; Q is read again: 80 bytes a clock of the unit at its full rate."""
    blocks = 8192 * 8192 // 2 // (16 * 32)
    products = 4 * head_dim * 2 // 64
    row = {"matrix_unit": products * blocks // 1280, "simple": 150 * blocks // 1280, "exponential": 16 * blocks // 1280}
    found = cost_model.predict(profile(row, groups=1280 * 32), M5_MAX)
    flops = 4 * 32 * (8192 * 8192 / 2) * head_dim
    assert flops / seconds(found) == pytest.approx(published, rel=0.1)
    assert flops / seconds(found) <= PEAK * 0.885


def test_report_shows_the_unit():
    text = report.text(profile({"matrix_unit": 1000, "simple": 100}))
    assert "M3, M4:" in text and "M5:" in text and "the matrix unit of M5 runs" in text
    assert re.search(r"M5 Max .* 0\.0% +8\d\.\d%  matrix unit", text)
    assert "unit" not in report.text(profile({"simple": 100}))
