"""Sequences of a dense batch that are computed together. Level: CPU implementation."""

from __future__ import annotations

import pytest
import torch
from cases import call_of, dense, random_tensor
from chunks import chunk_sizes
from reference import assert_lse, assert_output, attention, gradients

BATCH, ROWS, KEYS, HEADS = 7, 6, 9, 4
SINKS = torch.tensor([0.7, -1.5, 1.0, 0.0])
FEATURES = {
    "lse": {},
    "softcap": {"softcap": 5.0},
    "alibi by sequence": {"alibi_slopes": random_tensor(3, BATCH, HEADS).abs()},
    "sinks": {"sinks": SINKS},
    "used keys": {"seqused_k": torch.tensor([9, 9, 4, 4, 4, 0, 9], dtype=torch.int32)},
}


@pytest.fixture(params=[1, 2, 100], ids=["alone", "pairs", "all"])
def together(request, kernel, monkeypatch):
    """How many sequences a chunk may have."""
    chunk_sizes(kernel, monkeypatch, request.param * HEADS * ROWS * KEYS, ROWS)
    return request.param


def inputs():
    query, key, value = dense(BATCH, ROWS, KEYS, HEADS, 2, 16, torch.float32)
    return query, key, value


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (3, 1)], ids=str)
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_numbers(kernel, together, features, window):
    tensors = inputs()
    call = call_of(kernel, *tensors, window_left=window[0], window_right=window[1], **features)
    output, lse, _ = kernel.operators.attention_forward(*call, True, False)
    expected, expected_lse = attention(*tensors, window=window, **features)
    assert_output(output, expected, tensors[2])
    assert_lse(lse, expected_lse)
    grad_output, grad_lse = random_tensor(7, *output.shape), random_tensor(8, *lse.shape)
    grads = kernel.operators.attention_backward(grad_output, grad_lse, *call, None, None, True, False)
    differentiable = [*tensors, *([SINKS] if "sinks" in features else [])]
    rest = {name: feature for name, feature in features.items() if name != "sinks"}
    exact = gradients(differentiable, grad_output, grad_lse, window=window, **rest)
    for grad, expected_grad in zip(grads, exact):
        torch.testing.assert_close(
            grad.double(), expected_grad, rtol=0, atol=2e-5 * float(1 + expected_grad.abs().max())
        )


def test_how_many_come_together(kernel, together, monkeypatch):
    batches = []
    attend = kernel.operators.cpu.careful_forward

    def counting(function, q, *rest):
        batches.append(len(q))
        return attend(function, q, *rest)

    monkeypatch.setattr(kernel.operators.cpu, "careful_forward", counting)
    kernel.operators.attention_forward(*call_of(kernel, *inputs()), True, False)
    assert batches == {1: [1] * 7, 2: [2, 2, 2, 1], 100: [7]}[together]
    batches.clear()
    kernel.operators.attention_forward(
        *call_of(kernel, *inputs(), seqused_k=FEATURES["used keys"]["seqused_k"]), True, False
    )
    assert batches == {1: [1, 1, 2, 1, 1], 2: [2, 3, 1], 100: [2, 3, 1]}[together]  # fewer keys, more sequences


def test_many_short_sequences_are_few_chunks(kernel, monkeypatch):
    """2,000 of 4 tokens: 2^20 scores a chunk."""
    calls = []
    attend = kernel.operators.cpu.careful_forward
    monkeypatch.setattr(kernel.operators.cpu, "careful_forward", lambda *rest: calls.append(0) or attend(*rest))
    kernel.flash_attn_func(*dense(2000, 4, 4, 2, 2, 8, torch.float32), softcap=3.0)
    assert len(calls) == 1


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("place", ["query", "key", "value", "grad_output"])
def test_what_is_odd_stays_in_its_sequence(kernel, place, odd):
    """The others keep their bits, in the output, lse and gradients."""
    tensors = [*inputs(), random_tensor(7, BATCH, ROWS, HEADS, 16)]
    results = []
    for spoilt in (False, True):
        tensors = [tensor.clone() for tensor in tensors]
        if spoilt:
            tensors[["query", "key", "value", "grad_output"].index(place)][2] = odd
        call = call_of(kernel, *tensors[:3], softcap=0.0, window_right=0)
        output, lse, _ = kernel.operators.attention_forward(*call, True, False)
        grads = kernel.operators.attention_backward(tensors[3], None, *call, None, None, True, False)
        results.append([output, lse, *grads[:3]])
    others = [0, 1, 3, 4, 5, 6]
    for clean, beside in zip(*results):
        assert torch.equal(clean[others], beside[others])
