"""One chunk of attention on the CPU, from its softmax weights, and the gradients through them.

Everything is computed in the dtype of the query, key and value given: fp32 or float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional, Tuple

import torch

from ..call import Gradients

MAX_LSE = 1024.0  # of fp32, in size: the scores below are rounded by 6e-5


class Chunk(NamedTuple):
    rows: slice
    keys: slice  # all that the rows see
    diagonal: int  # row r stands at the position of key r + diagonal
    mask: Optional[torch.Tensor]  # [rows, keys], True where seen; None if every row sees every key
    is_causal: bool  # instead of a mask: row r sees the keys up to r

    def visible(self, begin: int, end: int) -> torch.Tensor:
        """The mask of those of its rows, also where it has none."""
        keys = self.keys.stop - self.keys.start
        if self.mask is not None:
            return self.mask[begin:end]
        if self.is_causal:
            return integers(slice(0, keys)) <= integers(slice(begin, end)).unsqueeze(1)
        return torch.ones(end - begin, keys, dtype=torch.bool, device="cpu")

    def part(self, begin: int, end: int) -> Chunk:
        """Those of its rows, always with a mask."""
        rows = slice(self.rows.start + begin, self.rows.start + end)
        return Chunk(rows, self.keys, self.diagonal, self.visible(begin, end), False)


class Scoring(NamedTuple):
    """What makes weights of the products of queries and keys."""

    softmax_scale: float
    softcap: float  # 0.0 = none
    alibi_slopes: Optional[torch.Tensor]  # [heads] or [batch, heads]
    sinks: Optional[torch.Tensor]  # [heads]
    attn_bias: Optional[torch.Tensor] = None  # bool (True = seen) or floating, broadcast to [batch, heads, rows, keys]
    in_order: bool = False  # every product of a query and a key added up in the same order: equal keys, equal scores

    def of(self, sequences: slice, bias_index: Tuple[slice, ...]) -> Scoring:
        """For some sequences of the batch, and a part of attn_bias."""
        slopes, bias = self.alibi_slopes, self.attn_bias
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[sequences]
        return self._replace(alibi_slopes=slopes, attn_bias=None if bias is None else bias[bias_index])

    def part(self, sequence: slice, rows: slice) -> Scoring:
        """For some sequences and rows of those that it is for."""
        bias = self.attn_bias
        if bias is None:
            return self.of(sequence, ())
        everything = slice(None)
        batch, which = everything if bias.shape[0] == 1 else sequence, everything if bias.shape[2] == 1 else rows
        return self.of(sequence, (batch, everything, which))

    def add_bias(self, scores: torch.Tensor) -> None:
        """Adds attn_bias to the scores [batch, heads_kv, group, rows, keys]. Those that it hides become -inf, and no
        others: sums beyond fp32 stay in it, to be found by their size."""
        bias = self.attn_bias
        if bias is None:
            return
        bias = bias.unsqueeze(2) if bias.shape[1] == 1 else bias.unflatten(1, scores.shape[1:3])
        if bias.dtype != torch.bool:
            scores.add_(bias)
        scores.clamp_(min=torch.finfo(scores.dtype).min).masked_fill_(hidden_by(bias), -torch.inf)


def hidden_by(attn_bias: torch.Tensor) -> torch.Tensor:
    return ~attn_bias if attn_bias.dtype == torch.bool else attn_bias == -torch.inf


class _Softmax(NamedTuple):
    weights: torch.Tensor  # [batch, heads_kv, group * rows, keys]
    lse: torch.Tensor  # [batch, heads, rows]
    tanh: Optional[torch.Tensor]  # of the scores, like the weights; None without softcap
    sink_weights: Optional[torch.Tensor]  # [batch, heads, rows]


def _softmax(q: torch.Tensor, k: torch.Tensor, chunk: Chunk, scoring: Scoring) -> _Softmax:
    """Every row sees a key. The query heads that share a key/value head are stacked as rows, so that keys are not
    repeated."""
    batch, num_heads, rows, head_dim = q.shape
    num_heads_kv, keys = k.shape[1:3]
    stacked = q.reshape(batch, num_heads_kv, -1, head_dim)
    scores = _products_in_order(stacked, k) if scoring.in_order else torch.matmul(stacked, k.transpose(2, 3))
    scores.mul_(scoring.softmax_scale)
    tanh = None
    if scoring.softcap > 0:  # scale / softcap may leave the range of fp32, so one after the other
        tanh = scores.div_(scoring.softcap).tanh_()
        scores = tanh * scoring.softcap
    by_head = scores.view(batch, num_heads_kv, -1, rows, keys)
    if scoring.alibi_slopes is not None:
        position = integers(chunk.rows).unsqueeze(1) + chunk.diagonal
        distance = (position - integers(chunk.keys)).abs_().to(scores.dtype)
        slopes = scoring.alibi_slopes.to(scores.dtype).view(-1, *by_head.shape[1:3], 1, 1)
        by_head.addcmul_(slopes, distance, value=-1)
    scoring.add_bias(by_head)
    if chunk.mask is not None:
        by_head.masked_fill_(~chunk.mask, -torch.inf)
    row_max = scores.amax(dim=-1, keepdim=True)
    blind = None  # rows that attn_bias shows no key
    if scoring.attn_bias is not None:
        blind = row_max == -torch.inf
        row_max.masked_fill_(blind, 0.0)
    if scoring.sinks is None:
        weights = scores.sub_(row_max).exp_()
        row_sum = weights.sum(dim=-1, keepdim=True)
        sink_weights = None
    else:  # one more key for every row, without a value
        largest = torch.finfo(scores.dtype).max  # the difference of two infinities is NaN
        sinks = scoring.sinks.to(scores.dtype).clamp(max=largest).view(num_heads_kv, -1, 1)
        sinks = sinks.expand(-1, -1, rows).reshape(num_heads_kv, -1, 1)
        row_max = torch.maximum(row_max, sinks)
        weights = scores.sub_(row_max).exp_()
        sink_weights = torch.exp(sinks - row_max)
        row_sum = weights.sum(dim=-1, keepdim=True).add_(sink_weights)
        sink_weights = sink_weights.div_(row_sum)
        if blind is not None:
            sink_weights.masked_fill_(blind, 0.0)
        sink_weights = sink_weights.view(batch, num_heads, rows)
    if blind is not None:
        row_sum.masked_fill_(blind, 1.0)
    weights.div_(row_sum)
    lse = row_sum.log_().add_(row_max)
    if blind is not None:
        lse.masked_fill_(blind, -torch.inf)
    return _Softmax(weights, lse.view(batch, num_heads, rows), tanh, sink_weights)


def _products_in_order(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """As torch.matmul(q, k.transpose(2, 3)), which does not add up all columns in the same order."""
    products = q.new_zeros((*q.shape[:3], k.shape[2]))
    for column in range(q.shape[3]):
        products.addcmul_(q[..., column : column + 1], k[..., column].unsqueeze(2))
    return products


def chunk_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    chunk: Chunk,
    scoring: Scoring,
    dropped: Optional[torch.Tensor],
) -> Tuple[torch.Tensor, torch.Tensor, bool]:
    """(output [batch, heads, rows, head_dim], lse [batch, heads, rows], whether fp32 is good enough for both); dropped:
    factors of the weights [batch, heads, rows, keys], None without dropout."""
    weights, lse, _, _ = _softmax(q, k, chunk, scoring)
    if dropped is not None:
        weights.mul_(dropped.view_as(weights))
    output = torch.matmul(weights, v).view(*q.shape[:3], -1)
    return output, lse, is_good(lse, output)


def chunk_backward(grad_output, grad_lse, q, k, v, chunk, scoring, dropped):
    """Gradients of a chunk's q, k, v, of the sinks ([batch, heads], None without) and of a floating attn_bias ([batch,
    heads, rows, keys], None without), and the lse.

    With P the weights: dS = P * (dP - rowsum(P * dP) + dlse); a sink is a score whose dP is 0. With dropout, the
    output is made of dropped * P, and dP takes the same factors.
    """
    weights, lse, tanh, sink_weights = _softmax(q, k, chunk, scoring)
    stacked = (*k.shape[:2], -1)  # query heads that share a key/value head, as rows
    grad_out = grad_output.reshape(*stacked, v.shape[-1])
    grad_weights = torch.matmul(grad_out, v.transpose(2, 3))
    if dropped is None:
        grad_v = torch.matmul(weights.transpose(2, 3), grad_out)
    else:
        dropped = dropped.view_as(weights)
        grad_weights.mul_(dropped)
        grad_v = torch.matmul((dropped * weights).transpose(2, 3), grad_out)
    offset = torch.linalg.vecdot(weights, grad_weights).unsqueeze(-1)
    if grad_lse is not None:
        offset = offset - grad_lse.reshape(*stacked, 1)
    grad_scores = grad_weights.sub_(offset).mul_(weights)
    grad_bias = None
    if scoring.attn_bias is not None and scoring.attn_bias.is_floating_point():
        grad_bias = grad_scores.view(*q.shape[:3], -1).clone()
    grad_scores.mul_(scoring.softmax_scale)
    if tanh is not None:  # the derivative of softcap * tanh(x / softcap)
        grad_scores.mul_(tanh.square_().neg_().add_(1))
    grad_q = torch.matmul(grad_scores, k).view(q.shape)
    grad_k = torch.matmul(grad_scores.transpose(2, 3), q.reshape(*stacked, q.shape[-1]))
    grad_sinks = None if sink_weights is None else -(sink_weights * offset.view(lse.shape)).sum(dim=2)
    return Gradients(grad_q, grad_k, grad_v, grad_sinks, grad_bias), lse


def is_good(lse: torch.Tensor, *results: Optional[torch.Tensor]) -> bool:
    """Whether fp32 is good enough for a chunk. No lse, but of rows that see no key, is NaN or stands for scores whose
    rounding to fp32 shows, even where all keys are equal, and the results are finite. False also where only the sum of
    finite numbers is not."""
    if not torch.linalg.vector_norm(lse, torch.inf) <= MAX_LSE:
        seen = lse[lse != -torch.inf]
        if seen.numel() == lse.numel() or not (seen.abs() <= MAX_LSE).all():
            return False
    return all(result is None or math.isfinite(result.sum()) for result in results)


def integers(bounds: slice) -> torch.Tensor:
    return torch.arange(bounds.start, bounds.stop, dtype=torch.int64, device="cpu")
