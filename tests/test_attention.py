"""What every call must compute, through the public functions, on the CPU implementation and on the simulated kernels.

Levels: CPU implementation; simulation. Nothing here runs on an Apple GPU.
"""

from __future__ import annotations

import itertools
from typing import Iterator, Tuple

import pytest
import torch
from cases import DTYPES, HEAD_DIMS, LENGTHS, dense, max_lengths, packed
from reference import assert_lse, assert_output, attention

GROUPS = [1, 2, 8]  # query heads per key/value head


def name(value) -> str:
    return str(value).replace("torch.", "")


def matrix() -> Iterator[Tuple[torch.dtype, int, int, bool]]:
    """(dtype, head_dim, group, causal): every three of the first, second and last, and every pair with the group."""
    rows = itertools.product(enumerate(DTYPES), enumerate(HEAD_DIMS), (False, True))
    for (i, dtype), (j, head_dim), causal in rows:
        yield dtype, head_dim, GROUPS[(i + j + causal) % len(GROUPS)], causal


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("dtype", "head_dim", "group", "causal"), list(matrix()), ids=name)
class TestMatrix:
    def test_packed(self, kernel, launcher, dtype, head_dim, group, causal):
        num_heads_kv = 1 if group == 8 else 2
        query, key, value, cu_q, cu_k = packed(LENGTHS, group * num_heads_kv, num_heads_kv, head_dim, dtype)
        window = (-1, 0) if causal else (-1, -1)
        expected, expected_lse = attention(query, key, value, cu_q, cu_k, window=window)
        arguments = (query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k))
        output, lse, _ = kernel.flash_attn_varlen_func(*arguments, causal=causal, return_attn_probs=True)
        assert_output(output, expected, value)
        assert_lse(lse, expected_lse)
        assert_output(kernel.flash_attn_varlen_func(*arguments, causal=causal), expected, value)

    def test_dense(self, kernel, launcher, dtype, head_dim, group, causal):
        window = (-1, 0) if causal else (-1, -1)
        for length_q, length_k in LENGTHS:
            query, key, value = dense(2, length_q, length_k, group, 1, head_dim, dtype)
            expected, expected_lse = attention(query, key, value, window=window)
            output, lse, _ = kernel.flash_attn_func(query, key, value, causal=causal, return_attn_probs=True)
            assert_output(output, expected, value)
            assert_lse(lse, expected_lse)
            assert_output(kernel.flash_attn_func(query, key, value, causal=causal), expected, value)


@pytest.mark.parametrize("window", [(0, 0), (5, 0), (0, 7), (31, 33), (64, 0), (-1, 3), (3, -1), (200, 200)], ids=str)
@pytest.mark.parametrize("group", [1, 8], ids="group{}".format)
def test_windows(kernel, launcher, window, group):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 8, 8 // group, 64, torch.float16)
    arguments = (query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k))
    for causal in (False, True):
        effective = (window[0], 0) if causal else window  # causal caps the right side, whatever was given
        expected, expected_lse = attention(query, key, value, cu_q, cu_k, window=effective)
        output, lse, _ = kernel.flash_attn_varlen_func(
            *arguments, causal=causal, window_size=window, return_attn_probs=True
        )
        assert_output(output, expected, value)
        assert_lse(lse, expected_lse)


@pytest.mark.fast_math
@pytest.mark.parametrize("scale", [0.0, 1e-30, 0.3, 1.0, -0.2, 30.0])
def test_softmax_scale(kernel, launcher, scale):
    """Any sign and size: 30 makes scores in the thousands, 0 makes all weights equal."""
    query, key, value = dense(1, 40, 70, 2, 1, 64, torch.float16)
    expected, expected_lse = attention(query, key, value, softmax_scale=scale)
    output, lse, _ = kernel.flash_attn_func(query, key, value, softmax_scale=scale, return_attn_probs=True)
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)


@pytest.mark.fast_math
def test_large_scores_that_grow(kernel, launcher):
    """Row maxima rise by thousands from block to block, so that every block rescales; all within fp32's reach."""
    query = torch.full((1, 33, 1, 64), 4.0)
    key = torch.linspace(0, 60, 200)[None, :, None, None].expand(1, 200, 1, 64).contiguous()
    value = dense(1, 1, 200, 1, 1, 64, torch.float32)[2]
    expected, _ = attention(query, key, value)
    assert_output(kernel.flash_attn_func(query, key, value), expected, value)


@pytest.mark.fast_math
def test_equal_scores(kernel, launcher):
    query, key = torch.zeros(1, 40, 2, 32), torch.zeros(1, 75, 1, 32)
    value = dense(1, 1, 75, 1, 1, 32, torch.float32)[2]
    output = kernel.flash_attn_func(query, key, value)
    assert_output(output, attention(query, key, value)[0], value)


def test_more_heads_than_fit_one_group(kernel, launcher):
    """heads_per_kv that is no power of two: rows straddle tokens within a tile."""
    for num_heads, num_heads_kv in [(3, 1), (12, 4), (10, 2), (71, 1)]:
        query, key, value = dense(1, 13, 29, num_heads, num_heads_kv, 64, torch.float16)
        output = kernel.flash_attn_func(query, key, value, causal=True, return_attn_probs=True)[0]
        assert_output(output, attention(query, key, value, window=(-1, 0))[0], value)


def test_same_call_same_bits(kernel, launcher):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 64, torch.bfloat16)
    arguments = (query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k))
    first, second = (kernel.flash_attn_varlen_func(*arguments, causal=True) for _ in range(2))
    assert torch.equal(first.view(torch.int16), second.view(torch.int16))
