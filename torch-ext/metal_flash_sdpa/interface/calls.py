"""From a public function's arguments to one call of an operator: the checks and defaults that the functions share."""

from __future__ import annotations

from typing import Optional, Tuple, TypedDict, Union

import torch

from .. import operators
from ..call import Call
from ..checks import device_values, features, tensors
from ..checks.scalars import as_flag
from ..checks.tensors import Layout, Names

Result = Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]


def dense(
    names: Names,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
    aligns_first: bool = False,
) -> Call:
    """A checked call on a dense batch."""
    tensors.check_query(query, Layout.DENSE, names.query)
    tensors.check_key_value(query, key, value, Layout.DENSE, names)
    fields = scored(
        names,
        query,
        batch=query.shape[0],
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        learnable_sink=learnable_sink,
    )
    return Call(
        query=query,
        key=key,
        value=value,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        seqused_k=None,
        block_table=None,
        attn_bias=features.check_attn_bias(attn_bias, query, key.shape[1], is_packed=False),
        max_seqlen_q=query.shape[1],
        max_seqlen_k=key.shape[1],
        num_splits=0,
        aligns_first=aligns_first,
        **fields,
    )


def packed(
    names: Names,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    block_table: Optional[torch.Tensor] = None,
    seqused_k: Optional[torch.Tensor] = None,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
) -> Call:
    """A checked call on a packed batch, of packed or paged keys."""
    tensors.check_query(query, Layout.PACKED, names.query)
    cu_seqlens_q, cu_seqlens_k = tensors.check_cu_seqlens(
        cu_seqlens_q, cu_seqlens_k, seqused_k, block_table, query, names
    )
    batch = cu_seqlens_q.shape[0] - 1
    block_table = features.check_block_table(block_table, query, batch)
    seqused_k = features.check_seqused_k(seqused_k, query, batch)
    tensors.check_key_value(query, key, value, Layout.PACKED if block_table is None else Layout.PAGED, names)
    total_k = key.shape[0] if block_table is None else block_table.shape[1] * key.shape[1]
    longest_q = tensors.check_max_seqlen(max_seqlen_q, query.shape[0], names.max_seqlen_q)
    longest_k = tensors.check_max_seqlen(max_seqlen_k, total_k, names.max_seqlen_k)
    bias_keys = 1 if isinstance(max_seqlen_k, torch.Tensor) else longest_k
    fields = scored(
        names,
        query,
        batch=batch,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        learnable_sink=learnable_sink,
    )
    if tensors.CHECK_VALUES:
        device_values.check_query_values(cu_seqlens_q, max_seqlen_q, query.shape[0])
        device_values.check_key_values(cu_seqlens_k, max_seqlen_k, seqused_k, block_table, key)
    return Call(
        query=query,
        key=key,
        value=value,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        seqused_k=seqused_k,
        block_table=block_table,
        attn_bias=features.check_attn_bias(attn_bias, query, bias_keys, is_packed=True),
        max_seqlen_q=longest_q,
        max_seqlen_k=longest_k,
        num_splits=0,
        aligns_first=False,
        **fields,
    )


class Scored(TypedDict):
    """The fields of a call that make scores of the products of queries and keys."""

    softmax_scale: float
    window_left: int
    window_right: int
    softcap: float
    alibi_slopes: Optional[torch.Tensor]
    sinks: Optional[torch.Tensor]


def scored(
    names: Names,
    query: torch.Tensor,
    *,
    batch: int,
    softmax_scale: Optional[float],
    causal: bool,
    window_size: Tuple[int, int],
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
) -> Scored:
    """The fields, checked."""
    softmax_scale = tensors.check_softmax_scale(softmax_scale, query.shape[-1], names.softmax_scale)
    window_left, window_right = tensors.check_window(window_size, causal, names.causal)
    return {
        "softmax_scale": softmax_scale,
        "window_left": window_left,
        "window_right": window_right,
        "softcap": features.check_softcap(softcap),
        "alibi_slopes": features.check_alibi_slopes(alibi_slopes, query, batch),
        "sinks": features.check_sinks(s_aux, learnable_sink, query),
    }


def attend(call: Call, dropout_p: float, deterministic: bool, return_attn_probs: bool) -> Result:
    """What the public functions return."""
    dropout_p = features.check_dropout(dropout_p)
    as_flag(deterministic, "deterministic")
    return_attn_probs = as_flag(return_attn_probs, "return_attn_probs")
    if dropout_p > 0:
        seed = torch.randint(2**63 - 1, (1,), device="cpu")  # from torch's generator: torch.manual_seed decides
        output, lse = operators.attention(call, return_attn_probs, dropout_p, seed)
    else:
        output, lse = operators.attention(call, return_attn_probs)
    return (output, lse, None) if return_attn_probs else output
