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


def plan_dense(kernel, query, key, scale=0.125, window=(-1, -1), lse=False):
    lse = query.new_empty(0) if lse else None
    return kernel.planner.plan_forward(query, key, key, torch.empty_like(query), lse, None, None, scale, *window)


def fields(kernel, plan):
    """The plan's two parameter structs, unpacked again."""
    return [argument.values() for argument in plan.arguments if isinstance(argument, kernel.planner.Parameters)]


def test_planned_kernels_are_the_kernels_that_exist(kernel):
    planner = kernel.planner
    planned = set()
    for dtype, (itemsize, head_dim) in itertools.product(planner.DTYPES, planner.TILES):
        if dtype.itemsize == itemsize:
            query = torch.empty(1, 4, 1, head_dim, dtype=dtype, device="meta")
            planned.add(plan_dense(kernel, query, query).kernel)
    assert planned == set(Library(KERNELS / "attention_forward.metal", include=[KERNELS]).kernels)


def metal_struct(name):
    """Field names of a struct of params.h, in order; Strides fields once each."""
    text = re.sub(r"//.*", "", (KERNELS / "params.h").read_text())
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL).group(1)
    return [field.strip() for names in re.findall(r"\w+ ([\w, ]+);", body) for field in names.split(",")]


@pytest.mark.parametrize("name", ["ForwardParams", "ScoreParams"])
def test_structs_mirror_params_h(kernel, name):
    assert list(getattr(kernel.planner, name)._fields) == metal_struct(name)


def test_constants_mirror_constants_h(kernel):
    query = torch.empty(1, 4, 1, 64, device="meta")
    text = (KERNELS / "constants.h").read_text()
    declared = re.findall(r"constant bool (\w+) \[\[function_constant\(\d+\)\]\];", text)
    assert [name for name, _ in plan_dense(kernel, query, query).constants] == declared


def test_packed_plan(kernel):
    query, key = torch.empty(100, 8, 64, dtype=torch.float16), torch.empty(90, 2, 64, dtype=torch.float16)
    cu = torch.zeros(4, dtype=torch.int32)
    plan = kernel.planner.plan_forward(query, key, key, query, None, cu, cu, 0.125, -1, 0)
    params, score = fields(kernel, plan)
    assert params[:12] == (0, 512, 64, 0, 128, 64, 0, 128, 64, 0, 512, 64)
    assert params[12:] == (0, 100, 3, 100, 90, 4, 2**30, 0)
    assert score == pytest.approx((1.0, 0.125 * 1.4426950408889634))
    assert plan.grid == (100 * 4 // 32 + 3 + 2, 2, 1) and plan.threads == (128, 1, 1)
    assert dict(plan.constants) == {"is_packed": True, "is_aligned": True, "writes_lse": False}
    assert plan.arguments[2:] == ("query", "key", "value", "output", None, "cu_seqlens_q", "cu_seqlens_k")


def test_dense_plan(kernel):
    query, key = torch.empty(3, 40, 8, 64), torch.empty(3, 50, 8, 64)
    plan = plan_dense(kernel, query, key, window=(5, 7), lse=True)
    params, _ = fields(kernel, plan)
    assert params[12:] == (8 * 40, 40, 3, 40, 50, 1, 5, 7)
    assert plan.grid == (2 * 3, 8, 1)
    assert plan.arguments[6:] == ("lse", None, None)


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
    odd = torch.empty(1, 4, 1, 40, device="meta")
    with pytest.raises(NotImplementedError, match="no Metal kernel for head_dim 40 .*32, 64, 72, 80, 96, 128, 256"):
        plan_dense(kernel, odd, odd)
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
    plan = kernel.planner.plan_forward(query, key, key, query, None, cu, cu, 1.0, -1, -1)
    first = [bound * group // 32 + segment for segment, bound in enumerate(bounds[:-1])] + [plan.grid[0]]
    for segment, (begin, end) in enumerate(zip(bounds, bounds[1:])):
        needed = -(-(end - begin) * group // 32)
        assert needed <= first[segment + 1] - first[segment] <= needed + 1
