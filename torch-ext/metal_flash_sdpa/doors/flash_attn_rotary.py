"""`flash_attn.layers.rotary` of flash-attn 2.8.3: its function. Composed of PyTorch's operators, on any device."""

from __future__ import annotations

from typing import Optional, Union

import torch

from ..checks.tensors import check_tensor
from ..interface.rotary import Rotary


def apply_rotary_emb(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: Union[int, torch.Tensor] = 0,
    cu_seqlens: Optional[torch.Tensor] = None,
    max_seqlen: Optional[int] = None,
) -> torch.Tensor:
    """Rotary position embedding of queries or keys, computed in fp32.

    Args:
        x: `[batch, seqlen, num_heads, head_dim]`, or, with cu_seqlens, `[total, num_heads, head_dim]`.
        cos, sin: `[positions, rotary_dim / 2]`, rotary_dim up to head_dim. Token t of a sequence is rotated by the row
            t + its offset, and stays as it is if there is no such row.
        interleaved: whether the elements 0 and 1, 2 and 3, ... are rotated together, else 0 and rotary_dim / 2, ...
        inplace: whether x itself is rotated, and returned.
        seqlen_offsets: int, or `[batch]` of integers: the position of each sequence's first token.
        cu_seqlens: `[batch + 1]`, int32: where each sequence begins in x; tokens of none stay as they are.
        max_seqlen: accepted; nothing depends on it.

    Returns the shape and dtype of x. Raises TypeError, ValueError.
    """
    layout = "[batch, seqlen, heads, head_dim]" if cu_seqlens is None else "[total, heads, head_dim]"
    check_tensor(x, "x", layout)
    if x.dim() != (4 if cu_seqlens is None else 3):
        raise ValueError(f"x must have the dimensions {layout}, got shape {tuple(x.shape)}")
    for table, name in ((cos, "cos"), (sin, "sin")):
        check_tensor(table, name, "[positions, rotary_dim / 2]", at_least=2)
        if table.dim() != 2 or not 1 <= table.shape[1] <= x.shape[-1] // 2 or table.shape[0] < 1:
            raise ValueError(
                f"{name} must have shape [positions, rotary_dim / 2] with a rotary_dim of 2 to the head_dim, "
                f"{x.shape[-1]}, got shape {tuple(table.shape)}"
            )
    if sin.shape != cos.shape:
        raise ValueError(f"sin must have the shape of cos, {tuple(cos.shape)}, got shape {tuple(sin.shape)}")
    if cu_seqlens is None:
        batch, seqlen = x.shape[:2]
        positions = _offsets(seqlen_offsets, batch, x).unsqueeze(1) + torch.arange(seqlen, device=x.device)
        is_token = torch.ones_like(positions, dtype=torch.bool)
    else:
        batch, token = cu_seqlens.shape[0] - 1, torch.arange(x.shape[0], device=x.device)
        bounds = cu_seqlens.long()
        sequence = torch.searchsorted(bounds[1:].contiguous(), token, right=True)
        is_token = (sequence < batch) & (token >= bounds[0])
        starts = torch.cat((_offsets(seqlen_offsets, batch, x) - bounds[:-1], bounds.new_zeros(1)))
        positions, is_token = (token + starts[sequence]).unsqueeze(0), is_token.unsqueeze(0)
    tokens = x if cu_seqlens is None else x.unsqueeze(0)
    rotated = Rotary(cos, sin, interleaved).rotate(tokens, positions)
    has_row = is_token & (positions >= 0) & (positions < cos.shape[0])
    rotated = rotated.where(has_row[..., None, None], tokens).reshape(x.shape)
    return x.copy_(rotated) if inplace else rotated


def _offsets(seqlen_offsets: Union[int, torch.Tensor], batch: int, x: torch.Tensor) -> torch.Tensor:
    """`[batch]`."""
    if isinstance(seqlen_offsets, torch.Tensor):
        if seqlen_offsets.shape != (batch,):
            raise ValueError(
                f"seqlen_offsets must be an int or have shape [batch] = {(batch,)}, "
                f"got shape {tuple(seqlen_offsets.shape)}"
            )
        return seqlen_offsets.long()
    return torch.full((batch,), seqlen_offsets, dtype=torch.int64, device=x.device)


apply_rotary_emb_func = apply_rotary_emb
