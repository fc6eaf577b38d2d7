"""A row's bits depend on its own query and the keys it sees alone, not on other rows of its tile or on hidden keys.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import dense, random_tensor
from simulated_launcher import SimulatedLauncher

TOKENS, SEEN = 150, 77  # of them, those before the token where things change


@pytest.fixture(params=["cpu", "large", "small", "direct", "sliced"])
def head_dim(request, kernel):
    """A head_dim for which calls are planned with such tiles, simulated; 64 on the CPU, which has none."""
    if request.param == "cpu":
        yield 64
        return
    device, head_dim = {
        "large": ((7, 1), 64),
        "small": ((7, 8), 128),
        "direct": ((9, 10), 64),
        "sliced": ((7, 1), 256),
    }[request.param]
    with kernel.launchers.use_launcher(SimulatedLauncher(), kernel.device.Device(*device)):
        yield head_dim


def attend(kernel, query, key, value, **features):
    output, lse, _ = kernel.flash_attn_func(query, key, value, causal=True, return_attn_probs=True, **features)
    return output, lse


def largest(dtype):
    return torch.finfo(dtype).max


def larger_scores(query, key, value):
    query[:, SEEN:] *= 30
    key[:, SEEN:] *= 30


def larger_values(query, key, value):
    value[:, SEEN:] = largest(value.dtype)


def tiny_values_before_the_largest(query, key, value):
    """Sums of the largest values overflow; the rows before see values that smaller weights would turn into 0."""
    value[:, :SEEN] *= 2.0**-80 if value.dtype != torch.float16 else 1
    value[:, SEEN:] = largest(value.dtype)


def no_numbers(query, key, value):
    query[:, SEEN:] = math.nan
    key[:, SEEN:] = math.nan


@pytest.mark.parametrize("change", [larger_scores, larger_values, tiny_values_before_the_largest, no_numbers])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_future_does_not_change_the_past(kernel, head_dim, change, dtype):
    """For the same shapes, so that tiles and blocks of keys stay the same."""
    tensors = dense(1, TOKENS, TOKENS, 4, 2, head_dim, dtype)
    changed = [tensor.clone() for tensor in tensors]
    change(*changed)
    tensors[2][:, :SEEN] = changed[2][:, :SEEN]
    output, lse = attend(kernel, *tensors)
    other_output, other_lse = attend(kernel, *changed)
    assert torch.equal(output[:, :SEEN], other_output[:, :SEEN])
    assert torch.equal(lse[..., :SEEN], other_lse[..., :SEEN])
    assert not torch.equal(output[:, SEEN:], other_output[:, SEEN:])


@pytest.mark.parametrize("feature", ["none", "sinks", "alibi", "softcap", "parts"])
def test_nan_of_a_query(kernel, head_dim, feature):
    """NaN in the output and the log-sum-exp of its row, and nothing else changes."""
    query, key, value = dense(2, 40, 75, 4, 2, head_dim, torch.float32)
    features = {
        "sinks": {"s_aux": random_tensor(1, 4)},
        "alibi": {"alibi_slopes": random_tensor(2, 4).abs() / 8},
        "softcap": {"softcap": 20.0},
    }.get(feature, {})

    def results():
        if feature == "parts":
            return kernel.flash_attn_with_kvcache(query, key, value, causal=True, num_splits=3, return_softmax_lse=True)
        return attend(kernel, query, key, value, **features)

    output, lse = results()
    query[1, 13, 2, 5] = math.nan
    odd_output, odd_lse = results()
    assert odd_output[1, 13, 2].isnan().all() and odd_lse[1, 2, 13].isnan()
    output[1, 13, 2], lse[1, 2, 13] = odd_output[1, 13, 2], odd_lse[1, 2, 13]
    torch.testing.assert_close((odd_output, odd_lse), (output, lse), rtol=0, atol=0, equal_nan=True)


def test_nan_of_a_key(kernel, head_dim):
    """NaN in the rows that see it, and in no other."""
    query, key, value = dense(1, 75, 75, 4, 2, head_dim, torch.float32)
    output, lse = attend(kernel, query, key, value)
    key[0, 33, 1, 7] = math.nan
    odd_output, odd_lse = attend(kernel, query, key, value)
    assert odd_output[0, 33:, 2:].isnan().all() and odd_lse[0, 2:, 33:].isnan().all()
    assert torch.equal(odd_output[0, :33], output[0, :33]) and torch.equal(odd_lse[..., :33], lse[..., :33])
    assert torch.equal(odd_output[0, :, :2], output[0, :, :2]) and torch.equal(odd_lse[0, :2], lse[0, :2])
