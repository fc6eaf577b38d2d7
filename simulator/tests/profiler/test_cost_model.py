"""The cost model against numbers computed by hand."""

import pytest
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.cost_model import Chip, clocks, occupancy, predict, rate, schedule
from metal_simulator.profiler.counters import Profile, Row, Traffic
from metal_simulator.profiler.instruction_classes import CLASSES

COUNTS = {"mma_half": 10, "mma_float": 2, "simple": 100, "exponential": 50, "shuffle": 10, "divide": 3, "reduction": 2}
ISSUE_7 = 10 * 17 + 2 * 18 + 100 + 50 * 4 + 10 * 2 + 3 * 6 + 2 * 14.5  # 573
OTHERS_9 = 10 * 17 + 2 * 18 + 100 + 10 + 2 * 14.5  # 345; the complex ones take 218


def counts(**numbers):
    return tuple(numbers.get(name, 0) for name in CLASSES)


def profile(classes=None, groups=1, threads=32, registers=32.0, threadgroup_bytes=0, traffic=(), **row):
    rows = (Row(counts(**(COUNTS if classes is None else classes)), **{**dict.fromkeys(Row._fields[1:], 0), **row}),)
    sizes = (groups, 1, 1), (threads, 1, 1)
    return Profile("f", *sizes, threadgroup_bytes, registers, 0, rows, (0,) * groups, tuple(traffic), {})


def test_clocks_of_a_simd_group():
    assert clocks(counts(**COUNTS), 7) == ISSUE_7
    assert clocks(counts(**COUNTS), 9) == clocks(counts(**COUNTS), 10) == OTHERS_9
    assert clocks(counts(exponential=100, simple=10), 9) == 400  # the complex pipeline is the longer one
    assert clocks(counts(bfloat_convert=7), 7) == 7
    assert clocks(counts(bfloat_convert=7), 9) == 0
    assert clocks(counts(barrier=5, atomic=5, unknown=5), 7) == 0


def test_bfloat_products_are_those_of_floats_where_it_is_emulated():
    assert clocks(counts(mma_bfloat=1), 7) == clocks(counts(mma_float=1), 7) == 18
    assert clocks(counts(mma_bfloat=1), 9) == clocks(counts(mma_half=1), 9) == 17


def test_rate_of_few_simd_groups():
    assert rate(16) == rate(24) == 1
    assert rate(4) == 17 / 65
    assert rate(8) == 2 * 17 / 65


@pytest.mark.parametrize(("keywords", "simdgroups", "limit"), [
    ({"threads": 128}, 24, "threads"),
    ({"threads": 128, "registers": 64}, 24, "threads"),  # 1664 / 64 = 26
    ({"threads": 128, "registers": 85}, 16, "registers"),  # 1664 / 85 = 19.6, four at a time
    ({"threads": 128, "threadgroup_bytes": 30720}, 8, "threadgroup memory"),
    ({"threads": 128, "threadgroup_bytes": 32768}, 4, "threadgroup memory"),
    ({"threads": 1024}, 32, "threads"),  # one threadgroup always fits
])  # fmt: skip
def test_occupancy(keywords, simdgroups, limit):
    found = occupancy(profile(**keywords), 7)
    assert (found.simdgroups, found.limit, found.rate) == (simdgroups, limit, rate(simdgroups))


def test_spilled_registers_cost_the_later_families():
    assert occupancy(profile(threads=128, registers=111), 9).rate == 0.55
    assert occupancy(profile(threads=128, registers=104), 9).rate == 1
    assert occupancy(profile(threads=128, registers=111), 7).rate == rate(12)


def test_occupancy_takes_the_registers_of_the_family():
    bfloat = profile(threads=256, registers=90)._replace(registers_by_family={"7": [105, 120], "9": [90, 95]})
    assert (occupancy(bfloat, 7).simdgroups, occupancy(bfloat, 9).simdgroups) == (8, 16)
    assert (bfloat.needs(8).live, bfloat.needs(8).hoisted) == (105, 120)
    assert bfloat.needs(10) == (90, 95) and profile(registers=40).needs(7) == (40, 40)


def test_threadgroup_loads_as_issue_slots():
    """100 loads by the one SIMD group, of 573 clocks; stores and loads of other memory are none."""
    accesses = {("threadgroup", "load", "2"): 60, ("threadgroup", "load", "4"): 40, ("threadgroup", "store", "2"): 7}
    loads = profile(threads=512)._replace(accesses={**accesses, ("device", "load", "2"): 9})
    chip = Chip("one", 7, 1, 1.0, 1000)
    found = predict(loads, chip, efficiency=1)
    assert found.seconds == predict(profile(threads=512), chip, efficiency=1).seconds
    assert found.seconds_with_loads == pytest.approx((ISSUE_7 + 100) / 4 * 1e-9 + 5e-6)
    bound = predict(loads._replace(rows=(loads.rows[0]._replace(device_clocks=1000),)), chip, efficiency=1)
    assert bound.seconds_with_loads == bound.seconds  # another limit is beyond both


def test_code_size():
    assert cost_model.code_bytes(1000) == pytest.approx(1580 * 7.26)


@pytest.mark.parametrize(("costs", "cores", "expected"), [
    ([4, 3, 2, 1], 2, [[0, 3], [1, 2]]),
    ([1, 1, 1, 1], 2, [[0, 2], [1, 3]]),
    ([5], 3, [[0], [], []]),
    ([], 2, [[], []]),
    ([1, 1, 1, 9], 2, [[0, 2], [1, 3]]),  # in order: the long one last makes the longest core
])  # fmt: skip
def test_list_scheduling(costs, cores, expected):
    assert schedule(costs, cores) == expected


def test_time_of_one_simd_group():
    """573 clocks, 1 SIMD group on a core: 1/4 of 17/65 of the rate of four schedulers."""
    chip = Chip("one", 7, 4, 1.0, 1000)
    found = predict(profile(), chip)
    assert found.clocks == pytest.approx(ISSUE_7 / 4 / (17 / 65 / 4) / 0.95)
    assert found.seconds == pytest.approx(found.clocks * 1e-9 + 5e-6)
    assert found.bound == "latency"
    assert found.matrix_share == pytest.approx((10 * 17 + 2 * 18) / ISSUE_7)


def test_time_of_full_cores():
    """12 threadgroups of 16 SIMD groups' work on 4 cores: 3 each; a row holds the sums of a threadgroup."""
    chip = Chip("full", 7, 4, 2.0, 1000)
    found = predict(profile(groups=12, threads=512), chip, efficiency=1)
    assert found.clocks == pytest.approx(3 * ISSUE_7 / 4)
    assert found.bound == "compute"
    assert predict(profile(groups=13, threads=512), chip, efficiency=1).clocks == pytest.approx(4 * ISSUE_7 / 4)


@pytest.mark.parametrize(("row", "clocks_needed", "bound"), [
    ({"device_clocks": 700, "threadgroup_clocks": 300}, 1000, "L1"),
    ({"device_clocks": 300, "threadgroup_clocks": 700}, 1000, "threadgroup memory"),
    ({"device_lines": 1000}, 4000, "L2"),
])  # fmt: skip
def test_a_core_is_limited_by_its_memory(row, clocks_needed, bound):
    found = predict(profile(threads=512, **row), Chip("one", 7, 1, 1.0, 1000), efficiency=1)
    assert (found.clocks, found.bound) == (clocks_needed, bound)


def test_a_chip_is_limited_by_dram():
    """1000 lines read and 500 written at 0.88 GB/s."""
    traffic = [Traffic("x", "device", lines_read=1000, lines_written=500), Traffic("p", "constant", lines_read=77)]
    found = predict(profile(traffic=traffic), Chip("slow", 7, 1, 1.0, 1))
    assert found.bound == "DRAM"
    assert found.seconds == pytest.approx(1500 * 128 / 0.88e9 + 5e-6)


def test_repeated_launches_add_up():
    traffic = [Traffic("x", "device", 1, 2, 3, 4, 5, 6, 7, 8, 9), Traffic("p", "constant", 1, 2)]
    one = profile(groups=3, traffic=traffic)._replace(accesses={("device", "load", "4"): 5})
    four = one.repeated(4)
    assert (four.grid, four.order) == ((3, 1, 4), (0,) * 12)
    assert four.traffic[0] == Traffic("x", "device", 4, 8, 12, 16, 20, 24, 28, 32, 36)
    assert four.accesses == {("device", "load", "4"): 20}
    assert four.classes == {name: 12 * n for name, n in COUNTS.items()}


def test_published_forward_kernel():
    """A forward kernel of MLX: fp16, 32 heads, 4096 x 4096, head_dim 64, published 11.7 ms on M3 Max.

    Products alone: 2 * 4096 * 4096 * 64 / 512 for each head, half of them with one fp32 input.
    """
    products = 4096 * 4096 * 64 // 512
    groups = 128  # a head's threadgroups of 32 rows
    row = {"mma_half": products // groups, "mma_float": products // groups, "simple": products // groups * 3}
    found = predict(profile(row, groups=groups * 32, threads=128), cost_model.CHIPS[6])
    assert found.chip == "M3 Max"
    assert found.seconds == pytest.approx(11.7e-3, rel=0.08)


def chip(name):
    return next(c for c in cost_model.CHIPS if c.name == name)


@pytest.mark.parametrize(("name", "head_dim", "share"), [
    ("M1 Max", 64, 0.89), ("M1 Max", 128, 0.87), ("M1 Max", 256, 0.87), ("M4", 64, 0.92), ("M4", 128, 0.88),
])  # fmt: skip
def test_published_share_of_the_peak(name, head_dim, share):
    """Metal FlashAttention's forward kernel, fp16: its share of the multiply-add peak, with the least instructions
    that it can have: 64 scores take 2 head_dim / 8 products and, per lane, twice an fma, a maximum, an exp2, a sum."""
    scores, groups = 4096, chip(name).cores * 64
    row = {"mma_half": scores * head_dim // 4, "simple": scores * 6, "exponential": scores * 2}
    found = predict(profile(row, groups=groups, threads=128), chip(name))
    peak = groups * scores * (head_dim // 4) * 16 / 4 / chip(name).cores / (chip(name).gigahertz * 1e9)
    assert peak / found.seconds == pytest.approx(share, rel=0.06)


@pytest.mark.parametrize(("name", "milliseconds"), [("M1 Max", 14.2), ("M3 Max", 10.5), ("M4 Max", 9.2)])
def test_floor_of_a_causal_prefill(name, milliseconds):
    """32 heads, 4096 tokens, head_dim 128: the products alone, half of them with one fp32 input."""
    products, groups = 4096 * 4096 * 128 // 512, 128
    row = {"mma_half": products // groups // 2, "mma_mixed": products // groups // 2}
    found = predict(profile(row, groups=groups * 32, threads=128), chip(name), efficiency=1)
    assert found.seconds == pytest.approx(milliseconds * 1e-3, rel=0.02)


@pytest.mark.parametrize(("name", "microseconds"), [("M1 Max", 372), ("M4 Max", 279), ("M5", 993), ("M5 Max", 248)])
def test_floor_of_a_decoding_step(name, microseconds):
    """8 key and value heads of 32768 tokens, head_dim 128, fp16, each read once."""
    traffic = [Traffic("key", "device", lines_read=2 * 8 * 32768 * 128 * 2 // 128)]
    found = predict(profile({"simple": 1}, traffic=traffic), chip(name))
    assert found.bound == "DRAM"
    assert found.seconds - cost_model.LAUNCH_SECONDS == pytest.approx(microseconds * 1e-6, rel=0.03)


def test_the_table_names_each_chip_once():
    names = [chip.name for chip in cost_model.CHIPS]
    assert len(set(names)) == len(names) == 13
    assert {chip.family for chip in cost_model.CHIPS} == set(cost_model.CLOCKS)
