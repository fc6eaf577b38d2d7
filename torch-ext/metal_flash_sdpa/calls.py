"""From a public function's arguments to one call of an operator: the checks and defaults that the functions share."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple, Union

import torch

from . import arguments, features, operators, values
from .arguments import DENSE, PACKED, PAGED
from .scalars import as_flag

Result = Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]


class Names(NamedTuple):
    """What a public function calls its arguments."""

    query: str = "q"
    key: str = "k"
    value: str = "v"
    softmax_scale: str = "softmax_scale"
    causal: str = "causal"
    cu_seqlens_q: str = "cu_seqlens_q"
    cu_seqlens_k: str = "cu_seqlens_k"
    max_seqlen_q: str = "max_seqlen_q"
    max_seqlen_k: str = "max_seqlen_k"


def dense(
    names: Names,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    deterministic: bool,
    return_attn_probs: bool,
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
) -> Result:
    """Attention over a dense batch: all of a public function but its signature."""
    arguments.check_query(query, DENSE, names.query)
    arguments.check_key_value(query, key, value, DENSE, names[:3])
    dropout_p = features.check_dropout(dropout_p)
    scale = arguments.check_softmax_scale(softmax_scale, query.shape[-1], names.softmax_scale)
    window_left, window_right = arguments.check_window(window_size, causal, names.causal)
    softcap = features.check_softcap(softcap)
    slopes = features.check_alibi_slopes(alibi_slopes, query, query.shape[0])
    sinks = features.check_sinks(s_aux, learnable_sink, query)
    as_flag(deterministic, "deterministic")
    return_attn_probs = as_flag(return_attn_probs, "return_attn_probs")
    tensors = query, key, value, None, None, None, None, slopes, sinks
    settings = query.shape[1], key.shape[1], scale, window_left, window_right, softcap, 0
    return _attend((*tensors, *settings), dropout_p, return_attn_probs)


def packed(
    names: Names,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    deterministic: bool,
    return_attn_probs: bool,
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
    block_table: Optional[torch.Tensor] = None,
    seqused_k: Optional[torch.Tensor] = None,
) -> Result:
    """Attention over a packed batch: all of a public function but its signature."""
    dropout_p = features.check_dropout(dropout_p)
    as_flag(deterministic, "deterministic")
    return_attn_probs = as_flag(return_attn_probs, "return_attn_probs")
    inputs = packed_inputs(
        names,
        query,
        key,
        value,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        softmax_scale,
        causal,
        window_size,
        features.check_softcap(softcap),
        alibi_slopes,
        s_aux,
        learnable_sink,
        block_table,
        seqused_k,
    )
    return _attend(inputs, dropout_p, return_attn_probs)


def packed_inputs(
    names: Names,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    s_aux: Optional[torch.Tensor],
    learnable_sink: Optional[torch.Tensor],
    block_table: Optional[torch.Tensor],
    seqused_k: Optional[torch.Tensor],
) -> tuple:
    """The operators' inputs for packed queries, all checked but softcap."""
    arguments.check_query(query, PACKED, names.query)
    cu_names = (names.cu_seqlens_q, names.cu_seqlens_k, names.query)
    cu_q, cu_k = arguments.check_cu_seqlens(cu_seqlens_q, cu_seqlens_k, seqused_k, block_table, query, cu_names)
    batch = cu_q.shape[0] - 1
    table = features.check_block_table(block_table, query, batch)
    used = features.check_seqused_k(seqused_k, query, batch)
    arguments.check_key_value(query, key, value, PACKED if table is None else PAGED, names[:3])
    total_k = key.shape[0] if table is None else table.shape[1] * key.shape[1]
    max_q = arguments.check_max_seqlen(max_seqlen_q, query.shape[0], names.max_seqlen_q)
    max_k = arguments.check_max_seqlen(max_seqlen_k, total_k, names.max_seqlen_k)
    scale = arguments.check_softmax_scale(softmax_scale, query.shape[-1], names.softmax_scale)
    window_left, window_right = arguments.check_window(window_size, causal, names.causal)
    slopes = features.check_alibi_slopes(alibi_slopes, query, batch)
    sinks = features.check_sinks(s_aux, learnable_sink, query)
    if arguments.CHECK_VALUES:
        values.check_query_values(cu_q, max_seqlen_q, query.shape[0])
        values.check_key_values(cu_k, max_seqlen_k, used, table, key)
    tensors = query, key, value, cu_q, cu_k, used, table, slopes, sinks
    return (*tensors, max_q, max_k, scale, window_left, window_right, softcap, 0)


def _attend(inputs: tuple, dropout_p: float, return_lse: bool) -> Result:
    if dropout_p > 0:
        seed = torch.randint(2**63 - 1, (1,), device="cpu")  # from torch's generator: torch.manual_seed decides
        output, lse = operators.attention_forward(*inputs, return_lse, dropout_p, seed)
    else:
        output, lse = operators.attention_forward(*inputs, return_lse)
    return (output, lse, None) if return_lse else output
