"""The functions for stacked queries, keys and values: the results and gradients of the unstacked ones, without a copy.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import pytest
import torch
from cases import random_tensor
from reference import assert_gradients, assert_lse, assert_output, attention, gradients

CU_SEQLENS = torch.tensor([0, 33, 33, 40, 75], dtype=torch.int32)
SLOPES = torch.tensor([0.5, 0.25, 0.0, 1.0])


def stacked(kernel, name: str, dtype=torch.float32):
    """(function of the stacked tensors, those tensors, function that takes them apart, the reference's lengths)."""
    lengths = {"cu_seqlens_q": CU_SEQLENS, "cu_seqlens_k": CU_SEQLENS} if "varlen" in name else {}
    shape, axis = ((75,), 1) if lengths else ((2, 40), 2)
    rest = ((CU_SEQLENS, 35) if "_qkv" in name else (CU_SEQLENS, CU_SEQLENS, 35, 35)) if lengths else ()
    if "_qkv" in name:
        tensors = [random_tensor(0, *shape, 3, 4, 32, dtype=dtype)]
    else:
        tensors = [random_tensor(0, *shape, 4, 32, dtype=dtype), random_tensor(1, *shape, 2, 2, 32, dtype=dtype)]

    def function(*stacked_tensors, **arguments):
        return getattr(kernel, name)(*stacked_tensors, *rest, **arguments)

    def apart(*stacked_tensors):
        return (*stacked_tensors[:-1], *stacked_tensors[-1].unbind(axis))

    return function, tensors, apart, lengths


NAMES = [f"flash_attn_{varlen}{kind}packed_func" for varlen in ("", "varlen_") for kind in ("qkv", "kv")]


@pytest.mark.parametrize("name", NAMES)
def test_results(kernel, launcher, name):
    function, tensors, apart, lengths = stacked(kernel, name, torch.float16)
    query, key, value = apart(*tensors)
    expected, expected_lse = attention(
        query, key, value, window=(20, 0), softcap=5.0, alibi_slopes=SLOPES, softmax_scale=0.3, **lengths
    )
    arguments = {"softmax_scale": 0.3, "causal": True, "window_size": (20, 20), "softcap": 5.0, "alibi_slopes": SLOPES}
    output, lse, probabilities = function(*tensors, return_attn_probs=True, **arguments)
    assert probabilities is None
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)
    assert_output(function(*tensors, **arguments), expected, value)


@pytest.mark.parametrize("name", NAMES)
def test_positional_arguments(kernel, name):
    """In flash-attn 2's order, from dropout_p, softmax_scale, causal on."""
    function, tensors, _, _ = stacked(kernel, name)
    by_name = function(*tensors, softmax_scale=0.3, causal=True, window_size=(9, 0), softcap=5.0, alibi_slopes=SLOPES)
    rest = {"qkv": (CU_SEQLENS, 35), "kv": (CU_SEQLENS, CU_SEQLENS, 35, 35)}["qkv" if "_qkv" in name else "kv"]
    by_place = getattr(kernel, name)(
        *tensors, *(rest if "varlen" in name else ()), 0.0, 0.3, True, (9, 0), 5.0, SLOPES, True, True
    )
    assert torch.equal(by_place[0], by_name)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(kernel, launcher, name):
    function, tensors, apart, lengths = stacked(kernel, name)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    output = function(*leaves, causal=True)
    grad_output = random_tensor(7, *output.shape)
    grads = torch.autograd.grad(output, leaves, grad_output)
    inputs = apart(*(tensor.detach() for tensor in tensors))
    expected = gradients(inputs, grad_output, window=(-1, 0), **lengths)
    assert_gradients(apart(*grads), expected, inputs, torch.float32)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_not_copied(kernel, name):
    plans = []
    function, tensors, apart, _ = stacked(kernel, name)
    with kernel.launchers.use_launcher(lambda plan, named: plans.append(dict(named))):
        function(*tensors)
    for part, tensor in zip(("query", "key", "value"), apart(*tensors)):
        assert plans[0][part].data_ptr() == tensor.data_ptr() and plans[0][part].stride() == tensor.stride()
