"""The CPU implementation beyond the range of fp32: gradients at any magnitude, NaN where it is seen and nowhere else,
and bits of a row that depend on nothing that it does not see. (Outputs at any magnitude: tests/test_magnitudes.py.)"""

from __future__ import annotations

import math

import pytest
import torch
from cases import DTYPES, dense, random_tensor
from magnitudes import visible_keys
from reference import gradients

ROWS = 9
WINDOWS = [(-1, -1), (-1, 0), (2, 0), (2, 2)]
SLOPES, SINKS = torch.tensor([0.5, 0.25]), torch.tensor([1.0, -torch.inf])
FEATURES = {"none": {}, "all": {"softcap": 30.0, "alibi_slopes": SLOPES, "s_aux": SINKS}}
LARGEST = torch.finfo(torch.float32).max


def results_of(kernel, tensors, window, return_lse, **features):
    result = kernel.flash_attn_func(*tensors, window_size=window, return_attn_probs=return_lse, **features)
    return (result[0], result[1].transpose(1, 2)) if return_lse else (result,)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("return_lse", [False, True], ids=["output", "output and lse"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("keys", [1, ROWS, 7, 12, 600])
@pytest.mark.parametrize("number", [math.nan, 1e38, LARGEST, -math.inf])
def test_one_odd_number(kernel, keys, window, return_lse, features, number):
    """In the query, a key or a value. The rows and heads that do not see it keep their bits; NaN reaches the others."""
    tensors = dense(1, ROWS, keys, 2, 2, 16, torch.float32)
    visible = visible_keys(ROWS, keys, window)
    before = results_of(kernel, tensors, window, return_lse, **features)
    for index in range(3):
        for token in {0, 5, tensors[index].shape[1] - 1} & set(range(tensors[index].shape[1])):
            changed = [tensor.clone() for tensor in tensors]
            changed[index][:, token, 0, 3] = number
            sees = visible[:, token] if index else (torch.arange(ROWS) == token) & visible.any(dim=1)
            after = results_of(kernel, changed, window, return_lse, **features)
            for old, new in zip(before, after):
                assert torch.equal(old[0, ~sees], new[0, ~sees]) and torch.equal(old[0, :, 1], new[0, :, 1])
            if math.isnan(number):
                of_head = after[0][0, sees, 0]
                assert (of_head[:, 3] if index == 2 else of_head).isnan().all()
                if index == 2:
                    assert of_head[:, :3].isfinite().all()
                if return_lse:
                    assert torch.equal(after[1][0, :, 0].isnan(), sees) if index < 2 else torch.equal(*(
                        result[1] for result in (before, after)
                    ))  # fmt: skip
            elif math.isfinite(number):
                assert after[0].isfinite().all()


@pytest.mark.parametrize("number", [1e4, 1e30, LARGEST, math.nan, math.inf])
@pytest.mark.parametrize("return_lse", [False, True], ids=["fused", "weights"])
@pytest.mark.parametrize("keys", [70, 100, 700])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_future_does_not_change_the_past(kernel, dtype, keys, return_lse, number):
    query, key, value = dense(2, 70, keys, 4, 2, 32, dtype)
    before = results_of(kernel, (query, key, value), (-1, 0), return_lse)
    for row in (0, 30, 63, 69):
        changed = [tensor.clone() for tensor in (query, key, value)]
        largest = torch.finfo(dtype).max if math.isfinite(number) else math.inf
        changed[0][:, row + 1 :] = min(number, largest)
        for tensor in changed[1:]:
            tensor[:, keys - 70 + row + 1 :] = min(number, largest)
        after = results_of(kernel, changed, (-1, 0), return_lse)
        assert all(torch.equal(old[:, : row + 1], new[:, : row + 1]) for old, new in zip(before, after))


def test_a_block_of_keys_without_numbers(kernel):
    """PyTorch's operator leaves out a block of 512 keys of which a row sees none but NaN."""
    query, key, value = dense(1, 1100, 1100, 1, 1, 16, torch.float32)
    for nan in (slice(512, 1024), slice(512, 513), slice(1024, 1025), slice(0, 1)):
        changed = key.clone()
        changed[:, nan] = math.nan
        for window in ((-1, -1), (-1, 0), (3, 0)):
            sees = visible_keys(1100, 1100, window)[:, nan].any(dim=1)
            output = kernel.flash_attn_func(query, changed, value, window_size=window)
            assert torch.equal(output[0, :, 0].isnan().all(dim=1), sees)
            assert torch.equal(output[0, :, 0].isnan().any(dim=1), sees)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("tensor", range(5))
def test_gradients_of_odd_numbers(kernel, tensor, window):
    """NaN in a query, key, value or gradient of the output or of lse: what float64 arithmetic that knows no hidden keys
    gives, and NaN where it does."""
    inputs = [tensor.requires_grad_() for tensor in dense(1, ROWS, 7, 2, 1, 16, torch.float32)]
    grad_output, grad_lse = random_tensor(7, 1, ROWS, 2, 16), random_tensor(8, 1, 2, ROWS)
    changed = [*inputs, grad_output, grad_lse]
    with torch.no_grad():
        changed[tensor][(0, 1, 5) if tensor == 4 else (0, 5, 0)] = math.nan
    output, lse, _ = kernel.flash_attn_func(*inputs, window_size=window, return_attn_probs=True)
    grads = torch.autograd.grad([output, lse], inputs, [grad_output, grad_lse])
    expected = by_rows(inputs, grad_output, grad_lse, window)
    for grad, right in zip(grads, expected):
        torch.testing.assert_close(grad.double(), right, rtol=1e-5, atol=1e-5, equal_nan=True)


def by_rows(inputs, grad_output, grad_lse, window):
    """The sum of the gradients of each row alone, with the keys that it sees and no others."""
    visible = visible_keys(ROWS, inputs[1].shape[1], window)
    sums = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in inputs]
    for row in range(ROWS):
        keys = visible[row].nonzero().flatten()
        if not len(keys):
            continue
        seen = [inputs[0][:, row : row + 1], inputs[1][:, keys], inputs[2][:, keys]]
        leaves = [tensor.detach().double().requires_grad_() for tensor in seen]
        query, key, value = (tensor[0].transpose(0, 1) for tensor in leaves)  # one key/value head
        scores = torch.matmul(query, key.transpose(1, 2)) * 0.25
        results = torch.softmax(scores, dim=2) @ value, torch.logsumexp(scores, dim=2)
        grads = torch.autograd.grad(
            results, leaves, [grad_output[0, row].double().unsqueeze(1), grad_lse[0, :, row : row + 1].double()]
        )
        sums[0][:, row : row + 1] += grads[0]
        sums[1][:, keys] += grads[1]
        sums[2][:, keys] += grads[2]
    return sums


# query, key, value, gradient of the output: powers of two; softmax_scale; softcap
GRADIENTS = [
    (0, 0, 126, 0, None, 0.0),  # sums of values beyond fp32, differences within
    (0, 0, 100, 40, 2.0**-20, 0.0),  # products of gradient and value beyond fp32
    (0, 0, 100, 40, 2.0**-20, 5.0),
    (60, 63, 0, 0, 2.0**-120, 0.0),
    (66, 66, 0, 0, 2.0**-126, 0.0),  # scores before scaling beyond fp32
    (-60, 60, 0, 0, 1.0, 0.0),
    (-100, 20, 100, -10, 1e8, 0.0),
    (0, 0, 0, 0, 1.0, 1e8),
    (0, 0, 0, 0, 1e8, 1e-8),
    (-140, -140, -140, 0, 1e8, 0.0),
    (0, 0, 0, -145, 1.0, 0.0),
]


@pytest.mark.parametrize("alibi, sinks", [(None, None), (SLOPES, SINKS)], ids=["plain", "alibi and sinks"])
@pytest.mark.parametrize("size_q, size_k, size_v, size_grad, scale, softcap", GRADIENTS)
def test_gradients_at_any_magnitude(kernel, size_q, size_k, size_v, size_grad, scale, softcap, alibi, sinks):
    """Finite where float64's fit, and right to the rounding of the scores."""
    inputs = dense(1, 5, 7, 2, 1, 16, torch.float32)
    inputs = [(t.clamp(-1.9, 1.9) * 2.0**size) for t, size in zip(inputs, (size_q, size_k, size_v))]
    inputs = [tensor.requires_grad_() for tensor in (*inputs, *([] if sinks is None else [sinks.clone()]))]
    features = {"alibi_slopes": alibi, "softcap": softcap, "softmax_scale": scale}
    output = kernel.flash_attn_func(*inputs[:3], causal=True, s_aux=None if sinks is None else inputs[3], **features)
    grad_output = random_tensor(7, *output.shape).clamp(-1.9, 1.9) * 2.0**size_grad
    grads = torch.autograd.grad(output, inputs, grad_output)
    expected = gradients(inputs, grad_output, window=(-1, 0), **features)
    for grad, right in zip(grads, expected):
        fits = right.abs() <= LARGEST
        assert torch.equal(grad.isfinite(), fits)
        right = right.where(fits, 0)
        error = (grad.double().where(fits, 0) - right).abs().max()
        assert error <= 2e-4 * right.abs().max() + 1e-44


@pytest.mark.parametrize("size", [1.0, 1e3, 1e18])
def test_gradients_of_pages(kernel, size):
    query, _, _ = dense(1, 5, 5, 2, 1, 16, torch.float32)
    caches = [random_tensor(seed, 3, 16, 1, 16) * number for seed, number in ((1, size), (2, 1.0))]
    inputs = [tensor.requires_grad_() for tensor in (query[0] * size, *caches)]
    cu_q, cu_k = torch.tensor([0, 5], dtype=torch.int32), torch.tensor([0, 40], dtype=torch.int32)
    table = torch.tensor([[2, 0, 2]], dtype=torch.int32)
    output = kernel.flash_attn_varlen_func(*inputs, cu_q, cu_k, 5, 40, causal=True, block_table=table)
    grad_output = random_tensor(7, *output.shape)
    grads = torch.autograd.grad(output, inputs, grad_output)
    places = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "window": (-1, 0), "block_table": table}
    for grad, right in zip(grads, gradients(inputs, grad_output, **places)):
        torch.testing.assert_close(grad.double(), right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))


def test_the_weight_of_a_sink_is_not_taken_from_a_rounded_logarithm(kernel):
    query, key, value = (torch.full((1, 1, 1, 16), x) for x in (256.0, 1024.0, 3.0))
    sinks = torch.tensor([2.0**20]).requires_grad_()  # as large as the score
    output = kernel.flash_attn_func(query, key, value, s_aux=sinks)
    grad = torch.autograd.grad(output.sum(), sinks)[0]
    torch.testing.assert_close(grad, torch.tensor([-0.25 * 3 * 16]))
