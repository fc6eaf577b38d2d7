"""Public functions for queries, keys and values stacked in one tensor, as a fused projection makes them.

Their parts are views: nothing is copied, and the gradients come back stacked.
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch

from ..checks.tensors import Layout, Names, check_stacked
from . import calls

_QKV = Names("qkv[:, :, 0]", "qkv[:, :, 1]", "qkv[:, :, 2]")
_KV = Names("q", "kv[:, :, 0]", "kv[:, :, 1]")
_VARLEN_QKV = Names(
    "qkv[:, 0]",
    "qkv[:, 1]",
    "qkv[:, 2]",
    cu_seqlens_q="cu_seqlens",
    cu_seqlens_k="cu_seqlens",
    max_seqlen_q="max_seqlen",
    max_seqlen_k="max_seqlen",
)
_VARLEN_KV = Names("q", "kv[:, 0]", "kv[:, 1]")


def flash_attn_qkvpacked_func(
    qkv: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention of a dense batch over itself, queries, keys and values in one tensor.

    Args:
        qkv: `[batch, seqlen, 3, num_heads, head_dim]`.
        Everything else as for `flash_attn_func`.

    Returns as `flash_attn_func` does for q, k and v = qkv.unbind(2). Raises TypeError, ValueError,
    NotImplementedError as it does.
    """
    check_stacked(qkv, "qkv", Layout.DENSE_QKV)
    call = calls.dense(
        _QKV,
        *qkv.unbind(2),
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)


def flash_attn_kvpacked_func(
    q: torch.Tensor,
    kv: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a dense batch, keys and values in one tensor.

    Args:
        q: `[batch, seqlen_q, num_heads, head_dim]`.
        kv: `[batch, seqlen_k, 2, num_heads_kv, head_dim]`.
        Everything else as for `flash_attn_func`.

    Returns as `flash_attn_func` does for k and v = kv.unbind(2). Raises TypeError, ValueError, NotImplementedError as
    it does.
    """
    check_stacked(kv, "kv", Layout.DENSE_KV)
    call = calls.dense(
        _KV,
        q,
        *kv.unbind(2),
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)


def flash_attn_varlen_qkvpacked_func(
    qkv: torch.Tensor,
    cu_seqlens: torch.Tensor,
    max_seqlen: Union[int, torch.Tensor],
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention of a packed batch of sequences over themselves, queries, keys and values in one tensor.

    Args:
        qkv: `[total, 3, num_heads, head_dim]`.
        cu_seqlens, max_seqlen: of queries and keys alike, as cu_seqlens_q and max_seqlen_q of `flash_attn_varlen_func`.
        Everything else as for `flash_attn_varlen_func`.

    Returns as `flash_attn_varlen_func` does for q, k and v = qkv.unbind(1). Raises TypeError, ValueError,
    NotImplementedError as it does.
    """
    check_stacked(qkv, "qkv", Layout.PACKED_QKV)
    call = calls.packed(
        _VARLEN_QKV,
        *qkv.unbind(1),
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        max_seqlen_q=max_seqlen,
        max_seqlen_k=max_seqlen,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)


def flash_attn_varlen_kvpacked_func(
    q: torch.Tensor,
    kv: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a packed batch of sequences, keys and values in one tensor.

    Args:
        q: `[total_q, num_heads, head_dim]`.
        kv: `[total_k, 2, num_heads_kv, head_dim]`.
        Everything else as for `flash_attn_varlen_func`.

    Returns as `flash_attn_varlen_func` does for k and v = kv.unbind(1). Raises TypeError, ValueError,
    NotImplementedError as it does.
    """
    check_stacked(kv, "kv", Layout.PACKED_KV)
    call = calls.packed(
        _VARLEN_KV,
        q,
        *kv.unbind(1),
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)
