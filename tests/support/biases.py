"""Biases and masks for the numeric tests, with NaN where no kernel may look at what it reads."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import torch


class Bias(NamedTuple):
    """What attn_bias is like."""

    kind: str  # "mask", "own" (the dtype of the queries) or "float"
    whole: Sequence[bool]  # for its axes [batch, heads, tokens, keys]: else it has one element, for all
    more_keys: int = 0  # than the longest sequence has
    is_expanded: bool = False  # axes of one element are expanded: strides of 0
    is_transposed: bool = False  # tokens lie closer in memory than heads
    hides: float = 0.2  # part of the keys; of most, whole blocks are hidden

    def tensor(self, lengths, num_heads: int, dtype: torch.dtype, is_packed: bool, seed: int) -> torch.Tensor:
        """lengths: (tokens, keys) of each sequence that has a bias; every fifth row sees no key."""
        generator = torch.Generator().manual_seed(seed)
        tokens, keys = (max(pair[side] for pair in lengths) for side in (0, 1))
        rows = [sum(pair[0] for pair in lengths)] if is_packed else [len(lengths), tokens]
        batch = [] if is_packed else [rows[0]]
        full = [*batch, num_heads, rows[-1], keys + self.more_keys]
        shape = [size if whole else 1 for size, whole in zip(full, self.whole[-len(full) :])]
        values = torch.randn(shape, generator=generator)
        hidden = torch.rand(shape, generator=generator) < self.hides
        hidden[..., ::5, :] = shape[-2] > 1
        if self.whole[-1]:
            self._poison(values, lengths, is_packed)
        if self.kind == "mask":
            bias = ~hidden
        else:
            bias = values.masked_fill(hidden & ~values.isnan(), -math.inf)
            bias = bias.to(dtype if self.kind == "own" else torch.float32)
        if self.is_transposed:
            bias = bias.transpose(-2, -3).contiguous().transpose(-2, -3)
        return bias.expand(full[:-1] + [bias.shape[-1]]) if self.is_expanded else bias

    def _poison(self, values: torch.Tensor, lengths, is_packed: bool) -> None:
        """Keys that no row sees."""
        begin = 0
        for b, (tokens, keys) in enumerate(lengths):
            if not is_packed and values.shape[0] > 1:
                values[b, ..., keys:] = math.nan
            elif is_packed and values.shape[-2] > 1:
                values[:, begin : begin + tokens, keys:] = math.nan
            begin += tokens
        longest = max(keys for _, keys in lengths)
        values[..., longest:] = math.nan
