"""What the public functions make of their arguments, whoever computes the result."""

from __future__ import annotations

import types

import pytest
import torch
from cases import dense, max_lengths, packed, random_tensor
from reference import assert_lse, assert_output, attention

LENGTHS = [(5, 9), (12, 3), (0, 4), (7, 7)]


@pytest.fixture
def batch():
    return packed(LENGTHS, 4, 2, 32, torch.float32)


@pytest.fixture
def plans(kernel):
    """Calls run on no launcher at all; the plans and tensors that one would get are collected here."""
    collected = []
    with kernel.launchers.use_launcher(lambda plan, tensors: collected.append((plan, dict(tensors)))):
        yield collected


def recorded(kernel, monkeypatch) -> list:
    """The calls that the operators get from the interface, which still run."""
    calls, attention_of = [], kernel.operators.attention

    def record(call, *rest):
        calls.append(call)
        return attention_of(call, *rest)

    monkeypatch.setattr(kernel.interface.calls, "operators", types.SimpleNamespace(attention=record))
    return calls


def test_return_values(kernel, batch):
    query, key, value, cu_q, cu_k = batch
    expected, expected_lse = attention(*batch)
    longest = max_lengths(cu_q, cu_k)
    assert isinstance(kernel.flash_attn_varlen_func(*batch, *longest), torch.Tensor)
    output, lse, probabilities = kernel.flash_attn_varlen_func(*batch, *longest, return_attn_probs=True)
    assert probabilities is None
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)

    query, key, value = dense(2, 5, 9, 4, 2, 32, torch.bfloat16)
    output, lse, probabilities = kernel.flash_attn_func(query, key, value, return_attn_probs=True)
    assert probabilities is None and output.dtype == torch.bfloat16
    assert lse.dtype == torch.float32 and lse.shape == (2, 4, 5)


@pytest.mark.parametrize("layout", ["contiguous", "heads first", "strided rows", "strided elements"])
def test_out_is_written_in_place(kernel, launcher, batch, layout):
    shape = batch[0].shape
    out = {
        "contiguous": lambda: torch.full(shape, torch.nan),
        "heads first": lambda: torch.full((shape[1], shape[0], shape[2]), torch.nan).transpose(0, 1),
        "strided rows": lambda: torch.full((shape[0], shape[1], 3 * shape[2]), torch.nan)[..., shape[2] : 2 * shape[2]],
        "strided elements": lambda: torch.full((*shape, 2), torch.nan)[..., 0],
    }[layout]()
    whole = out._base if out._base is not None else out
    assert kernel.flash_attention_varlen(out, *batch, *max_lengths(*batch[3:]), True) is None
    assert_output(out, attention(*batch, window=(-1, 0))[0], batch[2])
    assert int(whole.isnan().sum()) == whole.numel() - out.numel()  # nothing written beside it


def test_out_with_gradients(kernel, batch):
    query, key, value, cu_q, cu_k = batch
    longest = max_lengths(cu_q, cu_k)
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    out = torch.empty_like(query)
    kernel.flash_attention_varlen(out, *leaves, cu_q, cu_k, *longest)
    assert out.requires_grad
    grads = torch.autograd.grad(out.square().sum(), leaves)
    output = kernel.flash_attn_varlen_func(*leaves, cu_q, cu_k, *longest)
    expected = torch.autograd.grad(output.square().sum(), leaves)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(grads, expected))
    with torch.no_grad():
        kernel.flash_attention_varlen(torch.empty_like(query), *leaves, cu_q, cu_k, *longest)


def test_softcapping_of_one_is_none(kernel, batch):
    out = torch.empty_like(batch[0])
    kernel.flash_attention_varlen(out, *batch, *max_lengths(*batch[3:]), False, None, 1.0)
    assert_output(out, attention(*batch)[0], batch[2])


def test_scale(kernel, batch):
    expected, _ = attention(*batch, softmax_scale=0.3)
    longest = max_lengths(*batch[3:])
    out = torch.empty_like(batch[0])
    kernel.flash_attention_varlen(out, *batch, *longest, scale=0.3)
    assert_output(out, expected, batch[2])
    assert_output(kernel.flash_attn_varlen_func(*batch, *longest, softmax_scale=0.3), expected, batch[2])


def test_int64_cu_seqlens(kernel, launcher, batch):
    query, key, value, cu_q, cu_k = batch
    longest = max_lengths(cu_q, cu_k)
    expected = kernel.flash_attn_varlen_func(*batch, *longest)
    assert torch.equal(kernel.flash_attn_varlen_func(query, key, value, cu_q.long(), cu_k.long(), *longest), expected)
    every_other = torch.stack([cu_q, cu_q], dim=1).flatten()[::2]  # strided, too
    assert torch.equal(kernel.flash_attn_varlen_func(query, key, value, every_other, cu_k, *longest), expected)


def test_one_cu_seqlens_for_both(kernel, monkeypatch):
    query, key, value, cu_seqlens, _ = packed([(3, 3), (5, 5)], 2, 2, 32, torch.float32)
    calls = recorded(kernel, monkeypatch)
    kernel.flash_attn_varlen_func(query, key, value, cu_seqlens.long(), cu_seqlens.long(), 5, 5)
    both = cu_seqlens.long()
    kernel.flash_attn_varlen_func(query, key, value, both, both, 5, 5)
    two, one = calls
    assert two.cu_seqlens_q is not two.cu_seqlens_k and one.cu_seqlens_q is one.cu_seqlens_k
    assert one.cu_seqlens_q.dtype == torch.int32


def test_max_seqlen_tensor_is_not_read(kernel, batch, monkeypatch):
    calls = recorded(kernel, monkeypatch)
    unreadable = torch.empty((), dtype=torch.int64, device="meta")  # reading a meta tensor is an error
    output = kernel.flash_attn_varlen_func(*batch, unreadable, unreadable)
    assert (calls[0].max_seqlen_q, calls[0].max_seqlen_k) == (batch[0].shape[0], batch[1].shape[0])  # the bounds
    assert_output(output, attention(*batch)[0], batch[2])


@pytest.mark.parametrize(
    "window_size, causal, expected",
    [
        ((-1, -1), False, (-1, -1)),
        ((-1, -1), True, (-1, 0)),
        ((3, 3), True, (3, 0)),
        ([2, 5], False, (2, 5)),
        ((10**30, 10**30), False, (-1, -1)),  # no sequence is so long
        ((2**31 - 1, 2**31 - 2), False, (-1, 2**31 - 2)),
    ],
)
def test_windows(kernel, batch, monkeypatch, window_size, causal, expected):
    calls = recorded(kernel, monkeypatch)
    kernel.flash_attn_varlen_func(*batch, *max_lengths(*batch[3:]), window_size=window_size, causal=causal)
    assert (calls[0].window_left, calls[0].window_right) == expected


def test_strided_tensors_are_not_copied(kernel, plans):
    fused = random_tensor(0, 2, 6, 4 + 2 + 2, 64)  # one projection for all three
    query, key, value = fused.split([4, 2, 2], dim=2)
    kernel.flash_attn_func(query, key, value)
    cache = random_tensor(1, 2, 2, 6, 64).transpose(1, 2)  # heads first
    kernel.flash_attn_func(query, cache, cache)
    for (_, tensors), (q, k, v) in zip(plans, [(query, key, value), (query, cache, cache)]):
        for name, tensor in (("query", q), ("key", k), ("value", v)):
            assert tensors[name].data_ptr() == tensor.data_ptr() and tensors[name].stride() == tensor.stride()


def test_strided_last_dimension_is_copied(kernel, plans):
    query, key, value = dense(2, 6, 6, 4, 2, 64, torch.float32)
    strided = random_tensor(3, 2, 6, 2, 64, 2)[..., 0]
    kernel.flash_attn_func(query, strided, value)
    tensors = plans[0][1]
    assert tensors["key"].is_contiguous() and torch.equal(tensors["key"], strided)
    assert tensors["value"].data_ptr() == value.data_ptr()


def test_strided_results(kernel, launcher):
    key = random_tensor(0, 2, 2, 9, 64, 2).permute(0, 2, 1, 3, 4)  # heads first, last dimension strided
    query = random_tensor(1, 2, 5, 12, 64)[:, :, 3:7]
    expected, _ = attention(query, key[..., 0], key[..., 1])
    assert_output(kernel.flash_attn_func(query, key[..., 0], key[..., 1]), expected, key)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_launch(kernel, plans, shape):
    query, key, value, cu_q, cu_k = packed([shape], 2, 2, 64, torch.float32)
    output, lse, _ = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, *shape, return_attn_probs=True)
    assert torch.equal(output, torch.zeros_like(query))
    assert torch.equal(lse, torch.full((2, shape[0]), -torch.inf))
    assert not plans


def test_empty_batch(kernel, launcher):
    query, key, value = (random_tensor(seed, 4, 2, 64) for seed in range(3))
    nothing = torch.zeros(1, dtype=torch.int32)
    output = kernel.flash_attn_varlen_func(query, key, value, nothing, nothing, 0, 0)
    assert torch.equal(output, torch.zeros_like(query))
    assert kernel.flash_attn_func(*(tensor[None][:0] for tensor in (query, key, value))).shape == (0, 4, 2, 64)
