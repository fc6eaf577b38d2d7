"""The operators: where each device's work is done, shapes, and what other parts of torch are told of them."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch.autograd.graph import increment_version

from .. import cpu
from .. import launching as launchers
from .._ops import add_op_namespace_prefix, ops
from ..call import TENSORS, Append, Call, Dropout, Gradients, differentiable_of, taken, tensors_of
from ..checks import memory
from . import autograd, cache_rows, flops, metal
from .autograd import any_requires_grad, is_plain, refuse_captured, without_backward, without_gradient_of
from .schemas import (
    append_to_cache,
    attention_backward,
    attention_forward,
    attention_forward_inference,
    attention_forward_out,
    attention_over_rows,
    library,
    refuse_backward,
)

__all__ = [
    "append_to_cache",
    "appends",
    "attention",
    "attention_backward",
    "attention_forward",
    "attention_forward_inference",
    "attention_forward_out",
    "attention_over_rows",
    "refuse_backward",
    "refuse_captured",
    "attention_without_gradient",
    "without_backward",
    "without_gradient_of",
]

_NO_DROPOUT = Dropout()
_PUBLIC_NAMES = tuple("s_aux" if name == "sinks" else name for name in TENSORS)  # of flash_attention_varlen


def _forward(*arguments) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    call, (return_lse, return_softmax, *dropout) = taken(arguments)
    output, lse, row_softmax = results = _new_results(call, return_lse, return_softmax)
    _compute(
        output,
        lse if return_lse else None,
        row_softmax if row_softmax.dim() > 1 else None,
        call,
        Dropout(*dropout),
    )
    return results


def _forward_inference(*arguments) -> torch.Tensor:
    call = Call(*arguments)
    if call.query.shape[-1] == call.value.shape[-1]:
        output = torch.empty_like(call.query, memory_format=torch.contiguous_format)  # faster
    else:
        output = _new_output(call)
    _compute(output, None, None, call, _NO_DROPOUT)
    return output


def _forward_out(output: torch.Tensor, *arguments) -> None:
    call = Call(*arguments)
    # Here, as tracing knows no memory.
    memory.check((("out", output),), zip(_PUBLIC_NAMES, tensors_of(call)))
    if not output.is_inference():
        increment_version(output)  # a launcher writes behind torch's back
    _compute(output, None, None, call, _NO_DROPOUT)


def _over_rows(*arguments) -> Tuple[torch.Tensor, torch.Tensor]:
    """Here strides are those of the memory; while tracing, they may not be."""
    call, (cache_batch_idx, cache_leftpad, return_lse) = taken(arguments)
    output, lse, _ = _forward(*cache_rows.packed(call, cache_batch_idx, cache_leftpad), return_lse, False)
    shape = call.query.shape[:2]
    output = output.unflatten(0, shape)
    return output, lse.unflatten(1, shape).transpose(0, 1).contiguous() if return_lse else lse


def attention(call: Call, return_lse: bool, *dropout) -> Tuple[torch.Tensor, torch.Tensor]:
    """(output, lse; without return_lse, any tensor stands in its place)."""
    if not dropout and is_plain(call.query):
        if not torch.is_grad_enabled() or not any_requires_grad(differentiable_of(call)):
            return _inference(call, return_lse)
    output, lse, _ = attention_forward(*call, return_lse, False, *dropout)
    return output, lse


def attention_without_gradient(call: Call, return_lse: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """As attention."""
    if is_plain(call.query):
        return _inference(call, return_lse)
    with torch.no_grad():
        output, lse, _ = attention_forward(*call, return_lse, False)
    return output, lse


def _inference(call: Call, return_lse: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    with torch._C._AutoDispatchBelowAutograd():
        if return_lse:
            output, lse, _ = attention_forward(*call, True, False)
            return output, lse
        output = attention_forward_inference(*call)
        return output, output


def appends(query: torch.Tensor, *written: torch.Tensor) -> bool:
    """Whether append_to_cache takes the place of torch's own operations: a launcher runs it, nothing is traced, nothing
    is empty, as then it may have no memory to bind, and nothing of what is written, caches and new tokens, has a
    gradient to be followed."""
    if torch.compiler.is_compiling() or not launchers.takes(query) or torch._C._are_functorch_transforms_active():
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in written):
        return False
    return query.numel() != 0 and all(tensor.numel() for tensor in written)


def _append(*arguments) -> Tuple[torch.Tensor, torch.Tensor]:
    append = Append(*arguments)
    for cache in append[:2]:
        if not cache.is_inference():
            increment_version(cache)  # a launcher writes behind torch's back
    append = append._replace(k=_with_rows(append.k), v=_with_rows(append.v), query=_with_rows(append.query))
    if append.rotary_cos is not None and append.rotary_sin is not None:
        append = append._replace(rotary_cos=_with_rows(append.rotary_cos), rotary_sin=_with_rows(append.rotary_sin))
    return metal.append_to_cache(launchers.metal(), append)


def _new_results(call: Call, return_lse: bool, return_softmax: bool) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output like query with the value's head_dim; lse [num_heads, total_q] or [batch, num_heads, seqlen_q];
    row_softmax as lse, with two numbers for each row (softmax.h). Those two are fp32, or [0] when not asked for;
    row_softmax also on the CPU, where the backward computes the weights from the inputs."""
    query = call.query
    *batch, seqlen_q, num_heads, _ = query.shape
    rows = (*batch, num_heads, seqlen_q)
    has_softmax = return_softmax and launchers.takes(query)
    return (
        _new_output(call),
        query.new_empty(rows if return_lse else 0, dtype=torch.float32),
        query.new_empty((*rows, 2) if has_softmax else 0, dtype=torch.float32),
    )


def _new_output(call: Call) -> torch.Tensor:
    return call.query.new_empty((*call.query.shape[:-1], call.value.shape[-1]))


def _compute(
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    row_softmax: Optional[torch.Tensor],
    call: Call,
    dropout: Dropout,
) -> None:
    """Fills output, and lse and row_softmax unless None, by the implementation for the tensors' device."""
    target = launchers.target_for(output)
    call = _with_rows_of(call)
    if target is None:
        with torch._C._DisableAutocast():  # or it would round within
            cpu.attention_forward(output, lse, call, dropout)
        return
    if output.stride()[-1] != 1:  # the kernels write rows of contiguous elements
        contiguous = torch.empty_like(output, memory_format=torch.contiguous_format)
        metal.attention_forward(target, contiguous, lse, row_softmax, call, dropout)
        output.copy_(contiguous)
    else:
        metal.attention_forward(target, output, lse, row_softmax, call, dropout)


def _with_rows_of(call: Call) -> Call:
    """The kernels, and much of torch, read contiguous rows."""
    query, key, value, bias = call.query, call.key, call.value, call.attn_bias
    if bias is not None and bias.shape[-1] > 1 and bias.stride(-1) != 0:  # one bias for all columns may stay one
        call = call._replace(attn_bias=_with_rows(bias))
    if query.stride()[-1] == key.stride()[-1] == value.stride()[-1] == 1:  # faster than stride(-1)
        return call
    return call._replace(query=_with_rows(query), key=_with_rows(key), value=_with_rows(value))


def _with_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _backward(grad_output: torch.Tensor, grad_lse: Optional[torch.Tensor], *arguments) -> Gradients:
    call, (output, row_softmax, wants_key_value, wants_attn_bias, *rest) = taken(arguments)
    dropout = Dropout(*rest)
    target = launchers.target_for(grad_output)
    if (target is None) != (row_softmax is None):
        raise RuntimeError(
            "the backward of attention must run where its forward ran: on the same device, and inside use_launcher if "
            "the forward was"
        )
    if target is None:
        with torch._C._DisableAutocast():
            grads = cpu.attention_backward(grad_output, grad_lse, call, dropout, wants_attn_bias)
        if wants_key_value:
            return grads
        return grads._replace(key=grads.key.new_empty(0), value=grads.value.new_empty(0))
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    rows = _with_rows_of(call)
    return metal.attention_backward(
        target, _with_rows(grad_output), grad_lse, rows, output, row_softmax, wants_key_value, dropout
    )


def _refuse_backward(_grad, _shape):
    raise NotImplementedError("flash_attn_with_kvcache has no gradient: run it under torch.no_grad()")


def _refuse_vmap(*_inputs):
    raise NotImplementedError(
        "attention does not support torch.vmap, nor torch.func.jacrev, which uses it: a batch of sequences is one call"
    )


def _forward_fake(*arguments):
    call, (return_lse, return_softmax, *_dropout) = taken(arguments)
    return _new_results(call, return_lse, return_softmax)


def _forward_inference_fake(*arguments):
    return _new_output(Call(*arguments))


def _forward_out_fake(output, *_arguments):
    return None


def _backward_fake(_grad_output, _grad_lse, *arguments):
    call, (_output, _row_softmax, wants_key_value, wants_attn_bias, *_dropout) = taken(arguments)
    return metal.new_gradients(call, wants_key_value, wants_attn_bias)


def _over_rows_fake(*arguments):
    call, (_cache_batch_idx, _cache_leftpad, return_lse) = taken(arguments)
    return _new_results(call, return_lse, False)[:2]


def _append_fake(_k_cache, _v_cache, _k, _v, query, cache_seqlens, _rows, _table, rotary_cos, *_rest):
    return metal.new_appended(query, cache_seqlens, rotary_cos is not None)


def _refuse_backward_fake(grad, shape):
    return grad.new_empty(shape)


for _name, _implementation, _autograd, _fake in (
    ("attention_forward", _forward, autograd.forward, _forward_fake),
    (
        "attention_forward_inference",
        _forward_inference,
        autograd.without_gradient(attention_forward_inference),
        _forward_inference_fake,
    ),
    ("attention_forward_out", _forward_out, autograd.without_gradient(attention_forward_out), _forward_out_fake),
    ("attention_backward", _backward, autograd.backward, _backward_fake),
    ("attention_over_rows", _over_rows, autograd.without_gradient(attention_over_rows), _over_rows_fake),
    ("append_to_cache", _append, autograd.without_gradient(append_to_cache), _append_fake),
    ("refuse_backward", _refuse_backward, autograd.without_gradient(refuse_backward), _refuse_backward_fake),
):
    for _device in ("CPU", "MPS"):
        library.impl(_name, _implementation, _device)
    library.impl(_name, _autograd, "Autograd")
    library.impl(_name, _refuse_vmap, "FuncTorchBatched")
    torch.library.register_fake(add_op_namespace_prefix(_name), _fake, lib=library)
flops.register(ops)
