"""row_softmax: its two numbers give every weight again, for the backward. Level: simulation, checked, both builds."""

from __future__ import annotations

import math

import pytest
import torch
from cases import call_of, dense, packed, random_tensor
from row_softmax import NO_KEY, assert_weights
from simulated_launcher import SimulatedLauncher

SLOPES = random_tensor(5, 2, 4).abs() / 4
SINKS = torch.tensor([0.7, -1.5, 3.0, 0.0])
CASES = {
    "plain": {},
    "causal": {"window_right": 0},
    "window": {"window_left": 9, "window_right": 3},
    "softcap": {"softcap": 2.0, "window_right": 0},
    "alibi": {"alibi_slopes": SLOPES},
    "sinks": {"sinks": SINKS},
    "sinks above all scores": {"sinks": SINKS + 50, "window_right": 0},
    "huge and tiny sinks": {"sinks": torch.tensor([1e30, -1e30, 3e38, -3e38]), "window_right": 0},
    "all": {"softcap": 5.0, "alibi_slopes": SLOPES, "sinks": SINKS, "window_left": 20, "window_right": 2},
    "negative scale": {"softmax_scale": -0.3},
    "no scale": {"softmax_scale": 0.0, "sinks": SINKS},
    "tiny scale": {"softmax_scale": 1e-40},
    "used keys": {"seqused_k": torch.tensor([5, 0], dtype=torch.int32)},
}


@pytest.fixture(params=[False, True], ids=["simulated", "fast_math"])
def launched(request, kernel):
    """Results of a call on the simulated kernels."""

    def launched(call, return_lse=False, device=(7, 8)):
        launcher = SimulatedLauncher(check=True, check_written=True, fast_math=request.param)
        with kernel.launchers.use_launcher(launcher, kernel.device.Device(*device)):
            return kernel.operators.attention_forward(*call, return_lse, True)

    return launched


@pytest.mark.sampled(8)
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
@pytest.mark.parametrize(
    "device, num_splits", [((7, 8), 1), ((9, 10), 1), ((7, 8), 3)], ids=["staged", "direct", "split"]
)
def test_dense(kernel, launched, device, num_splits, fields):
    """More queries than keys: causal rows that see none."""
    query, key, value = dense(2, 45, 40, 4, 2, 32, torch.float32)
    call = call_of(kernel, query, key, value, num_splits=num_splits, **fields)
    output, lse, row_softmax = launched(call, True, device)
    slopes, used = fields.get("alibi_slopes", [None] * 2), fields.get("seqused_k", [None] * 2)
    for b in range(2):
        assert_weights(kernel, call, row_softmax[b], query[b], key[b, : used[b]], slopes[b])
    alone, no_lse, again = launched(call, False, device)
    assert no_lse.shape == (0,) and torch.equal(alone, output) and torch.equal(again, row_softmax)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_splits", [1, 3])
def test_packed(kernel, launched, dtype, num_splits):
    """Tokens of no sequence before and behind; a sequence without queries, one without keys."""
    query, key, value, cu_q, cu_k = packed([(3, 2), (7, 33), (0, 5), (20, 0), (40, 75), (2, 1)], 4, 2, 64, dtype)
    bounds = {"cu_seqlens_q": cu_q[1:-1].contiguous(), "cu_seqlens_k": cu_k[1:-1].contiguous()}
    call = call_of(kernel, query, key, value, window_right=1, sinks=SINKS, num_splits=num_splits, **bounds)
    _, _, row_softmax = launched(call)
    for q, k in zip(cu_q.unfold(0, 2, 1)[1:-1].tolist(), cu_k.unfold(0, 2, 1)[1:-1].tolist()):
        assert_weights(kernel, call, row_softmax[:, slice(*q)], query[slice(*q)], key[slice(*k)])
    for outside in (row_softmax[:, :3], row_softmax[:, -2:]):
        assert (outside == NO_KEY).all()


@pytest.mark.parametrize("largest", [1e4, 1e9, 1e30])
@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores(kernel, launched, sign, num_splits, largest):
    """Of which an fp32 logarithm of their sum would keep nothing: some keys are the same, one is lower by a little."""
    query, key, value = dense(1, 9, 300, 2, 1, 64, torch.float32)
    query[..., 1:], key[..., 1:] = 0, 0
    query[..., 0], key[..., 0] = sign, 2.0 ** round(math.log2(largest))
    key[0, ::7] -= 2.0 ** max(0, round(math.log2(largest)) - 22)
    call = call_of(kernel, query, key, value, softmax_scale=1.0, num_splits=num_splits)
    _, _, row_softmax = launched(call)
    assert_weights(kernel, call, row_softmax[0], query[0], key[0], tolerance=1e-7)


@pytest.mark.parametrize("slope", [2.0**20, 2.0**100])
def test_large_biases(kernel, launched, slope):
    query, key, value = dense(1, 9, 40, 2, 1, 64, torch.float32)
    slopes = torch.tensor([slope, slope / 2])
    call = call_of(kernel, query, key, value, alibi_slopes=slopes)
    _, _, row_softmax = launched(call)
    assert_weights(kernel, call, row_softmax[0], query[0], key[0], slopes)


def test_nothing_to_see(kernel, launched):
    """Without a launch, too."""
    query, key, value = dense(2, 3, 0, 2, 1, 64, torch.float32)
    _, _, row_softmax = launched(call_of(kernel, query, key, value))
    assert row_softmax.shape == (2, 2, 3, 2) and (row_softmax == NO_KEY).all()


def test_none_on_the_cpu(kernel):
    """Its backward computes the weights from the inputs."""
    _, _, row_softmax = kernel.operators.attention_forward(
        *call_of(kernel, *dense(1, 3, 5, 2, 1, 8, torch.float32)), True, True
    )
    assert row_softmax.shape == (0,)
