"""The softmax weights of one chunk of attention on the CPU, and the gradients through them; cpu.py has the chunks."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import torch


class Chunk(NamedTuple):
    rows: slice
    keys: slice  # all that the rows see
    diagonal: int  # row r stands at the position of key r + diagonal
    mask: Optional[torch.Tensor]  # [rows, keys], True where seen; None if every row sees every key
    is_causal: bool  # instead of a mask: row r sees the keys up to r


class Dropout:
    """Masks of the chunks, the same for the same seed when chunks ask in the same order."""

    def __init__(self, probability: float, seed: torch.Tensor):
        self.kept = 1 - probability
        self.generator = torch.Generator().manual_seed(int(seed))

    def mask(self, weights: torch.Tensor) -> torch.Tensor:
        """Factors of the weights: 0 where dropped, else 1 / kept."""
        return torch.empty_like(weights).bernoulli_(self.kept, generator=self.generator).div_(self.kept)


class Scoring(NamedTuple):
    """What makes weights of the products of queries and keys."""

    softmax_scale: float
    softcap: float  # 0.0 = none
    alibi_slopes: Optional[torch.Tensor]  # [heads] or [batch, heads]
    sinks: Optional[torch.Tensor]  # [heads]
    dropout: Optional[Dropout]

    def slopes(self, sequence: int) -> torch.Tensor:
        return self.alibi_slopes if self.alibi_slopes.dim() == 1 else self.alibi_slopes[sequence]


def make_scoring(softmax_scale, softcap, alibi_slopes, sinks, dropout_p, dropout_seed) -> Scoring:
    if sinks is not None:
        sinks = sinks.clamp(max=torch.finfo(torch.float32).max)  # the difference of two infinities is NaN
    dropout = Dropout(dropout_p, dropout_seed) if dropout_p > 0 else None
    return Scoring(softmax_scale, softcap, alibi_slopes, sinks, dropout)


def softmax_weights(
    q: torch.Tensor, k: torch.Tensor, chunk: Chunk, scoring: Scoring, sequence: int
) -> Tuple[torch.Tensor, torch.Tensor, Optional[torch.Tensor]]:
    """Softmax weights [batch, heads_kv, group * rows, keys], lse [batch, heads, rows], and with a softcap the tanh of
    the scores, shaped like the weights; every row sees a key.

    The query heads that share a key/value head are stacked as rows, so that keys are not repeated.
    """
    batch, num_heads, rows, head_dim = q.shape
    num_heads_kv, keys = k.shape[1:3]
    scores = torch.matmul(q.reshape(batch, num_heads_kv, -1, head_dim), k.transpose(2, 3))
    tanh = None
    if scoring.softcap == 0:
        scores.mul_(scoring.softmax_scale)
    else:
        tanh = scores.mul_(scoring.softmax_scale / scoring.softcap).tanh_()
        scores = tanh * scoring.softcap
    by_head = scores.view(batch, num_heads_kv, -1, rows, keys)
    if scoring.alibi_slopes is not None:
        position = integers(chunk.rows).unsqueeze(1) + chunk.diagonal
        distance = (position - integers(chunk.keys)).abs_()
        by_head.addcmul_(scoring.slopes(sequence).view(num_heads_kv, -1, 1, 1), distance.float(), value=-1)
    if chunk.mask is not None:
        by_head.masked_fill_(~chunk.mask, -torch.inf)
    row_max = scores.amax(dim=-1, keepdim=True)
    if scoring.sinks is None:
        weights = scores.sub_(row_max).exp_()
        row_sum = weights.sum(dim=-1, keepdim=True)
    else:  # one more key for every row, without a value
        sinks = _stacked_sinks(scoring.sinks, num_heads_kv, rows)
        row_max = torch.maximum(row_max, sinks)
        weights = scores.sub_(row_max).exp_()
        row_sum = weights.sum(dim=-1, keepdim=True).add_(torch.exp(sinks - row_max))
    return weights.div_(row_sum), row_sum.log_().add_(row_max).view(batch, num_heads, rows), tanh


def chunk_backward(grad_output, grad_lse, q, k, v, chunk, scoring, sequence):
    """Gradients of a chunk's q, k, v and of the sinks (None without).

    With P the weights: dS = P * (dP - rowsum(P * dP) + dlse); a sink is a score whose dP is 0. With dropout, the
    output is made of mask * P, and dP takes the same mask.
    """
    weights, lse, tanh = softmax_weights(q, k, chunk, scoring, sequence)
    stacked = (*k.shape[:2], -1)  # query heads that share a key/value head, as rows
    grad_out = grad_output.reshape(*stacked, v.shape[-1])
    grad_weights = torch.matmul(grad_out, v.transpose(2, 3))
    if scoring.dropout is None:
        grad_v = torch.matmul(weights.transpose(2, 3), grad_out)
    else:
        mask = scoring.dropout.mask(weights)
        grad_weights.mul_(mask)
        grad_v = torch.matmul(mask.mul_(weights).transpose(2, 3), grad_out)
    offset = torch.linalg.vecdot(weights, grad_weights).unsqueeze(-1)
    if grad_lse is not None:
        offset = offset - grad_lse.reshape(*stacked, 1)
    grad_scores = grad_weights.sub_(offset).mul_(weights).mul_(scoring.softmax_scale)
    if tanh is not None:  # the derivative of softcap * tanh(x / softcap)
        grad_scores.mul_(tanh.square_().neg_().add_(1))
    grad_q = torch.matmul(grad_scores, k).view(q.shape)
    grad_k = torch.matmul(grad_scores.transpose(2, 3), q.reshape(*stacked, q.shape[-1]))
    grad_sinks = None
    if scoring.sinks is not None:
        sink_weights = torch.exp(scoring.sinks.unsqueeze(-1) - lse)
        grad_sinks = -(sink_weights * offset.view(lse.shape)).sum(dim=(0, 2))
    return grad_q, grad_k, grad_v, grad_sinks


def integers(bounds: slice) -> torch.Tensor:
    return torch.arange(bounds.start, bounds.stop)


def _stacked_sinks(sinks: torch.Tensor, num_heads_kv: int, rows: int) -> torch.Tensor:
    """[heads_kv, group * rows, 1]"""
    return sinks.view(num_heads_kv, -1, 1).expand(-1, -1, rows).reshape(num_heads_kv, -1, 1)
