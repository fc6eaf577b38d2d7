"""The planner: pure, cached, and in step with the kernels' own text."""

from __future__ import annotations

import itertools
import operator
import pathlib
import re
import sys

import pytest
import torch
from cases import call_of
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa"


def plan_of(kernel, *arguments, **named):
    """The first launch of `chain_of`."""
    return next(iter(chain_of(kernel, *arguments, **named).launches))


def chain_of(kernel, query, key, value=None, lse=False, device=None, **named):
    """The plans of a call, by the names of its fields; lse and output are made for it."""
    value = key if value is None else value
    output = query.new_empty(*query.shape[:-1], value.shape[-1])
    lse = query.new_empty(0) if lse else None
    call = call_of(kernel, query, key, value, **named)
    return kernel.planner.plan_forward(device or kernel.device.SMALLEST, output, lse, call)


def params_of(kernel, plan, kind="ForwardParams"):
    """A plan's two parameter structs, unpacked, by the names in params.h."""
    params, score = [a.values() for a in plan.arguments if isinstance(a, kernel.planning.plan.Parameters)]
    values = iter(params)
    found = {}
    for name in metal_struct(kind):
        is_strides = name in ("query", "key", "value", "output", "bias")
        found[name] = tuple(itertools.islice(values, 3)) if is_strides else next(values)
    assert list(values) == []
    return found, dict(zip(metal_struct("ScoreParams"), score))


def test_planned_kernels_are_the_kernels_that_exist(kernel):
    tiles, planned = kernel.planning.tiles, set()
    devices = [kernel.device.Device(family, cores) for family in kernel.device.FAMILIES for cores in (1, 64)]
    lengths = [
        (4, 4),
        (128, 500),
        (128, 2000),
    ]  # for a decode tile; large tiles on few cores, small ones on many; parts
    sizes = [*tiles.SHAPES, (8, 8), (256, 8), (8, 256), (160, 160), (320, 320), (8, 512)]
    for dtype, (head_dim, value_dim), device in itertools.product(kernel.call.DTYPES, sizes, devices):
        for seqlen_q, seqlen_k in lengths:
            query = torch.empty(1, seqlen_q, 1, head_dim, dtype=dtype, device="meta")
            key, value = query.new_empty(1, seqlen_k, 1, head_dim), query.new_empty(1, seqlen_k, 1, value_dim)
            for lse in (False, True):  # a feature
                planned.add(plan_of(kernel, query, key, value, lse, device).kernel)
    assert planned == set(Library(KERNELS / "attention_forward.metal", include=[KERNELS]).kernels)


@pytest.mark.parametrize(
    "family, cores, rows, expected",
    [
        (7, 8, 8, "_r8_n16_g1x1x4_direct"),  # one fragment of rows: all SIMD groups on their own keys
        (7, 8, 9, "_r8_n16_g1x1x4_direct"),  # two of them, as fast as any other
        (7, 8, 16, "_r8_n16_g1x1x4_direct"),
        (7, 8, 17, "_r8_n32_g4x1x1_staged"),
        (7, 32, 17, "_r8_n16_g1x1x4_direct"),  # whose cores 64 parts of one tile of 32 rows would not fill
        (7, 32, 33, "_r8_n32_g4x1x1_staged"),
        (9, 40, 64, "_r8_n16_g1x1x4_direct"),
        (9, 40, 65, "_r8_n32_g4x1x1_direct"),
        (7, 8, 8 * 64, "_r8_n32_g8x1x1_staged"),  # a tile of 64 rows for every core
        (7, 8, 8 * 64 + 1, "_r8_n32_g4x1x1_staged"),  # a ninth would be alone in a second round
        (7, 16, 8 * 64, "_r8_n32_g4x1x1_staged"),  # of 64 rows there are 8 tiles only
        (8, 8, 8 * 64, "_r8_n32_g8x1x1_staged"),
        (9, 8, 8 * 64, "_r8_n32_g4x1x1_direct"),
        (10, 8, 8 * 64, "_r8_n32_g4x1x1_direct"),
        (10, 8, 1, "_r8_n16_g1x1x4_direct"),
    ],
)
def test_tile_of_rows_and_device(kernel, family, cores, rows, expected):
    query = torch.empty(1, rows, 1, 64, dtype=torch.float16, device="meta")
    assert plan_of(kernel, query, query, device=kernel.device.Device(family, cores)).kernel.endswith(expected)


def test_tuned_tiles_are_preferred(kernel, monkeypatch, tmp_path):
    """Those in the file of this very GPU, which no other test plans for."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fastest, gpu = kernel.planning.tiles.DIRECT_F16[1], kernel.device.Device(7, 71)
    kernel.planning.tiles.tuned.store(gpu, {("f16", 64, 64): fastest})
    for head_dim, dtype, is_tuned in [
        (64, torch.float16, True),
        (50, torch.float16, True),  # the same kernel
        (72, torch.float16, False),
        (64, torch.bfloat16, False),
    ]:
        query = torch.empty(1, 100, 1, head_dim, dtype=dtype, device="meta")
        plan = plan_of(kernel, query, query, device=gpu)
        assert (plan.kernel == fastest.kernel(torch.float16)) == is_tuned
    with pytest.warns(UserWarning, match="of the GPU"):
        query = torch.empty(1, 100, 1, 64, dtype=torch.float16, device="meta")
        assert plan_of(kernel, query, query, device=kernel.device.Device(7, 72)).kernel != fastest.kernel(torch.float16)


def test_a_tile_on_trial_is_planned_with(kernel):
    """For the device that prefers it alone, whatever was planned before; not where it is too small."""
    query = torch.empty(1, 100, 1, 64, dtype=torch.float16, device="meta")
    gpu = kernel.device.Device(7, 8)
    trials = kernel.planning.tiles.candidates(gpu, torch.float16, 64, 64)
    before = plan_of(kernel, query, query, device=gpu)
    assert len(trials) > 2
    for tile in trials:
        plan = plan_of(kernel, query, query, device=gpu._replace(preferred=tile))
        assert plan.kernel == tile.kernel(torch.float16)
    assert plan_of(kernel, query, query, device=gpu) == before
    wide = torch.empty(1, 100, 1, 72, dtype=torch.float16, device="meta")
    preferring = plan_of(kernel, wide, wide, device=gpu._replace(preferred=trials[0]))
    assert preferring.kernel == plan_of(kernel, wide, wide, device=gpu).kernel


def metal_struct(name, file="params.h"):
    """Field names of a struct of a header or kernel, in order; Strides fields once each."""
    text = re.sub(r"//.*", "", (KERNELS / file).read_text())
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL).group(1)
    return [field.strip() for names in re.findall(r"\w+ ([\w, ]+);", body) for field in names.split(",")]


@pytest.mark.parametrize("name", ["ForwardParams", "ScoreParams", "DropoutParams", "CombineParams"])
def test_structs_mirror_params_h(kernel, name):
    assert list(getattr(kernel.planning.plan, name)._fields) == metal_struct(name)


def test_the_struct_of_the_kernel_that_appends(kernel):
    assert list(kernel.planning.plan.AppendParams._fields) == metal_struct("AppendParams", "cache_append.metal")


@pytest.mark.parametrize(
    ("file", "name", "ours"),
    [
        ("tile.h", "kSimdWidth", "planner.SIMD_WIDTH"),
        ("attention_combine.metal", "kMaxSplits", "planner.MAX_SPLITS"),
        ("attention_combine.metal", "kMostThreads", "planner.COMBINE_THREADS"),
        ("cache_append.metal", "kRows", "planning.append.ROWS"),
    ],
)
def test_numbers_mirror_the_kernels(kernel, file, name, ours):
    [number] = re.findall(rf"constant constexpr \w+ {name} = (\d+);", (KERNELS / file).read_text())
    assert int(number) == operator.attrgetter(ours)(kernel)


@pytest.mark.parametrize(
    ("value_dim", "num_splits", "threads"),
    [(64, 2, (64, 1)), (64, 64, (64, 8)), (40, 17, (64, 4)), (8, 64, (32, 16)), (96, 64, (96, 4)), (512, 64, (512, 1))],
)
def test_each_thread_joins_at_least_four_parts_of_a_column_or_has_it_alone(kernel, value_dim, num_splits, threads):
    query, value = torch.empty(1, 1, 1, 64, device="meta"), torch.empty(1, 9000, 1, value_dim, device="meta")
    *_, combine = chain_of(kernel, query, value.new_empty(1, 9000, 1, 64), value, num_splits=num_splits).launches
    assert combine.threads == (*threads, 1)


def test_constants_mirror_function_constants_h(kernel):
    query = torch.empty(1, 4, 1, 64, device="meta")
    text = (KERNELS / "function_constants.h").read_text()
    declared = re.findall(r"constant bool (\w+) \[\[function_constant\(\d+\)\]\];", text)
    grads = query, query, query
    call = call_of(kernel, query, query, query)
    chain = kernel.planning.backward.plan_backward(kernel.device.SMALLEST, call, query, query, None, grads, False)
    forward, *others = (dict(plan.constants) for plan in (plan_of(kernel, query, query), *chain.launches))
    assert list(forward) == [name for name in declared if name in forward] and set().union(forward, *others) == set(
        declared
    )


def test_packed_plan(kernel):
    query, key = torch.empty(100, 8, 64, dtype=torch.float16), torch.empty(90, 2, 64, dtype=torch.float16)
    cu = torch.zeros(4, dtype=torch.int32)
    plan = plan_of(kernel, query, key, cu_seqlens_q=cu, cu_seqlens_k=cu, softmax_scale=0.125, window_right=0)
    params, score = params_of(kernel, plan)
    assert params == {
        "query": (0, 512, 64),
        "key": (0, 128, 64),
        "value": (0, 128, 64),
        "output": (0, 512, 64),
        "lse_batch_stride": 0,
        "lse_head_stride": 100,
        "batch": 3,
        "query_length": 100,
        "key_length": 90,
        "head_dim": 64,
        "value_dim": 64,
        "heads_per_kv": 4,
        "window_left": 2**30,
        "window_right": 0,
        "num_pages": 0,
        "page_size": 0,
        "block_table_stride": 0,
        "alibi_batch_stride": 0,
        "num_splits": 1,
        "output_split_stride": 0,
        "lse_split_stride": 0,
        "first_tile": 0,
        "aligns_last": 1,
        "bias": (0, 0, 0),
        "bias_keys": 2**30,
        "bias_key_stride": 0,
    }
    assert score == pytest.approx(
        {
            "query_factor": 1.0,
            "tanh_scale": 0.0,
            "bias_factor": 1.0,
            "scale": 0.125,
            "scale_log2": 0.125 * 1.4426950408889634,
        }
    )
    assert plan.grid == (2, 100 * 4 // 32 + 3 + 2, 1) and plan.threads == (128, 1, 1)
    assert {name for name, value in plan.constants if value} == {"is_packed", "is_aligned"}
    assert plan.arguments[2:] == ("query", "key", "value", "output", None, "cu_seqlens_q", "cu_seqlens_k", *[None] * 7)


def test_dense_plan(kernel):
    query, key = torch.empty(3, 40, 8, 64), torch.empty(3, 50, 8, 64)
    plan = plan_of(kernel, query, key, window_left=5, window_right=7, lse=True)
    params, _ = params_of(kernel, plan)
    assert params["lse_batch_stride"] == 8 * 40 and params["lse_head_stride"] == 40
    assert (params["batch"], params["query_length"], params["key_length"], params["heads_per_kv"]) == (3, 40, 50, 1)
    assert (params["window_left"], params["window_right"]) == (5, 7)
    assert plan.grid == (8, 3, 1)
    assert plan.arguments[6:] == ("lse", *[None] * 9)


@pytest.mark.parametrize("window, expected", [(-1, 2**30), (0, 0), (2**30, 2**30), (2**31 - 1, 2**30), (2**62, 2**30)])
def test_windows_fit_the_kernels(kernel, window, expected):
    query = torch.empty(1, 40, 8, 64, device="meta")
    for name in ("window_left", "window_right"):
        assert params_of(kernel, plan_of(kernel, query, query, **{name: window}))[0][name] == expected


def test_paged_plan(kernel):
    """Queries dense, keys in 12 pages of 16, at most 5 a sequence; every optional tensor there."""
    query, cache = torch.empty(3, 1, 8, 64), torch.empty(12, 16, 2, 64)
    tensors = {
        "seqused_k": torch.zeros(3, dtype=torch.int32),
        "block_table": torch.zeros(3, 5, dtype=torch.int32),
        "alibi_slopes": torch.zeros(3, 8),
        "sinks": torch.zeros(8),
    }
    settings = {"max_seqlen_k": 80, "softmax_scale": 0.1, "window_right": 0, "softcap": 30.0}
    plan = plan_of(kernel, query, cache, **tensors, **settings)
    params, score = params_of(kernel, plan)
    assert params["key"] == (16 * 2 * 64, 2 * 64, 64)  # page, token, head
    assert (params["batch"], params["query_length"], params["key_length"]) == (3, 1, 80)
    assert (params["num_pages"], params["page_size"], params["block_table_stride"]) == (12, 16, 5)
    assert (params["window_left"], params["window_right"]) == (2**30, 0)
    assert (params["alibi_batch_stride"], params["num_splits"]) == (8, 1)
    assert score == pytest.approx(
        {
            "query_factor": 1.0,
            "tanh_scale": 0.1 / 30,
            "bias_factor": 1.0,
            "scale": 30.0,
            "scale_log2": 30 * 1.4426950408889634,
        }
    )
    assert plan.arguments[6:] == (None, None, None, *tensors, None, None, None)
    absent = {"is_packed", "is_padded", "is_split", "writes_lse", "writes_softmax", "has_dropout"}
    absent |= {"has_bias", "bias_is_mask", "bias_is_float"}
    assert {name for name, value in plan.constants if not value} == absent


def plan_decode(kernel, *arguments, **named):
    return next(iter(chain_of_decode(kernel, *arguments, **named).launches))


def chain_of_decode(kernel, keys, num_heads=8, batch=1, num_splits=0, device=None):
    """One token a sequence, 2 key/value heads."""
    query = torch.empty(batch, 1, num_heads, 128, dtype=torch.float16)
    key = torch.empty(batch, keys, 2, 128, dtype=torch.float16)
    settings = {"sinks": torch.empty(num_heads), "window_right": 0, "num_splits": num_splits}
    return chain_of(kernel, query, key, lse=True, device=device, **settings)


def test_split_plan(kernel):
    chain = chain_of_decode(kernel, 4096, num_splits=5)
    plan, combine = chain.launches
    params, score = params_of(kernel, plan)
    assert plan.grid == (2, 1, 5)
    assert params["output"] == (8 * 128, 8 * 128, 128)  # of the partial output
    assert (params["lse_batch_stride"], params["lse_head_stride"]) == (8, 1)
    assert (params["num_splits"], params["output_split_stride"], params["lse_split_stride"]) == (5, 8 * 128, 8)
    assert chain.scratch == (("partial_output", (5, 8, 128)), ("partial_softmax", (5, 8, 2)))
    assert plan.arguments[5:7] == ("partial_output", "partial_softmax")
    assert not dict(plan.constants)["has_sinks"]  # they are one more exponential of the whole, not of each part
    assert combine.arguments[2:] == ("partial_output", "partial_softmax", "output", "lse", "sinks", None, None)
    assert combine.grid == (8, 1, 1)
    joined, joined_score = params_of(kernel, combine, "CombineParams")
    assert joined == {
        "output": (8 * 128, 8 * 128, 128),
        "lse_batch_stride": 8,
        "lse_head_stride": 1,
        "rows": 8,
        "num_heads": 8,
        "tokens": 1,
        "value_dim": 128,
        "num_splits": 5,
    }
    assert joined_score == score


def test_splits_fill_the_gpu_and_no_more(kernel):
    def splits(keys, **keywords):
        return plan_decode(kernel, keys, **keywords).grid[2]

    assert splits(2**17) == 16  # 32 threadgroups of 4 SIMD groups fill 8 cores; 2 key/value heads
    assert splits(2**17, batch=16) == 1
    assert splits(512) == 1  # the launch that joins parts would begin when this one has ended
    assert splits(1024) == 8  # 2 blocks of 16 keys for each of the SIMD groups of a part
    assert splits(2**17, num_splits=3) == 3
    assert splits(2**17, num_splits=1000) == kernel.planner.MAX_SPLITS
    assert splits(2**17, batch=16, device=kernel.device.Device(family=9, cores=40)) == 5


@pytest.mark.parametrize(
    ("threadgroups", "cores", "keys", "expected"),
    [
        (80, 40, 8192, 2),  # 4 of 4 SIMD groups fill a core
        (32, 10, 8192, 3),  # 9.6 of a third on a core that has 10 to do; undivided 3.2, that has 4
        (160, 40, 8192, 1),
        (164, 40, 8192, 4),  # 16.4 of a fourth on one that has 17; undivided 4.1, that has 5
        (164, 40, 768, 1),  # each part costs as much as some keys
        (4000, 40, 2**17, 1),  # no more than MOST_WAVES
    ],
)
def test_parts_leave_no_core_with_more_work_than_others(kernel, threadgroups, cores, keys, expected):
    query, key = (torch.empty(1, length, threadgroups, 64, dtype=torch.float16, device="meta") for length in (1, keys))
    assert plan_of(kernel, query, key, device=kernel.device.Device(9, cores)).grid[2] == expected


@pytest.mark.parametrize(("window_right", "expected"), [(-1, 4), (0, 1)])
def test_causal_tiles_need_no_parts_to_be_even(kernel, window_right, expected):
    query = torch.empty(1, 8192, 1, 64, dtype=torch.float16, device="meta")  # 256 threadgroups, 4.06 to a core
    device = kernel.device.Device(9, 63)
    assert plan_of(kernel, query, query, device=device, window_right=window_right).grid[2] == expected


def test_parts_of_a_call_without_features_take_the_tile_of_those_with(kernel):
    """Their lse takes the registers that ROOMY leaves."""
    query, key = (torch.empty(1, length, 1, 128, dtype=torch.bfloat16, device="meta") for length in (64, 8192))
    whole, parts = (plan_of(kernel, query, key, num_splits=n).kernel for n in (1, 2))
    assert whole.endswith("_n8_g4x1x1_staged") and parts.endswith("_n32_g4x2x1_staged")


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("family, cores", [(7, 8), (7, 64), (8, 38), (9, 80), (10, 40)])
def test_short_work_is_one_launch(kernel, family, cores, batch):
    gpu = kernel.device.Device(family, cores, matrix_unit=family == 10)
    for head_dim, keys, tokens in itertools.product((64, 96, 128, 256, 512), (1, 100, 512), (1, 4)):
        for dtype, heads_kv in itertools.product((torch.float16, torch.bfloat16, torch.float32), (1, 8)):
            query = torch.empty(batch, tokens, 8, head_dim, dtype=dtype, device="meta")
            key = torch.empty(batch, keys, heads_kv, head_dim, dtype=dtype, device="meta")
            [plan] = chain_of(kernel, query, key, device=gpu, window_right=0).launches
            assert plan.grid[2] == 1


@pytest.mark.parametrize("head_dim, value_dim, sizes", [(1, 1, (32, 32)), (33, 32, (64, 64)), (192, 128, (192, 128))])
def test_other_head_dims_take_the_next_kernel(kernel, head_dim, value_dim, sizes):
    query, value = torch.empty(1, 4, 2, head_dim, device="meta"), torch.empty(1, 4, 2, value_dim, device="meta")
    plan = plan_of(kernel, query, query, value)
    assert f"_d{sizes[0]}_v{sizes[1]}_" in plan.kernel
    constants = dict(plan.constants)
    assert constants["is_padded"] == ((head_dim, value_dim) != sizes)
    assert constants["is_aligned"] == (head_dim % 4 == 0)


def test_alignment_is_seen(kernel):
    def aligned(query):
        return dict(plan_of(kernel, query, query).constants)["is_aligned"]

    storage = torch.empty(2, 6, 4, 72, dtype=torch.float16)
    assert aligned(storage[..., :64])  # rows of 144 bytes
    assert aligned(storage[..., 8:]) and not aligned(storage[..., 4:68])  # a start of 16, of 8 bytes
    assert not aligned(torch.empty(2, 6, 4, 68, dtype=torch.float16)[..., :64])  # rows of 136 bytes
    assert aligned(torch.empty(1, 1, 1, 68, dtype=torch.float16)[..., :64])  # a single row: its stride is never used


def test_repeated_shapes_are_planned_once(kernel):
    kernel.planner._plan_forward.cache_clear()
    for _ in range(5):
        query = torch.empty(2, 6, 4, 64)
        plan_of(kernel, query, query)
    info = kernel.planner._plan_forward.cache_info()
    assert (info.misses, info.hits) == (1, 4)


def test_cache_is_bounded(kernel):
    for length in range(1, 3000):
        query = torch.empty(1, length, 1, 64, device="meta")
        plan_of(kernel, query, query)
    info = kernel.planner._plan_forward.cache_info()
    assert info.currsize <= info.maxsize == 1024


def test_refusals_give_the_reason(kernel):
    large = torch.empty(1, 4, 1, 513, device="meta")
    with pytest.raises(NotImplementedError, match="no Metal kernel for head_dim 513 .* 513 .* up to 576 and 512"):
        plan_of(kernel, large, large)
    query, key = (torch.empty(1, tokens, heads, 64, device="meta") for tokens, heads in [(2**28, 4), (8, 1)])
    with pytest.raises(NotImplementedError, match="got 1073741824 query rows"):
        plan_of(kernel, query, key)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 300), max_size=40), heads_per_kv=st.integers(1, 40), start=st.integers(0, 50))
def test_every_row_has_its_tile(kernel, lengths, heads_per_kv, start):
    """The packed grid against sequence.h's rule, re-stated: each segment has the tiles it needs, none is shared."""
    bounds = [0, *itertools.accumulate(lengths, initial=start), start + sum(lengths) + 13]
    total = bounds[-1]
    query, key = torch.empty(total, heads_per_kv, 64, device="meta"), torch.empty(1, 1, 64, device="meta")
    cu = torch.empty(len(lengths) + 1, dtype=torch.int32, device="meta")
    longest = max([1, *lengths])
    plan = plan_of(kernel, query, key, cu_seqlens_q=cu, cu_seqlens_k=cu, max_seqlen_q=longest, max_seqlen_k=1)
    block_m = 8 * int(re.search(r"_r8_n\d+_g(\d+)x", plan.kernel).group(1))
    first = [bound * heads_per_kv // block_m + segment for segment, bound in enumerate(bounds[:-1])] + [plan.grid[1]]
    for segment, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        needed = -(-(end - begin) * heads_per_kv // block_m)
        assert needed <= first[segment + 1] - first[segment] <= needed + 1
