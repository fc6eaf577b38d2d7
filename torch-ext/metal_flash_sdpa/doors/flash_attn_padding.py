"""`flash_attn.bert_padding` of flash-attn 2.8.3."""

from __future__ import annotations

from typing import Tuple

import torch
import torch.nn.functional as F

from ..interface import index_first_axis as index_first_axis
from ..interface import pad_input as pad_input
from ..interface import unpad_input as unpad_input


def index_put_first_axis(values: torch.Tensor, indices: torch.Tensor, first_axis_dim: int) -> torch.Tensor:
    """`[first_axis_dim, ...]`: the rows of values at the indices, each at most once, and 0 elsewhere."""
    return pad_input(values, indices, 1, first_axis_dim).squeeze(0)


def index_first_axis_residual(input: torch.Tensor, indices: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """(input[indices], input)."""
    return index_first_axis(input, indices), input


def unpad_input_for_concatenated_sequences(
    hidden_states: torch.Tensor, attention_mask_in_length: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Packs rows that hold several sequences each.

    hidden_states is `[batch, seqlen, ...]`; attention_mask_in_length `[batch, seqlen]`, integer, has in each row the
    lengths of its sequences, then 0. Returns the tokens, their places in the flattened batch,
    cu_seqlens and the largest length. Waits for the device.
    """
    in_row = attention_mask_in_length.sum(dim=1, keepdim=True)
    is_token = torch.arange(hidden_states.shape[1], device=hidden_states.device) < in_row
    tokens, indices, *_ = unpad_input(hidden_states, is_token)
    lengths = attention_mask_in_length[attention_mask_in_length != 0]
    cu_seqlens = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return tokens, indices, cu_seqlens, int(lengths.max()) if lengths.numel() else 0
