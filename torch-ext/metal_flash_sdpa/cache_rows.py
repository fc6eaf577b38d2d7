"""A cache's rows as one line of tokens: how kernels reach sequences that begin anywhere in their rows.

As two sequences that follow each other in the batch may lie anywhere, there is a sequence without queries between
them, from the end of the one to the beginning of the other: a pair of cu_seqlens_k for each.
"""

from __future__ import annotations

from typing import Optional

import torch


def packed_inputs(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    lengths: Optional[torch.Tensor],
    rows: Optional[torch.Tensor],
    leftpad: Optional[torch.Tensor],
    slopes: Optional[torch.Tensor],
    sinks: Optional[torch.Tensor],
) -> tuple:
    """The tensors of attention_forward, packed, for those of attention_over_rows. No value is read."""
    batch, seqlen_q = query.shape[:2]
    capacity = keys.shape[1]
    rows = torch.arange(batch, device=query.device) if rows is None else rows.long().clamp(0, keys.shape[0] - 1)
    step = _row_step(keys)
    if step is None or step != _row_step(values):
        keys, values = keys[rows], values[rows]
        rows, step = torch.arange(batch, device=query.device), capacity
    starts = torch.zeros_like(rows) if leftpad is None else leftpad.long().clamp(0, capacity)
    ends = torch.full_like(rows, capacity) if lengths is None else lengths.long().clamp(0, capacity)
    bounds = torch.stack((starts, ends.maximum(starts)), dim=1) + (rows * step).unsqueeze(1)
    cu_seqlens_k = torch.cat((bounds.flatten(), rows.new_zeros(1)))
    cu_seqlens_q = (torch.arange(2 * batch + 1, device=query.device) + 1) // 2 * seqlen_q
    if slopes is not None and slopes.dim() == 2:
        slopes = slopes.repeat_interleave(2, dim=0)
    tensors = query.flatten(0, 1), _as_line(keys, step), _as_line(values, step)
    return (*tensors, cu_seqlens_q.int(), cu_seqlens_k.int(), None, None, slopes, sinks)


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
