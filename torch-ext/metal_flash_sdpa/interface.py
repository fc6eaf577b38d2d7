"""The public functions: they check arguments, fill in defaults and call one operator.

Everywhere, query token i of a sequence with seqlen_q queries and seqlen_k keys stands at p = i + seqlen_k - seqlen_q
(the last query lines up with the last key) and sees the keys j with p - left <= j <= p + right. Its output is the mean
of their values, weighted by exp(softmax_scale * <query_i, key_j>); a query that sees no key gives 0. Query head h uses
key/value head h // (num_heads // num_heads_kv).
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch

from . import arguments, operators

_Q_K_V = ("q", "k", "v")
_QUERY_KEY_VALUE = ("query", "key", "value")


def flash_attention_varlen(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    do_causal: bool = False,
    scale: Optional[float] = None,
    softcapping: float = 1.0,
    *,
    window_size: Tuple[int, int] = (-1, -1),
) -> None:
    """Attention over a packed batch of sequences, written into `out`.

    Arguments as for `flash_attn_varlen_func`, with these differences:
        out: `[total_q, num_heads, head_dim]`, dtype and device of `query`, any strides; shares no memory with
            the inputs. Every row is written: those that belong to no sequence become 0.
        do_causal: as `causal`.
        scale: as `softmax_scale`.
        softcapping: 1.0 means that scores are not capped.

    Raises TypeError, ValueError, NotImplementedError as `flash_attn_varlen_func`.
    """
    arguments.check_query(query, 3, "query")
    arguments.check_key_value(query, key, value, _QUERY_KEY_VALUE)
    arguments.check_out(out, query)
    cu_q, cu_k = arguments.check_cu_seqlens(cu_seqlens_q, cu_seqlens_k, query, "query")
    max_q = arguments.check_max_seqlen(max_seqlen_q, query.shape[0], "max_seqlen_q")
    max_k = arguments.check_max_seqlen(max_seqlen_k, key.shape[0], "max_seqlen_k")
    softmax_scale = arguments.check_softmax_scale(scale, query.shape[-1], "scale")
    window_left, window_right = arguments.check_window(window_size, do_causal, "do_causal")
    arguments.check_softcapping(softcapping)
    if arguments.CHECK_VALUES:
        arguments.check_values(cu_q, max_seqlen_q, query.shape[0], "q")
        arguments.check_values(cu_k, max_seqlen_k, key.shape[0], "k")
    query, key, value = _contiguous_rows(query), _contiguous_rows(key), _contiguous_rows(value)
    inputs = (query, key, value, cu_q, cu_k, max_q, max_k, softmax_scale, window_left, window_right)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (out, query, key, value)):
        out.copy_(operators.attention_forward(*inputs, False)[0])  # autograd sees a copy, not a foreign write
    else:
        operators.attention_forward_out(out, *inputs)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    softcap: float = 0.0,
    block_table: Optional[torch.Tensor] = None,
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a packed batch of sequences.

    Args:
        q: `[total_q, num_heads, head_dim]`, fp32, fp16 or bf16, head_dim 1 to 256.
        k, v: `[total_k, num_heads_kv, head_dim]`, dtype and device of `q`; num_heads is a multiple of num_heads_kv.
            Any strides; q, k or v is copied only if its last dimension is strided.
        cu_seqlens_q, cu_seqlens_k: `[batch + 1]`, int32 (int64 is converted), same device. Sequence b has the tokens
            cu_seqlens[b] to cu_seqlens[b + 1] - 1; tokens of no sequence are ignored, their output is 0.
        max_seqlen_q, max_seqlen_k: tokens of the longest sequence, int or 0-dim tensor.
        dropout_p: 0.0; more is not implemented.
        softmax_scale: factor of the scores, at most 1e8 in size; None is head_dim ** -0.5.
        causal: a query sees no key after its own position; caps the right side of `window_size` at 0.
        window_size: (left, right), keys that a query sees before and after its own position, -1 = all.
        alibi_slopes: None; `[num_heads]` or `[batch, num_heads]`, fp32, is not implemented.
        deterministic: accepted; every call is deterministic.
        return_attn_probs: whether to return the log-sum-exp as well.
        softcap: 0.0 (none); more is not implemented.
        block_table: None; `[batch, pages]`, int32, is not implemented.
        s_aux, learnable_sink: None; `[num_heads]`, attention sinks under two names, is not implemented.

    Returns:
        The output `[total_q, num_heads, head_dim]` in the dtype of q, or, with return_attn_probs, the triple
        (output, softmax_lse, None): softmax_lse `[num_heads, total_q]`, fp32, is the natural logarithm of the sum of
        the weights, -inf where a query sees no key.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong value or shape.
        NotImplementedError: a feature that this version lacks.
    """
    arguments.check_query(q, 3, "q")
    cu_q, cu_k = arguments.check_cu_seqlens(cu_seqlens_q, cu_seqlens_k, q, "q")
    arguments.check_features(
        dropout_p, softcap, alibi_slopes, s_aux, learnable_sink, block_table, q, cu_q.shape[0] - 1
    )
    arguments.check_key_value(q, k, v, _Q_K_V)
    max_q = arguments.check_max_seqlen(max_seqlen_q, q.shape[0], "max_seqlen_q")
    max_k = arguments.check_max_seqlen(max_seqlen_k, k.shape[0], "max_seqlen_k")
    scale = arguments.check_softmax_scale(softmax_scale, q.shape[-1], "softmax_scale")
    window_left, window_right = arguments.check_window(window_size, causal, "causal")
    arguments.check_flag(deterministic, "deterministic")
    arguments.check_flag(return_attn_probs, "return_attn_probs")
    if arguments.CHECK_VALUES:
        arguments.check_values(cu_q, max_seqlen_q, q.shape[0], "q")
        arguments.check_values(cu_k, max_seqlen_k, k.shape[0], "k")
    q, k, v = _contiguous_rows(q), _contiguous_rows(k), _contiguous_rows(v)
    output, lse = operators.attention_forward(
        q, k, v, cu_q, cu_k, max_q, max_k, scale, window_left, window_right, return_attn_probs
    )
    return (output, lse, None) if return_attn_probs else output


def flash_attn_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
    block_table: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a dense batch.

    Args:
        q: `[batch, seqlen_q, num_heads, head_dim]`.
        k, v: `[batch, seqlen_k, num_heads_kv, head_dim]`.
        Everything else as for `flash_attn_varlen_func`.

    Returns:
        The output `[batch, seqlen_q, num_heads, head_dim]`, or, with return_attn_probs, the triple
        (output, softmax_lse, None) with softmax_lse `[batch, num_heads, seqlen_q]`.

    Raises TypeError, ValueError, NotImplementedError as `flash_attn_varlen_func`.
    """
    arguments.check_query(q, 4, "q")
    arguments.check_features(dropout_p, softcap, alibi_slopes, s_aux, learnable_sink, block_table, q, q.shape[0])
    arguments.check_key_value(q, k, v, _Q_K_V)
    scale = arguments.check_softmax_scale(softmax_scale, q.shape[-1], "softmax_scale")
    window_left, window_right = arguments.check_window(window_size, causal, "causal")
    arguments.check_flag(deterministic, "deterministic")
    arguments.check_flag(return_attn_probs, "return_attn_probs")
    max_q, max_k = q.shape[1], k.shape[1]
    q, k, v = _contiguous_rows(q), _contiguous_rows(k), _contiguous_rows(v)
    output, lse = operators.attention_forward(
        q, k, v, None, None, max_q, max_k, scale, window_left, window_right, return_attn_probs
    )
    return (output, lse, None) if return_attn_probs else output


def _contiguous_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself unless its last dimension is strided."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
