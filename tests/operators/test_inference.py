"""Calls without gradients go past autograd's kernel, to an operator that gives the output alone; and only they do."""

from __future__ import annotations

import pytest
import torch
from cases import dense
from reference import assert_lse, assert_output, attention
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

INFERENCE, FORWARD = "attention_forward_inference", "attention_forward"
Q, K, V = dense(2, 5, 9, 4, 2, 16, torch.float32)


def attend(kernel, q=Q, k=K, v=V, **arguments):
    return kernel.flash_attn_func(q, k, v, causal=True, **arguments)


def cached(kernel, q=Q, k=K, v=V):
    return kernel.flash_attn_with_kvcache(q, k, v, causal=True)


def operators_of(call) -> list[str]:
    """Ours, by name."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    names = [event.name.partition("::")[2] for event in profiler.events() if "flash_sdpa" in event.name]
    return [name for name in names if name.startswith("attention")]


@pytest.mark.parametrize("call", [attend, cached])
def test_the_output_alone(kernel, launcher, call):
    assert operators_of(lambda: call(kernel)) == [INFERENCE]
    assert_output(call(kernel), attention(Q, K, V, window=(-1, 0))[0], V)
    assert not call(kernel).requires_grad


def test_with_lse(kernel, launcher):
    assert operators_of(lambda: attend(kernel, return_attn_probs=True)) == [FORWARD]
    output, lse, _ = attend(kernel, return_attn_probs=True)
    expected, expected_lse = attention(Q, K, V, window=(-1, 0))
    assert_output(output, expected, V)
    assert_lse(lse, expected_lse)


@pytest.mark.parametrize("which", range(3))
def test_a_gradient_is_not_lost(kernel, launcher, which):
    tensors = [tensor.clone() for tensor in (Q, K, V)]
    tensors[which].requires_grad_()
    assert INFERENCE not in operators_of(lambda: attend(kernel, *tensors))
    assert attend(kernel, *tensors).requires_grad
    with torch.no_grad():
        assert operators_of(lambda: attend(kernel, *tensors)) == [INFERENCE]
    output = cached(kernel, *tensors)
    with pytest.raises(NotImplementedError, match="no gradient"):
        output.sum().backward()


@pytest.mark.parametrize("name", ["s_aux", "attn_bias"])
def test_gradients_of_optional_tensors_are_not_lost(kernel, name):
    optional = {"s_aux": torch.zeros(4), "attn_bias": torch.zeros(4, 5, 9)}[name].requires_grad_()
    attend(kernel, **{name: optional}).sum().backward()
    assert optional.grad.any()


class Watching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("call", [attend, cached])
def test_who_watches_sees_one_operator(kernel, launcher, call):
    with Watching() as watching:
        call(kernel)
    assert [each for each in watching.seen if "attention" in each.name()] == [kernel.operators.attention_forward]


def test_flops_are_those_of_a_call_with_gradients(kernel):
    counts = []
    for query in (Q, Q.clone().requires_grad_()):
        with FlopCounterMode(display=False) as counter:
            attend(kernel, query)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_a_parameter_and_a_lazy_negative(kernel, launcher):
    """Tensors that are not what they seem."""
    expected = attend(kernel, -Q)
    negative = torch.complex(torch.zeros_like(Q), Q).conj().imag
    assert negative.is_neg() and torch.equal(attend(kernel, negative), expected)
    with torch.no_grad():
        assert torch.equal(attend(kernel, torch.nn.Parameter(-Q)), expected)


def test_transforms_are_refused_as_before(kernel):
    with pytest.raises(NotImplementedError, match=r"torch\.vmap"):
        torch.vmap(lambda q: attend(kernel, q))(Q[None])
    for call in (attend, cached):
        with pytest.raises(NotImplementedError, match="forward-mode"):
            torch.func.jvp(lambda q: call(kernel, q), (Q,), (torch.ones_like(Q),))  # noqa: B023
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(Q, torch.ones_like(Q))
            with pytest.raises(NotImplementedError, match="forward-mode"):
                call(kernel, dual)


@pytest.mark.parametrize("empty", ["queries", "keys", "sequences"])
def test_nothing_to_see(kernel, launcher, empty):
    q, k, v = {"queries": (Q[:, :0], K, V), "keys": (Q, K[:, :0], V[:, :0]), "sequences": (Q[:0], K[:0], V[:0])}[empty]
    output, lse, _ = attend(kernel, q, k, v, return_attn_probs=True)
    assert output.shape == q.shape and not output.any() and (lse == -torch.inf).all()
    assert torch.equal(attend(kernel, q, k, v), output)
