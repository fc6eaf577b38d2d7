"""Attention in float64 on the CPU, from its definition (interface/), and the errors that results may have."""

from __future__ import annotations

import math
from typing import Iterable, Optional, Tuple

import torch

from .. import launching


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax_scale: float,
    window: Tuple[int, int],
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    sinks: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """(output, lse) in float64 of one sequence: `[seqlen, heads, head_dim]` on the CPU, lse `[heads, seqlen_q]`.

    window: (left, right), -1 = unbounded; causal is right = 0. alibi_slopes, sinks: `[heads]`. softcap 0.0 = none.
    attn_bias: `[heads, seqlen_q, seqlen_k or more]`, bool or floating.
    """
    seqlen_q, num_heads = query.shape[:2]
    seqlen_k, num_heads_kv = key.shape[:2]
    distance = torch.arange(seqlen_k) - (torch.arange(seqlen_q)[:, None] + seqlen_k - seqlen_q)
    hidden = torch.zeros(seqlen_q, seqlen_k, dtype=torch.bool)
    if window[0] >= 0:
        hidden |= distance < -window[0]
    if window[1] >= 0:
        hidden |= distance > window[1]
    output = torch.zeros(seqlen_q, num_heads, value.shape[-1], dtype=torch.float64)
    lse = torch.full((num_heads, seqlen_q), -math.inf, dtype=torch.float64)
    beyond_window = hidden
    for head in range(num_heads if seqlen_k else 0):  # one matrix of scores at a time
        if attn_bias is not None:
            bias = attn_bias[head, :, :seqlen_k]
            hidden = beyond_window | (~bias if bias.dtype == torch.bool else bias == -math.inf)
        rows = ~hidden.all(dim=1)
        head_kv = head * num_heads_kv // num_heads
        scores = softmax_scale * (query[rows, head].double() @ key[:, head_kv].double().T)
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        if alibi_slopes is not None:
            scores = scores - alibi_slopes[head].double() * distance[rows].abs()
        if attn_bias is not None and bias.dtype != torch.bool:
            scores = scores + bias[rows].double()
        scores = scores.masked_fill(hidden[rows], -math.inf)
        divisor = torch.logsumexp(scores, dim=1)
        if sinks is not None:
            divisor = torch.logaddexp(divisor, sinks[head].double())
        lse[head, rows] = divisor
        output[rows, head] = torch.exp(scores - divisor[:, None]) @ value[:, head_kv].double()
    return output, lse


def output_error(output: torch.Tensor, expected: torch.Tensor, value: torch.Tensor) -> float:
    """The largest error, as a part of the largest that is allowed; NaN when the output is not finite.

    Allowed is 5e-6 of the largest value in float32; in the half precisions 1.1 times the rounding of the expected
    output, and 4e-6 of the largest value, or 2^-12 more where the matrix unit may take rounded weights.
    """
    if not output.numel():
        return 0.0
    largest = value.double().abs().max().item() if value.numel() else 0.0
    if output.dtype == torch.float32:
        allowed = 5e-6 * largest
    else:
        target = launching.current()
        weights = 2**-12 if target is not None and target.device.matrix_unit else 0.0
        allowed = 1.1 * (expected.to(output.dtype).double() - expected).abs().max().item() + (4e-6 + weights) * largest
    return _part((output.double() - expected).abs().max().item(), allowed)


def lse_error(lse: torch.Tensor, expected: torch.Tensor) -> float:
    """As `output_error`: 4e-6 of 1 + |lse| is allowed, and -inf must be in the same places."""
    finite = torch.isfinite(expected)
    if not torch.equal(lse.double() == -math.inf, ~finite):
        return math.nan
    if not finite.any():
        return 0.0
    return _part(((lse.double() - expected).abs() / (1 + expected.abs()))[finite].max().item(), 4e-6)


def gradient_error(grad: torch.Tensor, expected: torch.Tensor) -> float:
    """As `output_error`: two roundings to the dtype, or 1e-5 in float32, of 1 + the largest gradient are allowed."""
    if not grad.numel():
        return 0.0
    relative = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[grad.dtype]
    error = (grad.double() - expected).abs().max().item()
    return _part(error, relative * (1 + expected.abs().max().item()))


def largest(errors: Iterable[float]) -> float:
    """NaN is the largest."""
    return max(errors, key=lambda error: (error != error, error), default=0.0)


def _part(error: float, allowed: float) -> float:
    return error / allowed if allowed > 0 else (0.0 if error == 0 else math.nan)
