"""attn_bias where its strides, lengths or neighbours are unusual: the same answer as for an ordinary one, or an error.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import DTYPES, random_tensor
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher


def dense(seqlen_q=5, seqlen_k=9, dtype=torch.float32, num_heads=4, num_heads_kv=2, batch=2):
    shapes = (batch, seqlen_q, num_heads, 32), (batch, seqlen_k, num_heads_kv, 32), (batch, seqlen_k, num_heads_kv, 32)
    return [random_tensor(seed, *shape, dtype=dtype) for seed, shape in enumerate(shapes)]


def check(result, inputs, bias, **keywords):
    expected, expected_lse = attention(*inputs, attn_bias=bias, softmax_scale=32**-0.5, window=(-1, -1), **keywords)
    output, lse, _ = result
    assert_output(output, expected, inputs[2])
    assert_lse(lse, expected_lse)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
@pytest.mark.parametrize("is_expanded", [False, True])
def test_a_short_last_axis_hides_keys_whatever_its_stride(kernel, launcher, kind, is_expanded):
    """max_seqlen_k on the device: nothing can be checked, and keys without a column are not seen."""
    query, key, value = (tensor.flatten(0, 1) for tensor in dense())
    cu_q, cu_k = torch.tensor([0, 5, 10], dtype=torch.int32), torch.tensor([0, 9, 18], dtype=torch.int32)
    bias = torch.ones(1, 1, 1, dtype=kind).expand(-1, -1, 4)
    bias = bias if is_expanded else bias.contiguous()
    result = kernel.flash_attn_varlen_func(
        query, key, value, cu_q, cu_k, 5, torch.tensor(9), attn_bias=bias, return_attn_probs=True
    )
    check(result, (query, key, value), bias, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)


@pytest.mark.parametrize("length", [9, np.int64(9), None])
def test_a_cache_refuses_a_bias_that_is_too_short(kernel, length):
    query, key, value = dense()
    bias = torch.zeros(2, 1, 5, 4)
    with pytest.raises(ValueError, match="attn_bias must have the shape"):
        kernel.flash_attn_with_kvcache(query, key, value, cache_seqlens=length, attn_bias=bias)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 4, 1, 9), (2, 1, 5, 1)])
def test_gradient_of_an_expanded_bias(kernel, shape):
    query, key, value = dense()
    grads = []
    for expand in (True, False):
        leaf = random_tensor(7, *shape).requires_grad_()
        bias = leaf.expand(2, 4, 5, 9)
        output = kernel.flash_attn_func(query, key, value, attn_bias=bias if expand else bias.contiguous())
        (output * torch.arange(32.0)).sum().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("large", [1.0, 3e4])
def test_what_a_mask_hides_may_be_odd_keys(kernel, launcher, large):
    """A key that no row sees does no harm, also beside rows whose scores are large."""
    query, key, value = dense()
    query[0, 0] *= large
    mask = torch.ones(9, dtype=torch.bool)
    mask[3] = False
    clean = kernel.flash_attn_func(query, key, value, attn_bias=mask)
    key[:, 3] = math.nan
    torch.testing.assert_close(kernel.flash_attn_func(query, key, value, attn_bias=mask), clean, rtol=0, atol=0)


@pytest.mark.sampled(3)
@pytest.mark.fast_math
@pytest.mark.parametrize("dtype", DTYPES)
def test_blind_rows_and_the_gradient_of_sinks(kernel, launcher, dtype):
    """Where the log-sum-exp has a gradient, rows without keys give the sinks none, and no NaN."""
    query, key, value = (tensor.requires_grad_() for tensor in dense(dtype=dtype))
    sinks = random_tensor(4, 4).requires_grad_()
    mask = torch.ones(5, 9, dtype=torch.bool)
    mask[::2] = False
    output, lse, _ = kernel.flash_attn_func(query, key, value, attn_bias=mask, s_aux=sinks, return_attn_probs=True)
    assert (output[:, ::2] == 0).all() and (lse[:, :, ::2] == -math.inf).all()
    grads = torch.autograd.grad((output, lse), (query, key, value, sinks), (output + 1, torch.ones_like(lse)))
    kept = [
        query.detach()[:, 1::2].contiguous().requires_grad_(),
        *(t.detach().requires_grad_() for t in (key, value, sinks)),
    ]
    output, lse, _ = kernel.flash_attn_func(*kept[:3], s_aux=kept[3], return_attn_probs=True)
    expected = torch.autograd.grad((output, lse), kept, (output + 1, torch.ones_like(lse)))
    assert (grads[0][:, ::2] == 0).all()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2  # two roundings to bf16: other tiles add up in another order
    for ours, other in zip((grads[0][:, 1::2], *grads[1:]), expected):
        torch.testing.assert_close(ours, other, rtol=tolerance, atol=tolerance)


@pytest.mark.fast_math
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_number_on_every_key(kernel, launcher, dtype):
    """As transformers masks: a row of finfo.min alone stays finite; beside other keys these weigh nothing."""
    query, key, value = dense()
    bias = torch.zeros(5, 9, dtype=dtype)
    bias[0] = torch.finfo(dtype).min
    bias[1:, 4:] = torch.finfo(dtype).min
    bias = bias.view(1, 1, 5, 9)
    output, lse, _ = kernel.flash_attn_func(query, key, value, attn_bias=bias, return_attn_probs=True)
    expected, _ = attention(query, key, value, attn_bias=bias, softmax_scale=32**-0.5, window=(-1, -1))
    assert output.isfinite().all() and lse.isfinite().all()
    # fp32 rounds the scores of the first row to a multiple of 2^-8 of fp16's lowest number; those of the others not.
    torch.testing.assert_close(output[:, 1:].double(), expected[:, 1:], rtol=0, atol=2e-5)
    torch.testing.assert_close(output[:, :1].double(), expected[:, :1], rtol=0, atol=1e-2)


def test_out_must_not_be_the_bias(kernel, launcher):
    query, key, value = (tensor.flatten(0, 1) for tensor in dense())
    cu_q, cu_k = torch.tensor([0, 5, 10], dtype=torch.int32), torch.tensor([0, 9, 18], dtype=torch.int32)
    out = torch.zeros(10, 4, 32)
    bias = out.view(-1)[: 4 * 10 * 9].view(4, 10, 9)
    with pytest.raises(ValueError, match="attn_bias"):
        kernel.flash_attention_varlen(out, query, key, value, cu_q, cu_k, 5, 9, attn_bias=bias)


def test_the_gradient_of_a_bias_is_refused_before_the_forward(kernel):
    query, key, value = dense()
    launched = []
    launcher = SimulatedLauncher()

    def count(*arguments):
        launched.append(1)
        return launcher(*arguments)

    bias = torch.zeros(2, 4, 5, 9, requires_grad=True)
    with kernel.launchers.use_launcher(count), pytest.raises(NotImplementedError, match="attn_bias"):
        kernel.flash_attn_func(query, key, value, attn_bias=bias)
    assert not launched


@pytest.mark.parametrize("slots", [12, 16])
@pytest.mark.parametrize("rows", [None, [2, 0]])
@pytest.mark.parametrize("leftpad", [None, [3, 1]])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_columns_of_a_cache_are_its_slots(kernel, launcher, slots, rows, leftpad, kind):
    query, key, value = dense(3, slots, batch=2)
    key, value = (torch.cat([t, t.flip(1)])[:3] for t in (key, value))
    lengths = torch.tensor([8, 10], dtype=torch.int32)
    bias = random_tensor(5, 2, 4, 3, slots)
    bias = bias > -0.8 if kind == torch.bool else bias
    output, lse = kernel.flash_attn_with_kvcache(
        query, key, value, cache_seqlens=lengths, attn_bias=bias, causal=True, return_softmax_lse=True,
        cache_batch_idx=None if rows is None else torch.tensor(rows, dtype=torch.int32),
        cache_leftpad=None if leftpad is None else torch.tensor(leftpad, dtype=torch.int32),
    )  # fmt: skip
    for b in range(2):
        row, begin, end = b if rows is None else rows[b], 0 if leftpad is None else leftpad[b], int(lengths[b])
        one = [t[None] for t in (query[b], key[row, begin:end], value[row, begin:end])]
        expected, expected_lse = attention(
            *one, attn_bias=bias[b : b + 1, ..., begin:end], softmax_scale=32**-0.5, window=(-1, 0)
        )
        assert_output(output[b : b + 1], expected, one[2])
        assert_lse(lse[b : b + 1], expected_lse)


def test_autocast_and_transforms(kernel):
    query, key, value = dense()
    bias = random_tensor(3, 1, 4, 5, 9)
    with torch.autocast("cpu", torch.bfloat16):
        inside = kernel.flash_attn_func(query, key, value, attn_bias=bias)
    assert torch.equal(inside, kernel.flash_attn_func(query, key, value, attn_bias=bias))
    grad = torch.func.grad(lambda b: kernel.flash_attn_func(query, key, value, attn_bias=b).square().sum())(bias)
    leaf = bias.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(
        lambda b: kernel.flash_attn_func(query, key, value, attn_bias=b), leaf, use_reentrant=False
    ).square().sum().backward()
    torch.testing.assert_close(grad, leaf.grad)


@pytest.mark.parametrize("shape", [(5, 9), (4, 5, 9), (2, 1, 1, 9), (1, 1, 1, 1)])
def test_compile(kernel, shape):
    def call(*inputs):
        return kernel.flash_attn_func(*inputs[:3], attn_bias=inputs[3], causal=True)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    inputs = [*dense(), random_tensor(3, *shape)]
    torch.testing.assert_close(compiled(*inputs), call(*inputs), rtol=0, atol=0)


def test_gradients_beside_odd_keys_that_a_mask_hides(kernel):
    """On the CPU, what a mask hides may be odd in values, too, and gradients stay those of the other keys."""
    query, key, value = dense()
    query[0, 0] *= 3e4
    mask = torch.ones(9, dtype=torch.bool)
    mask[3] = False
    results = []
    for odd in (0.0, math.nan):
        key[:, 3] = value[:, 3] = odd
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        output = kernel.flash_attn_func(*leaves, attn_bias=mask)
        results.append([output, *torch.autograd.grad(output.sum(), leaves)])
    for clean, beside in zip(*results):
        torch.testing.assert_close(beside, clean, rtol=1e-5, atol=1e-5)
