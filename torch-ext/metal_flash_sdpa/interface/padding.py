"""Between padded batches and packed ones, as flash_attn.bert_padding does it.

Composed of PyTorch's operators, on any device, with gradients. Where the tokens are is a value of the mask, and how
many there are is a shape: `unpad_input` waits for the device.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch
import torch.nn.functional as F

from ..checks.tensors import check_index, check_tensor

_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_MASK = "[batch, seqlen]"


def index_first_axis(input: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor.

    Args:
        input: `[rows, ...]`, any dtype.
        indices: `[count]`, int32 or int64, same device: numbers of rows, from 0, in any order, also repeated.

    Returns:
        `input[indices]`, `[count, ...]`. A row's gradient is the sum of those of its copies.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong shape or device.
    """
    check_tensor(input, "input", "[rows, ...]", at_least=1)
    _check_indices(indices, "input", input)
    return input.index_select(0, indices)


def unpad_input(
    hidden_states: torch.Tensor, attention_mask: torch.Tensor, unused_mask: Optional[torch.Tensor] = None
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, torch.Tensor]:
    """Packs the tokens of a padded batch end to end.

    Args:
        hidden_states: `[batch, seqlen, ...]`, any dtype.
        attention_mask: `[batch, seqlen]`, bool or integer, same device: not 0 where there is a token.
        unused_mask: as attention_mask: places that are packed as well, but not used.

    Returns:
        hidden_states: `[total, ...]`, the tokens of both masks, in order.
        indices: `[total]`, int64, where they were in the flattened batch: what `pad_input` needs.
        cu_seqlens: `[batch + 1]`, int32, where each sequence begins in hidden_states.
        max_seqlen_in_batch: int, tokens of the longest sequence.
        seqused: `[batch]`, int32, tokens of attention_mask alone in each sequence: seqused_k of
            `flash_attn_varlen_func`, if the unused ones come last.

    Waits for the device. Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong shape or device.
    """
    check_tensor(hidden_states, "hidden_states", "[batch, seqlen, ...]", at_least=2)
    used = packed = _mask(attention_mask, "attention_mask", hidden_states)
    if unused_mask is not None:
        packed = used | _mask(unused_mask, "unused_mask", hidden_states)
    lengths = packed.sum(dim=1, dtype=torch.int32)
    indices = packed.flatten().nonzero().flatten()
    return (
        hidden_states.flatten(0, 1).index_select(0, indices),
        indices,
        F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)),
        int(lengths.max()) if lengths.shape[0] else 0,
        used.sum(dim=1, dtype=torch.int32),
    )


def pad_input(hidden_states: torch.Tensor, indices: torch.Tensor, batch: int, seqlen: int) -> torch.Tensor:
    """Puts packed tokens back where `unpad_input` took them from; everything else is 0.

    Args:
        hidden_states: `[total, ...]`, any dtype.
        indices: `[total]`, int32 or int64, same device: places in the flattened batch, each at most once.
        batch, seqlen: of the padded batch, 0 or more.

    Returns:
        `[batch, seqlen, ...]`.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong shape or device.
    """
    check_tensor(hidden_states, "hidden_states", "[total, ...]", at_least=1)
    _check_indices(indices, "hidden_states", hidden_states)
    if indices.shape[0] != hidden_states.shape[0]:
        raise ValueError(
            f"indices must be as many as the tokens of hidden_states, {hidden_states.shape[0]}, got {indices.shape[0]}"
        )
    batch, seqlen = check_index(batch, "batch"), check_index(seqlen, "seqlen")
    padded = hidden_states.new_zeros((batch * seqlen, *hidden_states.shape[1:]))
    return padded.index_copy(0, indices.long(), hidden_states).unflatten(0, (batch, seqlen))


def _mask(mask: torch.Tensor, name: str, hidden_states: torch.Tensor) -> torch.Tensor:
    """As bool."""
    check_tensor(mask, name, _MASK, at_least=2, dtypes=_INTEGERS)
    if mask.shape != hidden_states.shape[:2]:
        raise ValueError(
            f"{name} must have the shape {_MASK} of hidden_states, {tuple(hidden_states.shape[:2])}, "
            f"got shape {tuple(mask.shape)}"
        )
    _check_device(mask, name, "hidden_states", hidden_states)
    return mask != 0


def _check_indices(indices: torch.Tensor, of_name: str, of: torch.Tensor) -> None:
    check_tensor(indices, "indices", "[count]", at_least=1, dtypes=(torch.int32, torch.int64))
    if indices.dim() != 1:
        raise ValueError(f"indices must have 1 dimension [count], got shape {tuple(indices.shape)}")
    _check_device(indices, "indices", of_name, of)


def _check_device(tensor: torch.Tensor, name: str, of_name: str, of: torch.Tensor) -> None:
    if tensor.device != of.device:
        raise ValueError(f"{name} must be on the device of {of_name}, {of.device}, got {tensor.device}")
