"""`flash_attn.flash_attn_interface` of flash-attn 2.8.3: its names, positional order, defaults and results.

The functions that are not defined here are the kernel's own, whose positional order is the same. The private ones are
what context parallelism calls: it joins the results of several calls before it asks for the gradients.
"""

from __future__ import annotations

from typing import Optional, Tuple, Union

import torch

from ..call import Call
from ..checks.scalars import as_flag
from ..checks.tensors import Names
from ..interface import calls
from ..interface import flash_attn_func as flash_attn_func
from ..interface import flash_attn_kvpacked_func as flash_attn_kvpacked_func
from ..interface import flash_attn_qkvpacked_func as flash_attn_qkvpacked_func
from ..interface import flash_attn_varlen_func as _flash_attn_varlen_func
from ..interface import flash_attn_varlen_kvpacked_func as flash_attn_varlen_kvpacked_func
from ..interface import flash_attn_varlen_qkvpacked_func as flash_attn_varlen_qkvpacked_func
from ..interface import flash_attn_with_kvcache as flash_attn_with_kvcache
from . import parts

_NAMES = Names()
_Forward = Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


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
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor, None]]:
    """The kernel's function of this name, with softcap before alibi_slopes, as in flash-attn 2."""
    return _flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p,
        softmax_scale,
        causal,
        window_size,
        alibi_slopes,
        deterministic,
        return_attn_probs,
        softcap=softcap,
        block_table=block_table,
    )


def _flash_attn_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    return_softmax: bool,
) -> _Forward:
    """(output, softmax_lse, S_dmask, rng_state) of a dense batch.

    S_dmask is empty, and return_softmax must be False: the weights are never stored. rng_state is int64 `[2]` on the
    CPU and holds the seed of the dropout.
    """
    call = _dense(q, k, v, softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _forward(call, dropout_p, return_softmax)


def _flash_attn_varlen_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Optional[torch.Tensor] = None,
    return_softmax: bool = False,
    block_table: Optional[torch.Tensor] = None,
    leftpad_k: Optional[torch.Tensor] = None,
    seqused_k: Optional[torch.Tensor] = None,
    zero_tensors: bool = False,
) -> _Forward:
    """As `_flash_attn_forward`, of a packed batch. zero_tensors changes nothing: all of every result is written."""
    if leftpad_k is not None:
        raise NotImplementedError("leftpad_k is not implemented: it must be None, or use flash_attn_with_kvcache")
    call = _packed(
        q,
        k,
        v,
        (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k),
        softmax_scale,
        causal,
        (window_size_left, window_size_right),
        softcap,
        alibi_slopes,
        block_table=block_table,
        seqused_k=seqused_k,
    )
    return _forward(call, dropout_p, return_softmax)


def _flash_attn_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    softmax_lse: torch.Tensor,
    dq: Optional[torch.Tensor],
    dk: Optional[torch.Tensor],
    dv: Optional[torch.Tensor],
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    deterministic: bool,
    rng_state: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """Fills dq, dk and dv, and returns softmax_d, the sums of dout * out, `[batch, num_heads, seqlen_q]`, fp32.

    out and softmax_lse may be those over more keys than k holds, as after a round of ring attention: the gradients are
    then those of these keys, with weights that may be wrong by |softmax_lse| x 1.2e-7, the rounding of fp32.
    """
    call = _dense(q, k, v, softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _backward(dout, call, out, softmax_lse, (dq, dk, dv), dropout_p, deterministic, rng_state)


def _flash_attn_varlen_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    softmax_lse: torch.Tensor,
    dq: Optional[torch.Tensor],
    dk: Optional[torch.Tensor],
    dv: Optional[torch.Tensor],
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: Optional[float],
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Optional[torch.Tensor],
    deterministic: bool,
    rng_state: Optional[torch.Tensor] = None,
    zero_tensors: bool = False,
) -> torch.Tensor:
    """As `_flash_attn_backward`, of a packed batch; softmax_d is `[num_heads, total_q]`."""
    call = _packed(
        q,
        k,
        v,
        (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k),
        softmax_scale,
        causal,
        (window_size_left, window_size_right),
        softcap,
        alibi_slopes,
    )
    return _backward(dout, call, out, softmax_lse, (dq, dk, dv), dropout_p, deterministic, rng_state)


_wrapped_flash_attn_forward = _flash_attn_forward
_wrapped_flash_attn_varlen_forward = _flash_attn_varlen_forward
_wrapped_flash_attn_backward = _flash_attn_backward
_wrapped_flash_attn_varlen_backward = _flash_attn_varlen_backward


def _dense(q, k, v, softmax_scale, causal, window_size, softcap, alibi_slopes) -> Call:
    return calls.dense(
        _NAMES,
        q,
        k,
        v,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )


def _packed(q, k, v, lengths, softmax_scale, causal, window_size, softcap, alibi_slopes, **keys) -> Call:
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k = lengths
    return calls.packed(
        _NAMES,
        q,
        k,
        v,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        **keys,
    )


def _forward(call: Call, dropout_p: float, return_softmax: bool) -> _Forward:
    if as_flag(return_softmax, "return_softmax"):
        raise NotImplementedError("return_softmax must be False: the weights of attention are never stored")
    output, lse, rng_state = parts.forward(call, dropout_p)
    return output, lse, output.new_empty(0), rng_state


def _backward(dout, call, out, softmax_lse, grads, dropout_p, deterministic, rng_state) -> torch.Tensor:
    as_flag(deterministic, "deterministic")
    shape = (*call.query.shape[:-1], call.value.shape[-1])
    for tensor, name in ((dout, "dout"), (out, "out")):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape of the output, {shape}, got shape {tuple(tensor.shape)}")
    rows = (*shape[:-3], shape[-2], shape[-3])
    if softmax_lse.shape != rows:
        raise ValueError(f"softmax_lse must have shape {rows}, got shape {tuple(softmax_lse.shape)}")
    found = parts.backward(dout, call, out, softmax_lse, dropout_p, rng_state)
    for grad, result in zip(grads, (found.query, found.key, found.value)):
        if grad is not None:
            grad.copy_(result)
    return (dout.float() * out.float()).sum(dim=-1).transpose(-1, -2).contiguous()
