"""The CPU implementation: chunks, memory, gradients. (Its numbers on many shapes: tests/test_attention.py.)"""

from __future__ import annotations

import pytest
import torch
from cases import call_of, dense, max_lengths, packed, random_tensor
from chunks import LargestTensor, call_directly, chunk_sizes
from reference import assert_gradients, assert_lse, assert_output, attention, gradients

LENGTHS = [(40, 40), (7, 33), (33, 7), (1, 50), (0, 5), (5, 0), (64, 64)]
WINDOWS = [(-1, -1), (-1, 0), (5, 0), (4, 4), (-1, 3), (3, -1), (0, 0)]


@pytest.mark.parametrize("return_lse", [False, True], ids=["fused", "weights"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("scores, rows", [(1, 1), (700, 4), (7 * 50 * 4, 64)])
def test_chunk_boundaries(kernel, monkeypatch, scores, rows, window, return_lse):
    chunk_sizes(kernel, monkeypatch, scores, rows)
    batch = packed(LENGTHS, 4, 2, 32, torch.float32)
    expected, expected_lse = attention(*batch, window=window)
    result = kernel.flash_attn_varlen_func(
        *batch, *max_lengths(*batch[3:]), window_size=window, return_attn_probs=return_lse
    )
    assert_output(result[0] if return_lse else result, expected, batch[2])
    if return_lse:
        assert_lse(result[1], expected_lse)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_are_not_rounded(kernel, dtype):
    """Values that nearly cancel: the output is small and so is its rounding; that of the weights would stand out."""
    query, key, value = dense(1, 64, 4, 2, 2, 64, dtype)
    value = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=dtype)[None, :, None, None] + value / 64
    expected, _ = attention(query, key, value)
    assert_output(kernel.flash_attn_func(query, key, value), expected, value)


@pytest.mark.parametrize("scale", [-0.3, 0.0, 1e-30])
@pytest.mark.parametrize("return_lse", [False, True], ids=["fused", "weights"])
def test_causal_with_any_scale(kernel, scale, return_lse):
    """PyTorch's fused attention gives NaN for causal scores with a scale that is not positive."""
    query, key, value = dense(2, 9, 9, 2, 2, 32, torch.float32)
    expected, _ = attention(query, key, value, softmax_scale=scale, window=(-1, 0))
    result = kernel.flash_attn_func(query, key, value, softmax_scale=scale, causal=True, return_attn_probs=return_lse)
    assert_output(result[0] if return_lse else result, expected, value)


# seqlen_q, seqlen_k, window_size, return_lse
LONG = [
    (4096, 6144, (-1, 0), False),
    (4096, 6144, (255, 0), False),
    (1024, 6144, (-1, -1), True),
    (2048, 6144, (-1, 0), True),
]


@pytest.mark.parametrize("seqlen_q, seqlen_k, window, return_lse", LONG)
def test_memory_is_bounded(kernel, monkeypatch, seqlen_q, seqlen_k, window, return_lse):
    chunk_sizes(kernel, monkeypatch, 2**17, 1)
    call_directly(kernel, monkeypatch)
    query, key, value = dense(1, seqlen_q, seqlen_k, 2, 2, 16, torch.float32)
    with LargestTensor() as largest:
        kernel.flash_attn_func(query, key, value, window_size=window, return_attn_probs=return_lse)
    assert largest.elements <= max(2**17, 2 * key.numel())  # the fused attention reorders keys and values at once
    assert 4 * largest.elements < seqlen_q * seqlen_k


def test_memory_of_the_backward_is_bounded(kernel, monkeypatch):
    chunk_sizes(kernel, monkeypatch, 2**17, 1)
    call_directly(kernel, monkeypatch)
    query, key, value = dense(1, 1024, 4096, 2, 2, 16, torch.float32)
    operator = kernel.operators.attention_backward
    with LargestTensor() as largest:
        operator(query, None, *call_of(kernel, query, key, value, window_right=0), None, None, True, False)
    assert largest.elements <= max(2**17, key.numel())


def one_sequence(cpu, seqlen_q, seqlen_k):
    return cpu._Sequences(slice(0, 1), slice(0, 1), slice(0, seqlen_q), slice(0, seqlen_k), None)


def test_default_chunks_are_bounded(kernel):
    """Whatever the length: from 2**20 scores a chunk, up to 2**24 to keep 64 rows together, more only for one row."""
    cpu = kernel.operators.cpu
    for seqlen_k in (1000, 10_000, 100_000, 1_000_000):
        for fused in (False, True):
            call = call_of(kernel, *dense(1, 1, 1, 8, 8, 16, torch.float32), window_right=0)
            chunk = next(cpu._chunks(one_sequence(cpu, seqlen_k // 2, seqlen_k), call, slice(0, seqlen_k // 2), fused))
            rows = chunk.rows.stop - chunk.rows.start
            scores = rows * (chunk.keys.stop - chunk.keys.start) * (1 if fused else 8)
            assert scores <= 2**20 or (rows <= 64 and scores <= 2**24) or rows == 1


@pytest.mark.parametrize("window", [(31, 0), (255, 0), (128, 128)], ids=str)
def test_cost_of_a_window(kernel, window):
    """Proportional to the keys that are seen, not to all of them."""
    tensors = dense(1, 1, 1, 8, 8, 16, torch.float32)
    call = call_of(kernel, *tensors, window_left=window[0], window_right=window[1])
    cpu = kernel.operators.cpu
    chunks = list(cpu._chunks(one_sequence(cpu, 8192, 8192), call, slice(0, 8192), True))
    scores = sum((chunk.rows.stop - chunk.rows.start) * (chunk.keys.stop - chunk.keys.start) for chunk in chunks)
    assert scores <= 8192 * 3 * (1 + sum(window))
    assert len(chunks) <= 8192 // 64


@pytest.mark.parametrize("begin, end", [(3, 4), (0, 0), (2, 0)])
def test_neighbours_do_not_leak(kernel, begin, end):
    """NaN before, between and after sequences, and in the gaps of strided tensors."""
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 32, torch.float32)
    expected, expected_lse = attention(query, key, value, cu_q, cu_k)
    inputs = []
    for tensor in (query, key, value):
        poisoned = torch.full((begin + tensor.shape[0] + end, tensor.shape[1] + 1, 40), torch.nan)
        poisoned[begin : begin + tensor.shape[0], 1:, 4:36] = tensor
        inputs.append(poisoned[:, 1:, 4:36])
    output, lse, _ = kernel.flash_attn_varlen_func(*inputs, cu_q + begin, cu_k + begin, 64, 64, return_attn_probs=True)
    alone = kernel.flash_attn_varlen_func(*inputs, cu_q + begin, cu_k + begin, 64, 64)
    inside = slice(begin, begin + query.shape[0])
    assert_output(output[inside], expected, value)
    assert_output(alone[inside], expected, value)
    assert_lse(lse[:, inside], expected_lse)
    for outside in (slice(0, begin), slice(inside.stop, None)):
        assert not output[outside].any() and not alone[outside].any()
        assert (lse[:, outside] == -torch.inf).all()


@pytest.mark.parametrize("cu_seqlens", [[-5, 3, 6], [0, 5, 2, 6], [0, 4, 1000], [9, 9], [6, 0], [-(2**31), 2**31 - 1]])
def test_lying_cu_seqlens_are_clamped(kernel, cu_seqlens):
    """The result is some attention over the tensors' own rows: finite, with every row written."""
    query, key, value = (random_tensor(seed, 6, 2, 32) for seed in range(3))
    lying = torch.tensor(cu_seqlens, dtype=torch.int32)
    output, lse, _ = kernel.flash_attn_varlen_func(query, key, value, lying, lying, 6, 6, return_attn_probs=True)
    out = torch.full_like(query, torch.nan)
    kernel.flash_attention_varlen(out, query, key, value, lying, lying, 6, 6)
    for result in (output, out):
        assert result.isfinite().all() and result.abs().max() <= value.abs().max() * (1 + 1e-6)
    assert not lse.isnan().any()
    query.requires_grad_()
    output = kernel.flash_attn_varlen_func(query, key, value, lying, lying, 6, 6)
    assert torch.autograd.grad(output.sum(), query)[0].isfinite().all()


@pytest.mark.parametrize("with_lse", [False, True], ids=["output", "output and lse"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("num_heads_kv", [4, 2, 1])
@pytest.mark.parametrize("scores", [2**20, 600])
def test_gradients_packed(kernel, monkeypatch, scores, num_heads_kv, window, with_lse):
    chunk_sizes(kernel, monkeypatch, scores, 1)
    *inputs, cu_q, cu_k = packed(LENGTHS, 4, num_heads_kv, 16, torch.float32)
    inputs = [tensor.requires_grad_() for tensor in inputs]
    output, lse, _ = kernel.flash_attn_varlen_func(
        *inputs, cu_q, cu_k, 64, 64, window_size=window, softmax_scale=0.3, return_attn_probs=True
    )
    grad_output, grad_lse = random_tensor(7, *output.shape), random_tensor(8, *lse.shape) * with_lse
    outputs, grad_outputs = ([output, lse], [grad_output, grad_lse]) if with_lse else ([output], [grad_output])
    grads = torch.autograd.grad(outputs, inputs, grad_outputs)
    arguments = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "softmax_scale": 0.3, "window": window}
    expected = gradients(inputs, grad_output, grad_lse, **arguments)
    assert_gradients(grads, expected, inputs, torch.float32)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(20, 20), (5, 33), (33, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_gradients_dense(kernel, dtype, seqlen_q, seqlen_k, causal):
    inputs = [tensor.requires_grad_() for tensor in dense(3, seqlen_q, seqlen_k, 4, 2, 32, dtype)]
    output = kernel.flash_attn_func(*inputs, causal=causal)
    grad_output = random_tensor(7, *output.shape, dtype=dtype)
    grads = torch.autograd.grad(output, inputs, grad_output)
    expected = gradients(inputs, grad_output, window=(-1, 0) if causal else (-1, -1))
    assert_gradients(grads, expected, inputs, dtype)


def test_gradient_of_lse_alone(kernel):
    inputs = [tensor.requires_grad_() for tensor in dense(1, 6, 9, 2, 1, 16, torch.float32)]
    _, lse, _ = kernel.flash_attn_func(*inputs, return_attn_probs=True)
    grads = torch.autograd.grad(lse.sum(), inputs)
    expected = gradients(inputs, torch.zeros(1, 6, 2, 16), torch.ones_like(lse))
    assert_gradients(grads, expected, inputs, torch.float32)


def test_second_derivatives_are_refused(kernel):
    """Not left out: a gradient penalty beside another loss would lose its part without a word."""
    query, key, value = (tensor.requires_grad_() for tensor in dense(1, 6, 6, 2, 2, 16, torch.float32))
    grad = torch.autograd.grad(kernel.flash_attn_func(query, key, value).sum(), query, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="second derivatives of attention are not implemented"):
        (query.sum() + grad.sum()).backward()


@pytest.mark.parametrize("return_lse", [False, True], ids=["fused", "weights"])
def test_same_bits_twice(kernel, return_lse):
    inputs = [tensor.requires_grad_() for tensor in dense(2, 70, 90, 4, 2, 32, torch.float32)]

    def run():
        result = kernel.flash_attn_func(*inputs, causal=True, return_attn_probs=return_lse)
        output = result[0] if return_lse else result
        return output, *torch.autograd.grad(output.sum(), inputs)

    assert all(torch.equal(first, second) for first, second in zip(run(), run()))
