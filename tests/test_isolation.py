"""Results depend on a sequence's own rows and keys alone, and metadata that lies harms nobody else.

Levels: CPU implementation; simulation, and its checker for accesses outside a tensor.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import LENGTHS, call_of, dense, max_lengths, packed, poisoned, random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher

NAN = math.nan


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [32, 72, 128])
def test_nan_around_packed_tensors(kernel, launcher, dtype, head_dim):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, head_dim, dtype)
    rest = (cu_q, cu_k, *max_lengths(cu_q, cu_k))
    plain = kernel.flash_attn_varlen_func(query, key, value, *rest, causal=True)
    views = [poisoned(tensor) for tensor in (query, key, value)]
    output = kernel.flash_attn_varlen_func(*views, *rest, causal=True)
    if launcher != "cpu":  # the CPU implementation may choose its sums by the strides
        assert torch.equal(output, plain)
    assert_output(output, attention(query, key, value, cu_q, cu_k, window=(-1, 0))[0], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_nan_around_dense_tensors(kernel, launcher, dtype):
    for length_q, length_k in [(1, 38), (38, 39), (70, 70), (33, 7)]:
        tensors = dense(3, length_q, length_k, 4, 2, 64, dtype)
        for causal in (False, True):
            output, lse, _ = kernel.flash_attn_func(
                *(poisoned(tensor) for tensor in tensors), causal=causal, return_attn_probs=True
            )
            expected, expected_lse = attention(*tensors, window=(-1, 0 if causal else -1))
            assert_output(output, expected, tensors[2])
            assert_lse(lse, expected_lse)


def test_nan_in_other_sequences(kernel, launcher):
    """Poisoning one sequence changes no bit of another."""
    lengths = [(33, 40), (7, 75), (40, 33), (130, 130)]
    query, key, value, cu_q, cu_k = packed(lengths, 4, 2, 64, torch.float16)
    rest = (cu_q, cu_k, *max_lengths(cu_q, cu_k))
    clean = kernel.flash_attn_varlen_func(query, key, value, *rest, causal=True)
    for victim in range(len(lengths)):
        q0, q1, k0, k1 = (int(x) for x in (*cu_q[victim : victim + 2], *cu_k[victim : victim + 2]))
        dirty = [tensor.clone() for tensor in (query, key, value)]
        dirty[0][q0:q1], dirty[1][k0:k1], dirty[2][k0:k1] = NAN, NAN, NAN
        output = kernel.flash_attn_varlen_func(*dirty, *rest, causal=True)
        others = torch.ones(len(output), dtype=torch.bool)
        others[q0:q1] = False
        assert torch.equal(output[others], clean[others])
        seeing = slice(max(q0, q1 - (k1 - k0)), q1)  # the first queries of (40, 33) see no key, not even a poisoned one
        assert output[seeing].isnan().all()


def test_blocks_beyond_the_window_are_not_touched(kernel, launcher):
    """The first key that anyone sees is 251; blocks of keys before it, of any kernel's size, may hold anything."""
    query, key, value = dense(1, 40, 300, 2, 2, 64, torch.float32)
    expected = attention(query, key, value, window=(9, 0))[0]
    key[:, :192], value[:, :192] = NAN, NAN
    output = kernel.flash_attn_func(query, key, value, causal=True, window_size=(9, 0))
    assert_output(output, expected, torch.nan_to_num(value))


def test_tokens_of_no_sequence_are_zero(kernel, launcher):
    """cu_seqlens may start late and end early; every row of the output is written all the same."""
    query, key, value = (random_tensor(seed, 150, 4, 64) for seed in range(3))
    cu_q, cu_k = torch.tensor([40, 60, 60, 97], dtype=torch.int32), torch.tensor([3, 50, 80, 120], dtype=torch.int32)
    expected, expected_lse = attention(query, key, value, cu_q, cu_k)
    output, lse, _ = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 60, 60, return_attn_probs=True)
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)
    assert not output[:40].any() and not output[97:].any()


def test_no_sequence_at_all(kernel, launcher):
    query, key, value = (random_tensor(seed, 37, 2, 64) for seed in range(3))
    cu = torch.zeros(1, dtype=torch.int32)
    output, lse, _ = kernel.flash_attn_varlen_func(query, key, value, cu, cu, 0, 0, return_attn_probs=True)
    assert not output.any() and (lse == -math.inf).all()


@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_order_of_threads_changes_no_bit(kernel, order):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 64, torch.float16)
    arguments = (query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k))
    results = []
    for launcher in (SimulatedLauncher(), SimulatedLauncher(order=order)):
        with kernel.launchers.use_launcher(launcher):
            results.append(kernel.flash_attn_varlen_func(*arguments, causal=True))
        assert launcher.launches == 1
    assert torch.equal(*results)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    bounds_q=st.lists(st.integers(-(2**31), 2**31 - 1) | st.integers(-20, 120), min_size=1, max_size=6),
    data=st.data(),
)
def test_lying_cu_seqlens_stay_inside_the_tensors(kernel, bounds_q, data):
    """Values of cu_seqlens at random: the checker sees no access outside a tensor. Sequences that overlap may well have
    their rows written twice."""
    bounds_k = data.draw(
        st.lists(
            st.integers(-(2**31), 2**31 - 1) | st.integers(-20, 90), min_size=len(bounds_q), max_size=len(bounds_q)
        )
    )
    query, key, value = random_tensor(0, 100, 2, 32), random_tensor(1, 70, 1, 32), random_tensor(2, 70, 1, 32)
    cu_q, cu_k = (torch.tensor(bounds, dtype=torch.int32) for bounds in (bounds_q, bounds_k))
    launcher = SimulatedLauncher(check=True, ignore=["race between threadgroups"])
    with kernel.launchers.use_launcher(launcher):
        kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 100, 70, causal=True)
    output = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 100, 70, causal=True)
    assert not output.isnan().any()


ANY_INT = st.integers(-(2**31), 2**31 - 1) | st.integers(-5, 60)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(used=st.lists(ANY_INT, min_size=2, max_size=2), pages=st.lists(ANY_INT, min_size=6, max_size=6))
def test_lying_pages_and_used_lengths_stay_inside_the_tensors(kernel, used, pages):
    """Values of block_table and seqused_k at random, packed and dense queries: the checker sees nothing outside."""
    cache = random_tensor(0, 4, 16, 1, 32)
    table, seqused_k = torch.tensor(pages, dtype=torch.int32).view(2, 3), torch.tensor(used, dtype=torch.int32)
    cu_q, cu_k = torch.tensor([0, 3, 9], dtype=torch.int32), torch.tensor([pages[0], used[0], 5], dtype=torch.int32)
    packed_query, dense_query = random_tensor(1, 9, 2, 32), random_tensor(1, 2, 5, 2, 32)
    paged = {"block_table": table, "max_seqlen_q": 9, "max_seqlen_k": 48, "window_right": 0}
    packed_paged = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, **paged}
    calls = [
        call_of(kernel, packed_query, cache, cache, seqused_k=seqused_k, **packed_paged),
        call_of(kernel, packed_query, cache, cache, **packed_paged),
        call_of(kernel, dense_query, cache, cache, seqused_k=seqused_k, **paged),
        call_of(kernel, dense_query, cache[:2], cache[:2], seqused_k=seqused_k, window_right=0),
    ]
    for call in calls:
        with kernel.launchers.use_launcher(SimulatedLauncher(check=True)):
            launched, _, _ = kernel.operators.attention_forward(*call, True, False)
        output, _, _ = kernel.operators.attention_forward(*call, True, False)
        torch.testing.assert_close(launched, output, rtol=1e-4, atol=1e-5)  # both clamp to the same keys
