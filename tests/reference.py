"""Attention in float64, straight from its definition, and the bounds that results must keep.

Written apart from the code under test: one sequence, one head, one full matrix of scores at a time.
"""

from __future__ import annotations

import math

import torch


def attention(query, key, value, cu_seqlens_q=None, cu_seqlens_k=None, softmax_scale=None, window=(-1, -1)):
    """(output, lse) in float64.

    Packed [total, heads, head_dim] with cu_seqlens (lists or tensors), lse [heads, total]; or dense
    [batch, seqlen, heads, head_dim] without, lse [batch, heads, seqlen]. window = (left, right), -1 = unbounded;
    causal is right = 0. Rows that see no key, and rows of no sequence: output 0, lse -inf.
    """
    scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    if query.dim() == 4:
        parts = [_sequence(q, k, v, scale, window) for q, k, v in zip(query, key, value)]
        return torch.stack([output for output, _ in parts]), torch.stack([lse for _, lse in parts])
    output = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=torch.float64)
    lse = torch.full((query.shape[1], query.shape[0]), -math.inf, dtype=torch.float64)
    bounds_q, bounds_k = [int(x) for x in cu_seqlens_q], [int(x) for x in cu_seqlens_k]
    for q0, q1, k0, k1 in zip(bounds_q, bounds_q[1:], bounds_k, bounds_k[1:]):
        output[q0:q1], lse[:, q0:q1] = _sequence(query[q0:q1], key[k0:k1], value[k0:k1], scale, window)
    return output, lse


def _sequence(query, key, value, scale, window):
    length_q, num_heads, length_k = query.shape[0], query.shape[1], key.shape[0]
    output = torch.zeros(length_q, num_heads, value.shape[-1], dtype=torch.float64)
    lse = torch.full((num_heads, length_q), -math.inf, dtype=torch.float64)
    position = torch.arange(length_q)[:, None] + length_k - length_q
    distance = torch.arange(length_k)[None, :] - position
    visible = torch.ones(length_q, length_k, dtype=torch.bool)
    if window[0] >= 0:
        visible &= distance >= -window[0]
    if window[1] >= 0:
        visible &= distance <= window[1]
    rows = visible.any(dim=1)
    for head in range(num_heads if rows.any() else 0):
        head_kv = head // (num_heads // key.shape[1])
        scores = scale * (query[:, head].double() @ key[:, head_kv].double().T)
        scores = scores.masked_fill(~visible, -math.inf)[rows]
        lse[head, rows] = torch.logsumexp(scores, dim=1)
        output[rows, head] = torch.softmax(scores, dim=1) @ value[:, head_kv].double()
    return output, lse


def output_bound(expected, dtype, value) -> float:
    """Largest allowed |output - expected|: CONTRIBUTING.md, Numerics."""
    largest = value.double().abs().max().item() if value.numel() else 0.0
    if dtype == torch.float32:
        return 5e-6 * largest
    rounding = (expected.to(dtype).double() - expected).abs().max().item() if expected.numel() else 0.0
    return 1.1 * rounding + 4e-6 * largest


def assert_output(output, expected, value) -> None:
    """Within the bound; NaN and infinities fail it."""
    assert output.shape == expected.shape
    if output.numel():
        error = (output.double() - expected).abs().max().item()
        bound = output_bound(expected, output.dtype, value)
        assert error <= bound, f"error {error:.3g}, allowed {bound:.3g}"


def assert_lse(lse, expected) -> None:
    """fp32 rounding of the logarithm and of the scores under it; -inf in exactly the same places."""
    assert lse.dtype == torch.float32 and lse.shape == expected.shape
    finite = torch.isfinite(expected)
    assert torch.equal(lse == -math.inf, ~finite)
    if finite.any():
        error = ((lse.double() - expected).abs() / (1 + expected.abs()))[finite].max().item()
        assert error <= 4e-6, f"relative error {error:.3g} of lse"
