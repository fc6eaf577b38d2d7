"""Dropout: against float64 with the same mask, its gradients, its statistics, its memory. Level: CPU implementation.

The mask is read off the public function: with the identity as value, the output is the weights, 0 where dropped.
"""

from __future__ import annotations

import philox
import pytest
import torch
from cases import call_of, dense, packed, random_tensor
from chunks import LargestTensor, call_directly, chunk_sizes
from reference import assert_lse, assert_output, attention

LENGTHS = [(20, 40), (33, 7), (0, 5), (17, 17)]
SLOPES, SINKS = torch.tensor([0.05, 0.0, 0.1, 0.02]), torch.tensor([0.7, -1.5, 1.0, 0.0])
# By name: arguments of the public function, and of the reference.
FEATURES = {
    "none": ({}, {}),
    "causal": ({"causal": True}, {"window": (-1, 0)}),
    "window": ({"window_size": (9, 3)}, {"window": (9, 3)}),
    "all": (
        {"causal": True, "softcap": 5.0, "alibi_slopes": SLOPES, "s_aux": SINKS},
        {"window": (-1, 0), "softcap": 5.0, "alibi_slopes": SLOPES, "sinks": SINKS},
    ),
}


def identity(key: torch.Tensor) -> torch.Tensor:
    """As value: key j has a 1 at j. [..., keys, heads_kv, keys]"""
    keys, heads = key.shape[-3:-1]
    return torch.eye(keys, dtype=key.dtype).unsqueeze(1).expand(*key.shape[:-3], keys, heads, keys)


def apply(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """weights [..., queries, heads, keys] on value [..., keys, heads_kv, head_dim]."""
    value = value.repeat_interleave(weights.shape[-2] // value.shape[-2], dim=-2)
    return torch.einsum("...qhk,...khd->...qhd", weights, value.double())


def seeded(function, *arguments, **keywords):
    torch.manual_seed(11)
    return function(*arguments, **keywords)


def dropped_weights(function, query, key, *rest, **arguments) -> torch.Tensor:
    """1 where a weight is kept, else 0, float64 [..., queries, heads, keys]; the same for every value."""
    return (seeded(function, query, key, identity(key), *rest, **arguments) != 0).double()


@pytest.mark.parametrize("features, reference", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("scores, rows", [(2**20, 64), (300, 4)], ids=["whole", "chunks"])
@pytest.mark.parametrize("dropout_p", [0.25, 0.9])
def test_dense(kernel, monkeypatch, dropout_p, scores, rows, features, reference):
    """Output, log-sum-exp and gradients, for whatever the mask is."""
    chunk_sizes(kernel, monkeypatch, scores, rows)
    query, key, _ = dense(2, 20, 40, 4, 2, 16, torch.float32)
    value = random_tensor(3, 2, 40, 2, 24)
    arguments = {"dropout_p": dropout_p, **features}
    kept = dropped_weights(kernel.flash_attn_func, query, key, **arguments)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    output, lse, _ = seeded(kernel.flash_attn_func, *leaves, return_attn_probs=True, **arguments)
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    weights, expected_lse = attention(exact[0], exact[1], identity(exact[1]), **reference)
    expected = apply(weights * kept * philox.factor(dropout_p), exact[2])
    torch.testing.assert_close(
        output.double(), expected, rtol=0, atol=5e-6 * float(value.detach().abs().max() / (1 - dropout_p))
    )
    assert_lse(lse.detach(), expected_lse.detach())
    grad_output, grad_lse = random_tensor(7, *output.shape), random_tensor(8, *lse.shape)
    grads = torch.autograd.grad([output, lse], leaves, [grad_output, grad_lse])
    seen = torch.isfinite(expected_lse)
    loss = (expected * grad_output).sum() + (expected_lse[seen] * grad_lse[seen]).sum()
    for grad, exact_grad in zip(grads, torch.autograd.grad(loss, exact)):
        torch.testing.assert_close(grad.double(), exact_grad, rtol=0, atol=2e-5 * float(1 + exact_grad.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_packed(kernel, dtype):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 32, dtype)
    rest = (cu_q, cu_k, 33, 40)
    kept = dropped_weights(kernel.flash_attn_varlen_func, query, key, *rest, dropout_p=0.3, causal=True)
    weights, expected_lse = attention(query, key, identity(key), cu_q, cu_k, window=(-1, 0))
    output, lse, _ = seeded(
        kernel.flash_attn_varlen_func, query, key, value, *rest, dropout_p=0.3, causal=True, return_attn_probs=True
    )
    assert_output(output, apply(weights * kept * philox.factor(0.3), value), value)
    assert_lse(lse, expected_lse)


def test_gradient_of_sinks(kernel):
    query, key, value = dense(1, 9, 13, 4, 2, 16, torch.float32)
    sinks = SINKS.clone().requires_grad_()
    kept = dropped_weights(kernel.flash_attn_func, query, key, dropout_p=0.4, s_aux=SINKS)
    output = seeded(kernel.flash_attn_func, query, key, value, dropout_p=0.4, s_aux=sinks)
    exact = SINKS.double().requires_grad_()
    expected = apply(attention(query, key, identity(key), sinks=exact)[0] * kept * philox.factor(0.4), value)
    grad, exact_grad = (torch.autograd.grad(x.square().sum(), y)[0] for x, y in ((output, sinks), (expected, exact)))
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_statistics(kernel, dropout_p):
    """Every weight is dropped with that probability, independently of the others; five standard deviations."""
    query, key, _ = dense(4, 128, 128, 4, 4, 8, torch.float32)
    kept = dropped_weights(kernel.flash_attn_func, query, key, dropout_p=dropout_p)
    spread = 5 * (dropout_p * (1 - dropout_p)) ** 0.5

    def near(mean, count):
        return ((mean - (1 - dropout_p)).abs() <= spread / count**0.5).all()

    assert near(kept.mean(), kept.numel())
    assert near(kept.mean(dim=(0, 1, 2)), kept[..., 0].numel())  # of each key
    assert near(kept.mean(dim=(0, 2, 3)), kept[:, 0].numel())  # of each query
    assert near(kept.mean(dim=(0, 1, 3)), kept[:, :, 0].numel())  # of each head
    centred = kept - kept.mean()
    for axis in range(4):  # neighbours, also of other sequences
        covariance = (centred * centred.roll(1, axis)).mean().abs()
        assert covariance <= spread**2 / kept.numel() ** 0.5, axis


def test_mean_over_many_masks(kernel):
    """It is the output without dropout: the kept weights are scaled up."""
    query, key, value = dense(1, 8, 30, 2, 2, 8, torch.float32)
    torch.manual_seed(0)
    outputs = torch.stack([kernel.flash_attn_func(query, key, value, 0.5) for _ in range(2000)]).double()
    error = (outputs.mean(0) - attention(query, key, value)[0]).abs()
    assert (error <= 5.5 * outputs.std(0) / 2000**0.5).all()


def test_the_generator_decides(kernel):
    query, key, value = dense(2, 20, 40, 4, 2, 16, torch.float32)
    first, again = (seeded(kernel.flash_attn_func, query, key, value, 0.5) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(again, kernel.flash_attn_func(query, key, value, 0.5))
    state = torch.get_rng_state()
    kernel.flash_attn_func(query, key, value)
    assert torch.equal(state, torch.get_rng_state())  # nothing is drawn without dropout


def test_sequences_and_heads_have_masks_of_their_own(kernel):
    query, key, _ = (tensor[:1].expand(3, -1, -1, -1) for tensor in dense(1, 20, 40, 4, 4, 16, torch.float32))
    kept = dropped_weights(kernel.flash_attn_func, query, key, dropout_p=0.5)
    assert not torch.equal(kept[0], kept[1]) and not torch.equal(kept[:, :, 0], kept[:, :, 1])


def test_memory_is_bounded(kernel, monkeypatch):
    """No matrix of all scores, in the forward or in the backward."""
    chunk_sizes(kernel, monkeypatch, 2**17, 1)
    call_directly(kernel, monkeypatch)
    query, key, value = dense(1, 1024, 4096, 2, 2, 16, torch.float32)
    with LargestTensor() as largest:
        kernel.flash_attn_func(query, key, value, 0.5)
        call = call_of(kernel, query, key, value, window_right=0)
        kernel.operators.attention_backward(query, None, *call, None, None, True, False, 0.5, torch.tensor([3]))
    assert largest.elements <= max(2**17, key.numel())


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(kernel, requires_grad):
    tensors = [tensor.requires_grad_(requires_grad) for tensor in dense(2, 5, 9, 4, 2, 16, torch.float32)]
    call = call_of(kernel, *tensors, window_right=0)
    seed = torch.tensor([5])
    torch.library.opcheck(kernel.operators.attention_forward, (*call, True, False, 0.3, seed))
    grad = torch.ones(2, 5, 4, 16)
    call = call_of(kernel, *(tensor.detach() for tensor in tensors), window_right=0)
    torch.library.opcheck(kernel.operators.attention_backward, (grad, None, *call, None, None, True, False, 0.3, seed))


def test_compile(kernel):
    """One graph for all lengths; the compiled function draws what the plain one draws."""
    torch._dynamo.reset()
    function = lambda q, k, v: kernel.flash_attn_func(q, k, v, dropout_p=0.5, causal=True)  # noqa: E731
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (5, 9, 17, 33):
        tensors = [tensor.requires_grad_() for tensor in dense(2, length, length + 3, 4, 2, 16, torch.float32)]
        with torch._dynamo.config.patch(error_on_recompile=True):
            results = [seeded(call, *tensors) for call in (function, compiled)]
        torch.testing.assert_close(*results)
        grads = [torch.autograd.grad(result.square().sum(), tensors) for result in results]
        torch.testing.assert_close(*grads)
