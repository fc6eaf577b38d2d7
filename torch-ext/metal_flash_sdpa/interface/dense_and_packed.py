"""Attention over dense and packed batches."""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch

from .. import operators
from ..checks import features, memory, tensors
from ..checks.tensors import Names
from . import calls

_NAMES = Names()
_LONG_NAMES = Names(query="query", key="key", value="value", softmax_scale="scale", causal="do_causal")


def flash_attention_varlen(
    out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: Union[int, torch.Tensor],
    max_seqlen_k: Union[int, torch.Tensor],
    do_causal: bool = False,
    scale: Optional[float] = None,
    softcapping: float = 1.0,
    *,
    window_size: Tuple[int, int] = (-1, -1),
    alibi_slopes: Optional[torch.Tensor] = None,
    s_aux: Optional[torch.Tensor] = None,
    block_table: Optional[torch.Tensor] = None,
    seqused_k: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
) -> None:
    """Attention over a packed batch of sequences, written into `out`.

    Args:
        out: `[total_q, num_heads, value head_dim]`, dtype and device of `query`, any strides. Every row is written:
            those that belong to no sequence become 0. An out that shares memory with an input, or with another part
            of itself, is a ValueError, also where strides do not tell; disjoint and interleaved parts of one tensor
            share none. Compiled, the call may write a copy instead and give the right answer.
        do_causal: as `causal`.
        scale: as `softmax_scale`.
        softcapping: as `softcap`, but 1.0 means that scores are not capped, and 0.0 is an error.
        Everything else as for `flash_attn_varlen_func`.

    Raises TypeError, ValueError, NotImplementedError as `flash_attn_varlen_func`.
    """
    call = calls.packed(
        _LONG_NAMES,
        query,
        key,
        value,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        block_table=block_table,
        seqused_k=seqused_k,
        softmax_scale=scale,
        causal=do_causal,
        window_size=window_size,
        softcap=features.softcap_of(softcapping),
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        attn_bias=attn_bias,
    )
    tensors.check_out(out, query, value)
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (out, query, key, value, s_aux, attn_bias)
    ):
        if not torch.compiler.is_compiling():
            read = [("query", query), ("key", key), ("value", value), ("s_aux", s_aux), ("attn_bias", attn_bias)]
            memory.check([("out", out)], read)
        out.copy_(operators.attention_forward(*call, False, False)[0])  # autograd sees a copy, not a foreign write
    else:
        if not torch.compiler.is_compiling():
            operators.refuse_captured(out)
        operators.attention_forward_out(out, *call)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
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
    seqused_k: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a packed batch of sequences.

    Args:
        q: `[total_q, num_heads, head_dim]`, fp32, fp16 or bf16, head_dim 1 to 576; gradients on Metal
            up to 256, also of v.
        k, v: `[total_k, num_heads_kv, head_dim]`, dtype and device of `q`; num_heads is a multiple of num_heads_kv, and
            the head_dim of v may be another one, 1 to 512, which is then the output's. With a block_table, k and v are
            `[num_pages, page_size, num_heads_kv, head_dim]`, page_size a multiple of 16. Any strides; q, k or v is
            copied only if its last dimension is strided.
        cu_seqlens_q, cu_seqlens_k: `[batch + 1]`, int32 (int64 is converted), same device. Sequence b has the tokens
            cu_seqlens[b] to cu_seqlens[b + 1] - 1; tokens of no sequence are ignored, their output is 0. With a
            block_table, the differences of cu_seqlens_k are the lengths of the sequences, unless seqused_k gives
            them; it may then be None.
        max_seqlen_q, max_seqlen_k: tokens of the longest sequence, int or 0-dim tensor.
        dropout_p: probability, less than 1.0, that a weight is dropped, in steps of 1 / 65536; the others grow by 1 /
            (share that is kept), and the log-sum-exp does not change. The seed comes from torch's CPU generator: one
            seed drops the same weights on every device, packed or dense, in the backward as in the forward.
        softmax_scale: factor of the scores, at most 1e8 in size; None is head_dim ** -0.5.
        causal: a query sees no key after its own position; caps the right side of `window_size` at 0.
        window_size: (left, right), keys that a query sees before and after its own position, 0 or more, or -1 for all
            of them; less is a ValueError. 2^31 - 1 or more is -1, as no sequence is longer. A tuple, list, tensor on
            the CPU or array of two integers.
        alibi_slopes: `[num_heads]` or `[batch, num_heads]`, fp32: what a score loses per token of distance. It has no
            gradient.
        deterministic: accepted; every call is deterministic.
        return_attn_probs: whether to return the log-sum-exp as well.
        softcap: scores are squeezed to -softcap..softcap, 1e-8 to 1e8; 0.0 is none.
        block_table: `[batch, max_pages]`, int32: the pages of k and v that hold each sequence's keys in order. Key j of
            sequence b is k[block_table[b, j // page_size], j % page_size].
        s_aux, learnable_sink: `[num_heads]`, floating point: attention sinks under two names, one more score for every
            query of the head, with a value of 0. A query that sees no key ignores it.
        seqused_k: `[batch]`, int32: how many of each sequence's keys, from its first, are used.
        attn_bias: `[num_heads or 1, total_q or 1, max_seqlen_k or more]`, or its last axes: what is added to the scores
            of a token and the keys of its sequence, after softcap and ALiBi; or bool, True for keys that it sees.
            fp32, fp16, bf16 or fp64, whatever the dtype of q; other dtypes than fp32 and that of q are copied to fp32.
            -inf hides a key as False does, +inf and NaN have no meaning. A last axis of 1 is for all keys; keys
            beyond it are not seen. Any strides; it is copied only if its last dimension is strided. Values of
            keys that it hides must be finite.

        Values of cu_seqlens, seqused_k and block_table beyond the tensors they index are clamped. Numbers and flags may
        be Python's, NumPy's, or 0-dim tensors on the CPU, which are read; a bool is no number. Gradients flow to q, k,
        v, the sinks and, on the CPU, attn_bias; second derivatives, torch.func.jvp, torch.vmap and what uses them
        (jacrev, jacfwd, hessian) are not implemented.

    Returns:
        The output `[total_q, num_heads, value head_dim]` in the dtype of q, or, with return_attn_probs, the triple
        (output, softmax_lse, None): softmax_lse `[num_heads, total_q]`, fp32, is the natural logarithm of the sum of
        the weights, -inf where a query sees no key.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong value or shape.
        NotImplementedError: a feature that this version lacks; a nested or sparse tensor, or a DTensor; a gradient
            that is wanted of an argument that has none.
    """
    call = calls.packed(
        _NAMES,
        q,
        k,
        v,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        block_table=block_table,
        seqused_k=seqused_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        learnable_sink=learnable_sink,
        attn_bias=attn_bias,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)


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
    attn_bias: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """Attention over a dense batch.

    Args:
        q: `[batch, seqlen_q, num_heads, head_dim]`.
        k, v: `[batch, seqlen_k, num_heads_kv, head_dim]`.
        block_table: None; paged keys and values are for `flash_attn_varlen_func`.
        attn_bias: `[batch or 1, num_heads or 1, seqlen_q or 1, seqlen_k or 1]`, or its last axes; the last one may be
            longer than the keys.
        Everything else as for `flash_attn_varlen_func`.

    Returns:
        The output `[batch, seqlen_q, num_heads, value head_dim]`, or, with return_attn_probs, the triple
        (output, softmax_lse, None) with softmax_lse `[batch, num_heads, seqlen_q]`.

    Raises TypeError, ValueError, NotImplementedError as `flash_attn_varlen_func`.
    """
    if block_table is not None:
        raise ValueError(
            "block_table must be None: keys and values of flash_attn_func are dense; "
            "flash_attn_varlen_func takes paged ones"
        )
    call = calls.dense(
        _NAMES,
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        learnable_sink=learnable_sink,
        attn_bias=attn_bias,
    )
    return calls.attend(call, dropout_p, deterministic, return_attn_probs)
