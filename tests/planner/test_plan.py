"""The planner: pure, cached, and in step with the kernels' own text."""

from __future__ import annotations

import itertools
import pathlib
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa"


def plan_forward(kernel, *inputs, device=None):
    return kernel.planner.plan_forward(device or kernel.device.SMALLEST, *inputs)


def plan_dense(kernel, query, key, scale=0.125, window=(-1, -1), lse=False):
    lse = query.new_empty(0) if lse else None
    output = query.new_empty(query.shape)
    return plan_forward(kernel, output, lse, query, key, key, *[None] * 6, 1, 1, scale, *window, 0.0, 0)


def fields(kernel, plan):
    """The plan's two parameter structs, unpacked again."""
    return [argument.values() for argument in plan.arguments if isinstance(argument, kernel.plan.Parameters)]


def test_planned_kernels_are_the_kernels_that_exist(kernel):
    planner = kernel.planner
    planned = set()
    for dtype, head_dim, value_dim in itertools.product(planner.DTYPES, range(8, 257, 8), range(8, 257, 8)):
        query = torch.empty(1, 4, 1, head_dim, dtype=dtype, device="meta")
        value = torch.empty(1, 4, 1, value_dim, dtype=dtype, device="meta")
        plan = plan_forward(kernel, value, None, query, query, value, *[None] * 6, 1, 1, 0.1, -1, -1, 0.0, 0)
        planned.add(plan.kernel)
    assert planned == set(Library(KERNELS / "attention_forward.metal", include=[KERNELS]).kernels)


def metal_struct(name):
    """Field names of a struct of params.h, in order; Strides fields once each."""
    text = re.sub(r"//.*", "", (KERNELS / "params.h").read_text())
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL).group(1)
    return [field.strip() for names in re.findall(r"\w+ ([\w, ]+);", body) for field in names.split(",")]


@pytest.mark.parametrize("name", ["ForwardParams", "ScoreParams", "CombineParams"])
def test_structs_mirror_params_h(kernel, name):
    assert list(getattr(kernel.plan, name)._fields) == metal_struct(name)


def test_constants_mirror_constants_h(kernel):
    query = torch.empty(1, 4, 1, 64, device="meta")
    text = (KERNELS / "constants.h").read_text()
    declared = re.findall(r"constant bool (\w+) \[\[function_constant\(\d+\)\]\];", text)
    assert [name for name, _ in plan_dense(kernel, query, query).constants] == declared


def test_packed_plan(kernel):
    query, key = torch.empty(100, 8, 64, dtype=torch.float16), torch.empty(90, 2, 64, dtype=torch.float16)
    cu = torch.zeros(4, dtype=torch.int32)
    plan = plan_forward(kernel, query, None, query, key, key, cu, cu, *[None] * 4, 100, 100, 0.125, -1, 0, 0.0, 0)
    params, score = fields(kernel, plan)
    assert params[:12] == (0, 512, 64, 0, 128, 64, 0, 128, 64, 0, 512, 64)
    assert params[12:] == (0, 100, 3, 100, 90, 64, 64, 4, 2**30, 0, 0, 0, 0, 0, 1, 0, 0)
    assert score == pytest.approx((1.0, 0.125 * 1.4426950408889634, 1.0))
    assert plan.grid == (100 * 4 // 32 + 3 + 2, 2, 1) and plan.threads == (128, 1, 1)
    assert {name for name, value in plan.constants if value} == {"is_packed", "is_aligned"}
    assert plan.arguments[2:] == ("query", "key", "value", "output", None, "cu_seqlens_q", "cu_seqlens_k", *[None] * 4)


def test_dense_plan(kernel):
    query, key = torch.empty(3, 40, 8, 64), torch.empty(3, 50, 8, 64)
    plan = plan_dense(kernel, query, key, window=(5, 7), lse=True)
    params, _ = fields(kernel, plan)
    assert params[12:] == (8 * 40, 40, 3, 40, 50, 64, 64, 1, 5, 7, 0, 0, 0, 0, 1, 0, 0)
    assert plan.grid == (2 * 3, 8, 1)
    assert plan.arguments[6:] == ("lse", *[None] * 6)


def test_paged_plan(kernel):
    """Queries dense, keys in 12 pages of 16, at most 5 a sequence; every optional tensor there."""
    query, cache = torch.empty(3, 1, 8, 64), torch.empty(12, 16, 2, 64)
    tensors = {
        "seqused_k": torch.zeros(3, dtype=torch.int32),
        "block_table": torch.zeros(3, 5, dtype=torch.int32),
        "alibi_slopes": torch.zeros(3, 8),
        "sinks": torch.zeros(8),
    }
    settings = 1, 80, 0.1, -1, 0, 30.0, 0
    plan = plan_forward(kernel, query, None, query, cache, cache, None, None, *tensors.values(), *settings)
    params, score = fields(kernel, plan)
    assert params[3:6] == (16 * 2 * 64, 2 * 64, 64)  # page, token, head
    assert params[14:] == (3, 1, 80, 64, 64, 4, 2**30, 0, 12, 16, 5, 8, 1, 0, 0)
    assert score == pytest.approx((1.0, 30 * 1.4426950408889634, 0.1 / 30))
    assert plan.arguments[6:] == (None, None, None, *tensors)
    assert {name for name, value in plan.constants if not value} == {"is_packed", "is_padded", "is_split", "writes_lse"}


def plan_decode(kernel, keys, num_heads=8, batch=1, num_splits=0, device=None):
    """One token a sequence, 2 key/value heads."""
    query, key = torch.empty(batch, 1, num_heads, 128), torch.empty(batch, keys, 2, 128)
    lse = torch.empty(batch, num_heads, 1)
    inputs = query, lse, query, key, key, *[None] * 5, torch.empty(num_heads)
    return plan_forward(kernel, *inputs, 1, keys, 0.1, -1, 0, 0.0, num_splits, device=device)


def test_split_plan(kernel):
    plan = plan_decode(kernel, 4096, num_splits=5)
    params, _ = fields(kernel, plan)
    assert plan.grid == (1, 2, 5)
    assert params[9:14] == (8 * 128, 8 * 128, 128, 8, 1)  # of the partial output, and of lse
    assert params[-3:] == (5, 8 * 128, 8)
    assert plan.scratch == (("partial_output", (5, 8, 128)), ("partial_lse", (5, 8)))
    assert plan.arguments[5:7] == ("partial_output", "partial_lse")
    assert not dict(plan.constants)["has_sinks"]  # they are one more exponential of the whole, not of each part
    combine = plan.then
    assert combine.arguments[1:] == ("partial_output", "partial_lse", "output", "lse", "sinks")
    assert combine.grid == (8, 1, 1) and combine.then is None
    assert fields(kernel, combine) == [(8 * 128, 8 * 128, 128, 8, 1, 8, 8, 1, 128, 5)]


def test_splits_fill_the_gpu_and_no_more(kernel):
    def splits(keys, **keywords):
        return plan_decode(kernel, keys, **keywords).grid[2]

    assert splits(2**17) == 16  # 32 threadgroups of 4 SIMD groups fill 8 cores; 2 key/value heads
    assert splits(2**17, batch=16) == 1
    assert splits(100) == 1  # fewer than 4 blocks of 16 keys for each of two parts
    assert splits(130) == 2
    assert splits(2**17, num_splits=3) == 3
    assert splits(2**17, batch=16, device=kernel.device.Device(family=9, cores=40)) == 5


@pytest.mark.parametrize("head_dim, value_dim, sizes", [(1, 1, (32, 32)), (33, 32, (64, 64)), (192, 128, (192, 128))])
def test_other_head_dims_take_the_next_kernel(kernel, head_dim, value_dim, sizes):
    query, value = torch.empty(1, 4, 2, head_dim, device="meta"), torch.empty(1, 4, 2, value_dim, device="meta")
    plan = plan_forward(kernel, value, None, query, query, value, *[None] * 6, 4, 4, 0.1, -1, -1, 0.0, 0)
    assert f"_d{sizes[0]}_v{sizes[1]}_" in plan.kernel
    constants = dict(plan.constants)
    assert constants["is_padded"] == ((head_dim, value_dim) != sizes)
    assert constants["is_aligned"] == (head_dim % 4 == 0)


def test_alignment_is_seen(kernel):
    def aligned(query):
        return dict(plan_dense(kernel, query, query).constants)["is_aligned"]

    storage = torch.empty(2, 6, 4, 72, dtype=torch.float16)
    assert aligned(storage[..., :64])  # rows of 144 bytes
    assert aligned(storage[..., 8:]) and not aligned(storage[..., 4:68])  # a start of 16, of 8 bytes
    assert not aligned(torch.empty(2, 6, 4, 68, dtype=torch.float16)[..., :64])  # rows of 136 bytes
    assert aligned(torch.empty(1, 1, 1, 68, dtype=torch.float16)[..., :64])  # a single row: its stride is never used


def test_repeated_shapes_are_planned_once(kernel):
    kernel.planner._plan_forward.cache_clear()
    for _ in range(5):
        query = torch.empty(2, 6, 4, 64)
        plan_dense(kernel, query, query)
    info = kernel.planner._plan_forward.cache_info()
    assert (info.misses, info.hits) == (1, 4)


def test_cache_is_bounded(kernel):
    for length in range(1, 3000):
        query = torch.empty(1, length, 1, 64, device="meta")
        plan_dense(kernel, query, query)
    info = kernel.planner._plan_forward.cache_info()
    assert info.currsize <= info.maxsize == 1024


def test_refusals_give_the_reason(kernel):
    large = torch.empty(1, 4, 1, 257, device="meta")
    with pytest.raises(NotImplementedError, match="no Metal kernel for head_dim 257 .* up to 256"):
        plan_dense(kernel, large, large)
    query, key = (torch.empty(1, tokens, heads, 64, device="meta") for tokens, heads in [(2**28, 4), (8, 1)])
    with pytest.raises(NotImplementedError, match="got 1073741824 query rows"):
        plan_dense(kernel, query, key)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 300), max_size=40), group=st.integers(1, 40), start=st.integers(0, 50))
def test_every_row_has_its_tile(kernel, lengths, group, start):
    """The packed grid against sequence.h's rule, re-stated: each segment has the tiles it needs, none is shared."""
    bounds = [0, *itertools.accumulate(lengths, initial=start), start + sum(lengths) + 13]
    total = bounds[-1]
    query, key = torch.empty(total, group, 64, device="meta"), torch.empty(1, 1, 64, device="meta")
    cu = torch.empty(len(lengths) + 1, dtype=torch.int32, device="meta")
    plan = plan_forward(kernel, query, None, query, key, key, cu, cu, *[None] * 4, 1, 1, 1.0, -1, -1, 0.0, 0)
    first = [bound * group // 32 + segment for segment, bound in enumerate(bounds[:-1])] + [plan.grid[0]]
    for segment, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        needed = -(-(end - begin) * group // 32)
        assert needed <= first[segment + 1] - first[segment] <= needed + 1
