"""Checks of the arguments of optional features, and what the operators get for them. As tensors.py."""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from ..call import DTYPES
from .scalars import as_float, refuse_gradient
from .tensors import check_kind, list_of

SINK_DTYPES = (*DTYPES, torch.float64)
BIAS_DTYPES = (torch.bool, *SINK_DTYPES)
# Keeps the scores finite in fp32, before and after the cap.
MIN_SOFTCAP, MAX_SOFTCAP = 1e-8, 1e8


def check_dropout(dropout_p: float) -> float:
    dropout_p = as_float(dropout_p, "dropout_p")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be 0.0 or more and less than 1.0, got {dropout_p}")
    return float(dropout_p)


def check_softcap(softcap: float) -> float:
    """The cap of the scores, 0.0 = none."""
    softcap = as_float(softcap, "softcap")
    if softcap != 0.0 and not MIN_SOFTCAP <= softcap <= MAX_SOFTCAP:
        raise ValueError(f"softcap must be 0.0 (none) or {MIN_SOFTCAP:g} to {MAX_SOFTCAP:g}, got {softcap}")
    return float(softcap)


def softcap_of(softcapping: float) -> float:
    """The softcap of `flash_attention_varlen`'s own convention, in which 1.0 means that scores are not capped."""
    softcapping = as_float(softcapping, "softcapping")
    if not MIN_SOFTCAP <= softcapping <= MAX_SOFTCAP:
        raise ValueError(
            f"softcapping must be {MIN_SOFTCAP:g} to {MAX_SOFTCAP:g} (1.0 = no softcap), got {softcapping}"
        )
    return 0.0 if softcapping == 1.0 else float(softcapping)


def check_alibi_slopes(alibi_slopes: Optional[torch.Tensor], query: torch.Tensor, batch: int) -> Optional[torch.Tensor]:
    """Contiguous."""
    if alibi_slopes is None:
        return None
    _check_tensor(alibi_slopes, "alibi_slopes", (torch.float32,), query)
    num_heads = query.shape[-2]
    if alibi_slopes.shape != (num_heads,) and alibi_slopes.shape != (batch, num_heads):
        raise ValueError(
            f"alibi_slopes must have shape [heads] = {(num_heads,)} or [batch, heads] = {(batch, num_heads)}, "
            f"got shape {tuple(alibi_slopes.shape)}"
        )
    refuse_gradient(alibi_slopes, "alibi_slopes")
    return alibi_slopes.contiguous()


def check_attn_bias(
    attn_bias: Optional[torch.Tensor], query: torch.Tensor, keys: int, is_packed: bool
) -> Optional[torch.Tensor]:
    """With all its axes, [heads, total_q, keys] packed and [batch, heads, seqlen_q, keys] dense, each of which may be
    1; bool, fp32 or the query's dtype. keys: the fewest that it must have, unless 1."""
    if attn_bias is None:
        return None
    _check_tensor(attn_bias, "attn_bias", BIAS_DTYPES, query)
    *batch, tokens, heads, _ = query.shape
    axes = (*batch, heads, tokens, keys)
    shape = (1,) * (len(axes) - attn_bias.dim()) + tuple(attn_bias.shape)
    fits = len(shape) == len(axes) and all(size in (1, axis) for size, axis in zip(shape[:-1], axes))
    if not fits or shape[-1] != 1 and shape[-1] < keys:
        names = "[heads, total_q, max_seqlen_k]" if is_packed else "[batch, heads, seqlen_q, seqlen_k]"
        raise ValueError(
            f"attn_bias must have the shape {names} = {list(axes)}, or its last axes, each as given or 1, and the last "
            f"one that or more, got shape {tuple(attn_bias.shape)}"
        )
    if attn_bias.dtype not in (torch.bool, torch.float32, query.dtype):
        if attn_bias.dtype == torch.float64:  # its finite numbers stay finite
            largest = torch.finfo(torch.float32).max
            attn_bias = torch.where(attn_bias.isinf(), attn_bias, attn_bias.clamp(-largest, largest))
        attn_bias = attn_bias.float()
    return attn_bias.view(shape)


def check_sinks(
    s_aux: Optional[torch.Tensor], learnable_sink: Optional[torch.Tensor], query: torch.Tensor
) -> Optional[torch.Tensor]:
    """The one of two names that was given, fp32 and contiguous."""
    if s_aux is not None and learnable_sink is not None:
        raise ValueError("s_aux and learnable_sink are two names of one argument: pass only one of them, got both")
    name, sinks = ("learnable_sink", learnable_sink) if s_aux is None else ("s_aux", s_aux)
    if sinks is None:
        return None
    _check_tensor(sinks, name, SINK_DTYPES, query)
    if sinks.shape != (query.shape[-2],):
        raise ValueError(f"{name} must have shape [heads] = {(query.shape[-2],)}, got shape {tuple(sinks.shape)}")
    return sinks.float().contiguous()


def check_block_table(block_table: Optional[torch.Tensor], query: torch.Tensor, batch: int) -> Optional[torch.Tensor]:
    """Contiguous."""
    if block_table is None:
        return None
    _check_tensor(block_table, "block_table", (torch.int32,), query)
    if block_table.dim() != 2 or block_table.shape[0] != batch:
        raise ValueError(
            f"block_table must have shape [batch, max_pages] with batch {batch}, got shape {tuple(block_table.shape)}"
        )
    return block_table.contiguous()


def check_seqused_k(seqused_k: Optional[torch.Tensor], query: torch.Tensor, batch: int) -> Optional[torch.Tensor]:
    """Contiguous."""
    return None if seqused_k is None else check_per_sequence(seqused_k, "seqused_k", query, batch, (torch.int32,))


def check_per_sequence(
    tensor: torch.Tensor, name: str, query: torch.Tensor, batch: int, dtypes: Tuple[torch.dtype, ...]
) -> torch.Tensor:
    """An integer for each sequence; contiguous."""
    _check_tensor(tensor, name, dtypes, query)
    if tensor.shape != (batch,):
        raise ValueError(f"{name} must have shape [batch] = {(batch,)}, got shape {tuple(tensor.shape)}")
    return tensor.contiguous()


def _check_tensor(tensor: torch.Tensor, name: str, dtypes: Tuple[torch.dtype, ...], query: torch.Tensor) -> None:
    check_kind(tensor, name, "a tensor or None")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be one of {list_of(dtypes)}, got {tensor.dtype}")
    if tensor.device != query.device:
        raise ValueError(f"{name} must be on the device of the query, {query.device}, got {tensor.device}")
