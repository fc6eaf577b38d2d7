"""A cache's rows as one line of tokens: how kernels reach sequences that begin anywhere in their rows.

As two sequences that follow each other in the batch may lie anywhere, there is a sequence without queries between
them, from the end of the one to the beginning of the other: a pair of cu_seqlens_k for each.
"""

from __future__ import annotations

from typing import Optional

import torch

from ..call import Call


def packed(call: Call, cache_batch_idx: Optional[torch.Tensor], cache_leftpad: Optional[torch.Tensor]) -> Call:
    """The packed call that does what attention_over_rows is asked for. No value is read."""
    query, keys, values = call.query, call.key, call.value
    batch, seqlen_q = query.shape[:2]
    capacity = keys.shape[1]
    if cache_batch_idx is None:
        rows = torch.arange(batch, device=query.device)
    else:
        rows = cache_batch_idx.long().clamp(0, keys.shape[0] - 1)
    step = _row_step(keys)
    if step is None or step != _row_step(values):
        keys, values = keys[rows], values[rows]
        rows, step = torch.arange(batch, device=query.device), capacity
    starts = torch.zeros_like(rows) if cache_leftpad is None else cache_leftpad.long().clamp(0, capacity)
    ends = torch.full_like(rows, capacity) if call.seqused_k is None else call.seqused_k.long().clamp(0, capacity)
    bounds = torch.stack((starts, ends.maximum(starts)), dim=1) + (rows * step).unsqueeze(1)
    cu_seqlens_k = torch.cat((bounds.flatten(), rows.new_zeros(1)))
    cu_seqlens_q = (torch.arange(2 * batch + 1, device=query.device) + 1) // 2 * seqlen_q
    attn_bias = call.attn_bias
    if attn_bias is not None:
        attn_bias = _by_token(attn_bias, cache_leftpad, batch, seqlen_q)
    alibi_slopes = call.alibi_slopes
    if alibi_slopes is not None and alibi_slopes.dim() == 2:
        alibi_slopes = alibi_slopes.repeat_interleave(2, dim=0)
    return call._replace(
        query=query.flatten(0, 1),
        key=_as_line(keys, step),
        value=_as_line(values, step),
        cu_seqlens_q=cu_seqlens_q.int(),
        cu_seqlens_k=cu_seqlens_k.int(),
        seqused_k=None,
        alibi_slopes=alibi_slopes,
        attn_bias=attn_bias,
    )


def _by_token(
    attn_bias: torch.Tensor, cache_leftpad: Optional[torch.Tensor], batch: int, seqlen_q: int
) -> torch.Tensor:
    """[batch, heads, seqlen_q, slots] -> [heads, tokens, keys]: the first key lies in the slot cache_leftpad."""
    slots = attn_bias.shape[3]
    if cache_leftpad is not None and slots > 1:
        slot = torch.arange(slots, device=attn_bias.device) + cache_leftpad.long().clamp(0, slots).view(batch, 1, 1, 1)
        attn_bias = attn_bias.expand(batch, -1, -1, -1)
        attn_bias = attn_bias.gather(3, slot.clamp(max=slots - 1).expand(attn_bias.shape))
        hidden = 0.0 if attn_bias.dtype == torch.bool else -torch.inf
        attn_bias = attn_bias.masked_fill(slot >= slots, hidden)
    return attn_bias.expand(batch, -1, seqlen_q, -1).transpose(0, 1).flatten(1, 2)


def _row_step(cache: torch.Tensor) -> Optional[int]:
    """Tokens from one row of the cache to the next, in units of the step between tokens; None if that is no integer."""
    row, token = cache.stride()[:2]
    if cache.shape[0] < 2:
        return cache.shape[1]
    return row // token if token > 0 and row % token == 0 else None


def _as_line(cache: torch.Tensor, step: int) -> torch.Tensor:
    """[tokens, heads, head_dim]: token t of row r is row r * step + t of the view."""
    tokens = (cache.shape[0] - 1) * step + cache.shape[1] if cache.shape[0] else 0
    return cache.as_strided((tokens, *cache.shape[2:]), cache.stride()[1:])
