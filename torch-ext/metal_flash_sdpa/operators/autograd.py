"""Gradients: what autograd, torch.func and forward-mode derivatives are told of the operators."""

from __future__ import annotations

import contextlib

import torch
from torch.autograd import forward_ad

from .. import launching as launchers
from ..call import SETTINGS, TENSORS, Call, Gradients, differentiable_of, settings_of, taken, tensors_of
from ..planning.backward_tiles import MAX_HEAD_DIM
from . import sharding
from .schemas import attention_backward, attention_forward, refuse_backward

_NO_GRADIENTS = Call._make((None,) * len(Call._fields))


def refuse_captured(out: torch.Tensor) -> None:
    """As torch does for its own in-place operations: what torch.func transforms does not see a write from outside."""
    functorch = torch._C._functorch
    if (
        torch._C._are_functorch_transforms_active()
        and functorch.maybe_get_level(out) != functorch.maybe_current_level()
    ):
        raise NotImplementedError(
            "out must be made inside the function that torch.func transforms, got one from outside"
        )


def _apply(function, inputs):
    """function.apply; torch.func runs an operator's autograd kernel once for each of its levels."""
    if not torch._C._are_functorch_transforms_active():
        return function.apply(*inputs)
    with torch._functorch.autograd_function.enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*inputs)


def _below_autograd(operator, inputs):
    with torch._C._AutoDispatchBelowAutograd():
        if not torch._C._are_functorch_transforms_active():
            return operator(*inputs)
        # A Function's forward turns both off, and the level below would not see that it has something to derive.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return operator(*inputs)


def _refuse_without_kernels(call: Call) -> None:
    """Gradients that are wanted and that no Metal kernel computes, before the forward runs."""
    if call.block_table is not None and (call.key.requires_grad or call.value.requires_grad):
        raise NotImplementedError(
            "gradients of key and value in pages are not implemented on Metal: detach them, or compute on the CPU"
        )
    if call.attn_bias is not None and call.attn_bias.requires_grad:
        raise NotImplementedError(
            "the gradient of attn_bias is not implemented on Metal: detach it, or compute on the CPU"
        )
    head_dim, value_dim = call.query.shape[-1], call.value.shape[-1]
    if head_dim > MAX_HEAD_DIM or value_dim > MAX_HEAD_DIM:
        raise NotImplementedError(
            f"gradients on Metal need a head_dim of 1 to {MAX_HEAD_DIM}, got {head_dim}, and {value_dim} of the "
            "values: run under torch.no_grad(), or compute on the CPU"
        )


class _Attention(torch.autograd.Function):
    """Gradients of attention_forward. The CPU implementation computes the weights again from the inputs; on a GPU the
    output and row_softmax are kept, too."""

    @staticmethod
    def forward(ctx, *arguments):
        call, (return_lse, _return_softmax, *ctx.dropout) = taken(arguments)
        ctx.settings = settings_of(arguments)
        ctx.launcher = launchers.current()
        ctx.set_materialize_grads(False)
        is_launched = launchers.takes(call.query)
        if is_launched:
            _refuse_without_kernels(call)
        results = _below_autograd(attention_forward, (*call, return_lse, is_launched, *ctx.dropout))
        output, lse, row_softmax = results
        ctx.save_for_backward(*tensors_of(arguments), *((output, row_softmax) if is_launched else (None, None)))
        ctx.mark_non_differentiable(row_softmax, *(() if return_lse else (lse,)))
        return results

    @staticmethod
    def backward(ctx, grad_output, grad_lse, _grad_row_softmax):
        # Unpacked once: checkpoints and offloading give each tensor once.
        *tensors, output, row_softmax = ctx.saved_tensors
        call = Call(**dict(zip(TENSORS, tensors)), **dict(zip(SETTINGS, ctx.settings)))
        if grad_output is None:
            grad_output = call.query.new_zeros((*call.query.shape[:-1], call.value.shape[-1]))
        wants_key, wants_value, wants_attn_bias = (
            ctx.needs_input_grad[Call._fields.index(name)] for name in ("key", "value", "attn_bias")
        )
        wants_key_value = wants_key or wants_value
        with contextlib.nullcontext() if ctx.launcher is None else launchers.use_launcher(*ctx.launcher):
            grads = Gradients(
                *attention_backward(
                    grad_output, grad_lse, *call, output, row_softmax, wants_key_value, wants_attn_bias, *ctx.dropout
                )
            )
        wanted = grads._asdict()
        if not wants_key_value:
            wanted.update(key=None, value=None)
        if call.sinks is None:
            wanted.update(sinks=None)
        if not wants_attn_bias:
            wanted.update(attn_bias=None)
        return (*_NO_GRADIENTS._replace(**wanted), None, None, *(None for _ in ctx.dropout))


class _AttentionBackward(torch.autograd.Function):
    """Refuses second derivatives, which autograd would otherwise leave out."""

    @staticmethod
    def forward(ctx, *inputs):
        return _below_autograd(attention_backward, inputs)

    @staticmethod
    def backward(ctx, *_grads):
        raise NotImplementedError("second derivatives of attention are not implemented")


def _refuse_tangents(inputs) -> None:
    """Forward-mode derivatives, which autograd would otherwise leave out."""
    for tensor in inputs:
        if isinstance(tensor, torch.Tensor) and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError("forward-mode derivatives of attention are not implemented")


class _WithoutBackward(torch.autograd.Function):
    """Ties results to what they came from, for a backward that is refused: without, autograd would leave it out."""

    @staticmethod
    def forward(output, lse, *tensors):
        return output.view_as(output), lse.view_as(lse)

    @staticmethod
    def setup_context(ctx, inputs, _results):
        ctx.set_materialize_grads(False)
        _output, _lse, *tensors = inputs
        ctx.shapes = [tensor.shape for tensor in tensors]

    @staticmethod
    def backward(ctx, grad_output, grad_lse):
        grad = grad_lse if grad_output is None else grad_output
        return None, None, *(refuse_backward(grad, shape) for shape in ctx.shapes)


without_backward = _WithoutBackward.apply


def any_requires_grad(tensors) -> bool:
    for tensor in tensors:  # faster than a generator
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether nothing but gradients concerns an operator's autograd kernel, nor watches which operator it is."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) is torch.Tensor
        and forward_ad._current_level < 0
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def without_gradient_of(operator, *inputs):
    """The operator's results; where possible past its autograd kernel, which would take the arguments apart again."""
    if is_plain(inputs[0]):
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)
    with torch.no_grad():
        return operator(*inputs)


def forward(*inputs):
    # By hand, as torch.library.register_autograd costs three times as much per call.
    if type(inputs[0]) is not torch.Tensor:
        sharding.register_for(inputs[0])
    if forward_ad._current_level >= 0:
        _refuse_tangents(inputs)
    if torch.is_grad_enabled():
        if any_requires_grad(differentiable_of(inputs)):
            return _apply(_Attention, inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return attention_forward(*inputs)


def backward(*inputs):
    if forward_ad._current_level >= 0:
        _refuse_tangents(inputs)
    return _apply(_AttentionBackward, inputs)


def without_gradient(operator):
    """The interface calls attention_forward where gradients are wanted, or refuses them."""

    def autograd(*inputs):
        if forward_ad._current_level >= 0:
            _refuse_tangents(inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return autograd
