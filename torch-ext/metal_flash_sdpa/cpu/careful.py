"""A chunk of attention on the CPU at any magnitude: in fp32 and, where that is too small or too coarse, in float64.

float64 holds the results of all finite inputs. Numbers that are not finite are taken out before and marked in the
results of the rows that see them: no product with a weight of 0 carries them to other rows. Those keep the bits that
they have beside ordinary numbers.
"""

from __future__ import annotations

import math
from typing import Callable, Optional, Tuple

import torch

from ..call import Gradients
from .weights import MAX_LSE, Chunk, Scoring, chunk_backward, chunk_forward, hidden_by, is_good

PIECE_SCORES = 2**20  # scores that are formed at once
SAFE_SCORE = 2.0**126  # sums of products up to here are finite in fp32


def careful_forward(
    attend: Callable,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    chunk: Chunk,
    scoring: Scoring,
    dropped: Optional[torch.Tensor],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """(output, lse) as of `attend`, which is chunk_forward or a function like it."""
    output, lse, good = attend(q, k, v, chunk, scoring, dropped)
    if good:
        return output, lse
    in_order = scoring._replace(in_order=True)
    num_heads, rows, head_dim = q.shape[1:]
    bad_q, bad_k, bad_v = (~tensor.isfinite() for tensor in (q, k, v))
    bad_rows, bad_keys = bad_q.any(dim=-1, keepdim=True), bad_k.any(dim=-1, keepdim=True)
    q, k, v = (tensor.nan_to_num(0.0, 0.0, 0.0) for tensor in (q, k, v))
    # Keys that rows which do not see them must not meet: a masked score may be NaN, and so is 0 times such a value.
    largest = math.sqrt(SAFE_SCORE / (head_dim * max(1.0, abs(scoring.softmax_scale))))
    odd = bad_keys | bad_v.any(dim=-1, keepdim=True) | (k.abs().amax(dim=-1, keepdim=True) > largest)
    without = k.masked_fill(odd, 0.0), v.masked_fill(odd, 0.0)
    again, again_lse, _ = attend(q, *without, chunk, scoring, dropped)
    q, k, v = q.double(), k.double(), v.double()
    step = max(1, PIECE_SCORES // (q.shape[0] * num_heads * k.shape[2]))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        here = (slice(None), slice(None), slice(begin, end))
        part = chunk.part(begin, end)
        dropped_here = None if dropped is None else dropped[here]
        of_part = in_order.part(slice(None), slice(begin, end))
        visible = _visible(chunk, begin, end, of_part)
        exact, exact_lse, _ = chunk_forward(q[here], k, v, part, of_part, dropped_here)
        sees_odd = _any_seen(visible, odd, num_heads)
        no_weights = bad_rows[here] | _any_seen(visible, bad_keys, num_heads)
        for result, second, third, mark in (
            (output, again, exact, no_weights | _any_seen(visible, bad_v, num_heads)),
            (lse.unsqueeze(-1), again_lse.unsqueeze(-1), exact_lse.unsqueeze(-1), no_weights),
        ):
            keep = _good_rows(result[here], lse[here])
            use_again = _good_rows(second[here], again_lse[here]) & ~sees_odd
            best = result[here].where(keep, second[here].where(use_again, third.to(result.dtype)))
            result[here] = best.masked_fill(mark, torch.nan)
    return output, lse


def careful_backward(grad_output, grad_lse, q, k, v, chunk, scoring, dropped):
    """The gradients of chunk_backward; what is odd in one sequence changes no bits of another's."""
    inputs = grad_output, grad_lse, q, k, v
    grads, lse = chunk_backward(*inputs, chunk, scoring, dropped)
    if not is_good(lse, *grads):
        for b in range(lse.shape[0]):
            one = slice(b, b + 1)
            parts = [None if grad is None else grad[one] for grad in grads]
            if not is_good(lse[one], *parts):
                *alone, dropped_alone = (None if tensor is None else tensor[one] for tensor in (*inputs, dropped))
                of_one = scoring.part(one, slice(None))
                for part, exact in zip(parts, _exact_backward(alone, chunk, of_one, dropped_alone)):
                    if part is not None:
                        part.copy_(exact)
    return grads


def _exact_backward(inputs, chunk: Chunk, scoring: Scoring, dropped: Optional[torch.Tensor]) -> Gradients:
    grad_output, grad_lse, q, k, v = inputs
    in_order = scoring._replace(in_order=True)
    arguments: tuple = (*map(_finite_double, inputs), chunk, in_order, dropped)
    grads, _ = chunk_backward(*arguments)
    num_heads, num_heads_kv = q.shape[1], k.shape[1]
    visible = _visible(chunk, 0, q.shape[2], scoring)
    bad_grad = ~grad_output.isfinite()
    bad_q, bad_k, bad_v = (~tensor.isfinite().all(dim=-1, keepdim=True) for tensor in (q, k, v))
    bad_weights = bad_q | _any_seen(visible, bad_k, num_heads)
    bad_scores = bad_weights | _any_seen(visible, bad_v, num_heads) | bad_grad.any(dim=-1, keepdim=True)
    if grad_lse is not None:
        bad_scores |= ~grad_lse.isfinite().unsqueeze(-1)
    marks = Gradients(
        query=bad_scores,
        key=_any_seeing(visible, bad_scores, num_heads_kv),
        value=_any_seeing(visible, bad_weights | bad_grad, num_heads_kv),
        sinks=bad_scores.any(dim=2).squeeze(-1),
        attn_bias=bad_scores,
    )
    marked = (None if grad is None else grad.masked_fill(mark, torch.nan) for grad, mark in zip(grads, marks))
    return Gradients._make(marked)


def _finite_double(tensor: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    return None if tensor is None else tensor.nan_to_num(0.0, 0.0, 0.0).double()


def _good_rows(output: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
    """bool [batch, heads, rows, 1]"""
    return output.isfinite().all(dim=-1, keepdim=True) & (lse.abs() <= MAX_LSE).unsqueeze(-1)


def _visible(chunk: Chunk, begin: int, end: int, scoring: Scoring) -> torch.Tensor:
    """1.0 where a row sees a key, else 0.0: [rows, keys], with an attn_bias [batch or 1, heads or 1, rows, keys]."""
    visible = chunk.visible(begin, end)
    if scoring.attn_bias is not None:
        visible = visible & ~hidden_by(scoring.attn_bias)
    return visible.double()


def _any_seen(visible: torch.Tensor, keys: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Whether a row sees any such key: bool [batch, heads_kv, keys, n] -> [batch, heads, rows, n]."""
    group = num_heads // keys.shape[1]
    if visible.dim() == 2:  # the same for all heads
        return (torch.matmul(visible, keys.double()) > 0).repeat_interleave(group, dim=1)
    return torch.matmul(visible, keys.double().repeat_interleave(group, dim=1)) > 0


def _any_seeing(visible: torch.Tensor, rows: torch.Tensor, num_heads_kv: int) -> torch.Tensor:
    """Whether any such row sees a key: bool [batch, heads, rows, n] -> [batch, heads_kv, keys, n]."""
    seeing = torch.matmul(visible.mT, rows.double()) > 0
    return seeing.unflatten(1, (num_heads_kv, -1)).any(dim=2)
