"""merge_attention_states: attention over parts of the keys, joined, is attention over all of them.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import DTYPES, dense, max_lengths, packed, random_tensor
from reference import assert_gradients, assert_lse, assert_output, attention, gradients

PARTS = [slice(0, 30), slice(30, 31), slice(31, 31), slice(31, 75)]  # of 75 keys; one is empty


def parts_of(kernel, query, key, value, **arguments):
    results = [
        kernel.flash_attn_func(query, key[:, part], value[:, part], return_attn_probs=True, **arguments)
        for part in PARTS
    ]
    return [output for output, *_ in results], [lse for _, lse, _ in results]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_the_keys(kernel, launcher, dtype):
    query, key, value = dense(2, 9, 75, 4, 2, 32, dtype)
    outputs, lses = parts_of(kernel, query, key, value, softcap=5.0)
    expected, expected_lse = attention(query, key, value, softcap=5.0)
    output, lse = kernel.merge_attention_states([part.float() for part in outputs], lses)
    assert output.dtype == torch.float32
    rounding = torch.finfo(dtype).eps  # of the parts; their weights add up to 1
    assert (output - expected).abs().max() <= (5e-6 + rounding) * value.abs().max()
    assert_lse(lse, expected_lse)
    assert kernel.merge_attention_states(outputs, lses)[0].dtype == dtype


def test_one_after_the_other(kernel):
    """As a ring does it; the order does not matter."""
    query, key, value = dense(1, 9, 75, 2, 2, 32, torch.float32)
    outputs, lses = parts_of(kernel, query, key, value)
    output, lse = outputs[3], lses[3]
    for part in (0, 2, 1):
        output, lse = kernel.merge_attention_states([output, outputs[part]], [lse, lses[part]])
    expected, expected_lse = attention(query, key, value)
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)


def test_causal_blocks_of_a_packed_batch(kernel, launcher):
    """Context parallelism: the second half of the queries sees the first half of the keys whole, its own causally."""
    query, key, value, cu, _ = packed([(40, 40), (24, 24)], 4, 2, 32, torch.float32)
    early = torch.cat([torch.arange(0, 20), torch.arange(40, 52)])
    late = torch.cat([torch.arange(20, 40), torch.arange(52, 64)])
    half = torch.tensor([0, 20, 32], dtype=torch.int32)

    def attend(keys, causal):
        return kernel.flash_attn_varlen_func(
            query[late], key[keys], value[keys], half, half, 20, 20, causal=causal, return_attn_probs=True
        )

    parts = [attend(early, False), attend(late, True)]
    output, lse = kernel.merge_attention_states([part[0] for part in parts], [part[1] for part in parts])
    expected, expected_lse = attention(query, key, value, cu, cu, window=(-1, 0))
    assert_output(output, expected[late], value)
    assert_lse(lse, expected_lse[:, late])


def test_queries_that_see_nothing(kernel):
    """Not in one part, or in none: no NaN in the results nor in the gradients."""
    query, key, value, cu_q, cu_k = packed([(9, 3), (4, 0)], 2, 2, 32, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (query, key, value)]
    arguments = (cu_q, cu_k, *max_lengths(cu_q, cu_k))
    parts = [
        kernel.flash_attn_varlen_func(*leaves, *arguments, causal=causal, return_attn_probs=True)
        for causal in (True, False)
    ]
    output, lse = kernel.merge_attention_states([part[0] for part in parts], [part[1] for part in parts])
    assert output.isfinite().all() and not output[9:].any() and (lse[:, 9:] == -math.inf).all()
    torch.testing.assert_close(output[:6], parts[1][0][:6])  # of the causal part, they see nothing
    finite = torch.where(lse.isfinite(), lse, 0)
    grads = torch.autograd.grad(output.sum() + finite.sum(), leaves)
    assert all(grad.isfinite().all() and grad.any() for grad in grads)


def test_gradients(kernel, launcher):
    """Through the outputs and the log-sum-exps of the parts, as if the keys had never been divided."""
    inputs = [tensor.requires_grad_() for tensor in dense(1, 9, 75, 4, 2, 16, torch.float32)]
    output, lse = kernel.merge_attention_states(*parts_of(kernel, *inputs, softcap=3.0))
    grad_output, grad_lse = random_tensor(7, *output.shape), random_tensor(8, *lse.shape)
    grads = torch.autograd.grad([output, lse], inputs, [grad_output, grad_lse])
    expected = gradients([tensor.detach() for tensor in inputs], grad_output, grad_lse, softcap=3.0)
    assert_gradients(grads, expected, inputs, torch.float32)


def test_a_single_part(kernel):
    output, lse = random_tensor(0, 5, 2, 8, dtype=torch.float16), random_tensor(1, 2, 5)
    merged, merged_lse = kernel.merge_attention_states((output,), (lse,))
    assert torch.equal(merged, output) and torch.equal(merged_lse, lse)


def test_far_apart(kernel):
    """Sums of exponentials far beyond fp32's range."""
    output, lse = kernel.merge_attention_states(
        [torch.ones(1, 1, 4), torch.full((1, 1, 4), 3.0)], [torch.tensor([[5000.0]]), torch.tensor([[5000.0]])]
    )
    assert torch.equal(output, torch.full((1, 1, 4), 2.0))
    torch.testing.assert_close(lse, torch.tensor([[5000.0 + math.log(2)]]))


LARGEST = torch.finfo(torch.float32).max
LSES = [
    [0.0, 0.0, 0.0], [1e30, 1e30, 1e30], [LARGEST, -LARGEST, 0.0], [-LARGEST] * 3, [LARGEST] * 3,
    [-math.inf, 5.0, 5.0], [-math.inf] * 3, [-math.inf, -LARGEST, -math.inf], [1e38, -1e38, 1e38],
    [3e-45, -3e-45, 0.0], [80.0, -80.0, 0.3],
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", ["normal", "largest", "smallest", "opposite"])
@pytest.mark.parametrize("lses", LSES, ids=str)
def test_any_magnitude(kernel, lses, size, dtype):
    """Finite results and gradients of finite inputs, and right to rounding."""
    info = torch.finfo(dtype)
    outputs = [random_tensor(seed, 3, 2, 8, dtype=dtype) for seed in range(3)]
    if size != "normal":
        number = {"largest": info.max, "opposite": info.max, "smallest": info.smallest_normal}[size]
        signs = (1, -1, 1) if size == "opposite" else (1, 1, 1)
        outputs = [torch.full_like(output, number * sign) for output, sign in zip(outputs, signs)]
    outputs = [output.requires_grad_() for output in outputs]
    parts = [torch.full((2, 3), lse).requires_grad_() for lse in lses]
    merged, lse = kernel.merge_attention_states(outputs, parts)
    exact = torch.tensor(lses, dtype=torch.float64)
    shares = torch.softmax(exact, 0).nan_to_num(0.0)
    expected = sum(share * output.detach().double() for share, output in zip(shares, outputs))
    largest = max(float(output.detach().abs().max()) for output in outputs)
    rounding = 1.1 * (expected.to(dtype).double() - expected).abs()
    assert ((merged.detach().double() - expected).abs() <= 2e-6 * largest + rounding + 2.0**-146).all()
    right = torch.logsumexp(exact, 0)
    torch.testing.assert_close(lse.detach().double(), right.expand(2, 3), rtol=2e-7, atol=2e-7)
    grads = torch.autograd.grad(merged.float().sum() / 64 + lse.where(lse.isfinite(), 0).sum() / 8, [*outputs, *parts])
    assert all(grad.isfinite().all() for grad in grads)
    for grad, share in zip(grads, shares):
        torch.testing.assert_close(grad.double(), (share / 64).expand(3, 2, 8), rtol=1e-2, atol=1e-6)


def test_nan_stays_where_it_is(kernel):
    outputs, lses = [torch.ones(3, 2, 8), torch.ones(3, 2, 8)], [torch.zeros(2, 3), torch.zeros(2, 3)]
    lses[1][0, 2] = math.nan
    merged, lse = kernel.merge_attention_states(outputs, lses)
    assert merged[2, 0].isnan().all() and lse[0, 2].isnan()
    assert merged.isnan().sum() == 8 and lse.isnan().sum() == 1


def test_error_of_large_log_sum_exps(kernel):
    """|lse| * 6e-8, as the docstring says."""
    query, key = torch.full((1, 1, 1, 16), 256.0), torch.full((1, 75, 1, 16), 250.0)
    value = random_tensor(0, 1, 75, 1, 16)
    output, _ = kernel.merge_attention_states(*parts_of(kernel, query, key, value))
    error = (output.double() - value.double().mean(1, keepdim=True)).abs().max()
    assert error <= 2 * 256 * 250 * 4 * 6e-8 * value.abs().max()


OUTPUT, LSE = torch.zeros(5, 2, 8), torch.zeros(2, 5)
ERRORS = [
    (OUTPUT, [LSE], TypeError, "outputs must be a list or tuple of tensors, got Tensor"),
    ([OUTPUT], LSE, TypeError, "softmax_lses must be a list or tuple of tensors, got Tensor"),
    ([], [], ValueError, "outputs and softmax_lses must be one or more and as many, got 0 and 0"),
    ([OUTPUT], [LSE, LSE], ValueError, "outputs and softmax_lses must be one or more and as many, got 1 and 2"),
    ([OUTPUT, None], [LSE] * 2, TypeError, r"outputs\[1\] must be a tensor, got NoneType"),
    ([OUTPUT.double()], [LSE], TypeError, r"outputs\[0\] must be one of torch.float32, .* got torch.float64"),
    ([OUTPUT, OUTPUT.half()], [LSE] * 2, TypeError, r"outputs\[1\] must have the dtype of outputs\[0\], torch.float32"),
    ([OUTPUT, OUTPUT[:4]], [LSE] * 2, ValueError, r"outputs\[1\] must be .* shape of outputs\[0\], \(5, 2, 8\)"),
    ([OUTPUT[0]], [LSE], ValueError, r"outputs\[0\] must have the dimensions .* got shape \(2, 8\)"),
    ([OUTPUT[None, None]], [LSE], ValueError, r"outputs\[0\] must be .* got shape \(1, 1, 5, 2, 8\)"),
    ([OUTPUT], [LSE.half()], TypeError, r"softmax_lses\[0\] must be one of torch.float32, got torch.float16"),
    ([OUTPUT], [LSE.T], ValueError, r"softmax_lses\[0\] must have shape \(2, 5\), got shape \(5, 2\)"),
    ([OUTPUT], [LSE.to("meta")], ValueError, r"softmax_lses\[0\] must be on the device of outputs\[0\], cpu, got meta"),
]  # fmt: skip


@pytest.mark.parametrize("outputs, lses, error, message", ERRORS, ids=[case[3][:50] for case in ERRORS])
def test_error(kernel, outputs, lses, error, message):
    with pytest.raises(error, match=message):
        kernel.merge_attention_states(outputs, lses)
