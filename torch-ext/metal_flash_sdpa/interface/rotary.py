"""Rotary position embedding, for what is appended to a cache and for its queries."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch

from ..checks.scalars import as_flag, refuse_gradient
from ..checks.tensors import check_tensor


class Rotary(NamedTuple):
    cos: torch.Tensor  # [positions, rotary_dim / 2]
    sin: torch.Tensor
    interleaved: bool  # the elements 0 and 1, 2 and 3, ... are rotated together; else 0 and rotary_dim / 2, ...

    def rotate(self, tensor: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The tensor [batch, tokens, heads, head_dim], its first rotary_dim elements rotated by the angles of positions
        [batch, tokens or 1], in fp32."""
        positions = positions.clamp(0, self.cos.shape[0] - 1)
        cos, sin = (table[positions].float().unsqueeze(2) for table in (self.cos, self.sin))
        half = self.cos.shape[1]
        rotated = tensor[..., : 2 * half].float()
        if self.interleaved:
            first, second = rotated[..., ::2], rotated[..., 1::2]
        else:
            first, second = rotated[..., :half], rotated[..., half:]
        pair = first * cos - second * sin, first * sin + second * cos
        turned = torch.stack(pair, dim=-1).flatten(-2) if self.interleaved else torch.cat(pair, dim=-1)
        return torch.cat((turned.to(tensor.dtype), tensor[..., 2 * half :]), dim=-1)


def check_rotary(
    rotary_cos: Optional[torch.Tensor],
    rotary_sin: Optional[torch.Tensor],
    rotary_interleaved: bool,
    query: torch.Tensor,
    capacity: int,
) -> Optional[Rotary]:
    """For tokens at positions below `capacity`. None without."""
    interleaved = as_flag(rotary_interleaved, "rotary_interleaved")
    if rotary_cos is None and rotary_sin is None:
        return None
    dtypes, tables = (query.dtype, torch.float32), []
    for tensor, name in ((rotary_cos, "rotary_cos"), (rotary_sin, "rotary_sin")):
        tensor = check_tensor(tensor, name, "[positions, rotary_dim / 2]", at_least=2, dtypes=dtypes)
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on the device of q, {query.device}, got {tensor.device}")
        refuse_gradient(tensor, name)
        tables.append(tensor)
    cos, sin = tables
    head_dim = query.shape[-1]
    if cos.dim() != 2 or cos.shape[0] < capacity or not 1 <= cos.shape[1] <= head_dim // 2:
        raise ValueError(
            f"rotary_cos must have shape [positions, rotary_dim / 2] with at least {capacity} positions, as the cache, "
            f"and a rotary_dim of 2 to the head_dim, {head_dim}, got shape {tuple(cos.shape)}"
        )
    if sin.shape != cos.shape:
        raise ValueError(
            f"rotary_sin must have the shape of rotary_cos, {tuple(cos.shape)}, got shape {tuple(sin.shape)}"
        )
    if sin.dtype != cos.dtype:
        raise TypeError(f"rotary_sin must have the dtype of rotary_cos, {cos.dtype}, got {sin.dtype}")
    return Rotary(cos, sin, interleaved)
