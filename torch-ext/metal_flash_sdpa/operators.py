"""The operators, in the namespace of this build: schemas, shapes, gradients, and where each device's work is done."""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from . import cpu, launchers, planner
from ._ops import add_op_namespace_prefix, ops

# Packed tensors [total, heads, head_dim] with both cu_seqlens, or dense ones [batch, seqlen, heads, head_dim] with
# neither. Lengths are in tokens; windows in keys, -1 = unbounded. Lengths are SymInts: new ones compile nothing anew.
_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt max_seqlen_q, "
    "SymInt max_seqlen_k, float softmax_scale, SymInt window_left, SymInt window_right"
)
_NO_BACKWARD = (
    "the backward of attention is not implemented on Metal: run the forward under torch.no_grad(), or on CPU tensors"
)

_library = torch.library.Library(add_op_namespace_prefix("").rstrip(":"), "FRAGMENT")
for _schema in (
    f"attention_forward({_INPUTS}, bool return_lse) -> (Tensor, Tensor)",
    f"attention_forward_out(Tensor(a!) output, {_INPUTS}) -> ()",
    f"attention_backward(Tensor grad_output, Tensor? grad_lse, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
):
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)

attention_forward = ops.attention_forward.default
attention_forward_out = ops.attention_forward_out.default
attention_backward = ops.attention_backward.default


def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
    return_lse: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    output, lse = _new_outputs(query, return_lse)
    inputs = (query, key, value, cu_seqlens_q, cu_seqlens_k, softmax_scale, window_left, window_right)
    _compute(output, lse if return_lse else None, *inputs)
    return output, lse


def _forward_out(
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
) -> None:
    _compute(output, None, query, key, value, cu_seqlens_q, cu_seqlens_k, softmax_scale, window_left, window_right)


def _new_outputs(query: torch.Tensor, return_lse: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """Output like query, and lse [num_heads, total_q] or [batch, num_heads, seqlen_q], or [0] when not asked for."""
    lse_shape = (*query.shape[:-3], query.shape[-2], query.shape[-3]) if return_lse else (0,)
    return query.new_empty(query.shape), query.new_empty(lse_shape, dtype=torch.float32)


def _compute(output, lse, query, key, value, cu_seqlens_q, cu_seqlens_k, softmax_scale, window_left, window_right):
    """Fills output, and lse unless None, by the implementation for the tensors' device."""
    launcher = launchers.current() if query.device.type == "cpu" else launchers.metal()
    settings = (softmax_scale, window_left, window_right)
    if launcher is None:
        cpu.attention_forward(output, lse, query, key, value, cu_seqlens_q, cu_seqlens_k, *settings)
    elif key.numel() == 0 or query.numel() == 0:  # nothing to see: an empty tensor may have no memory to bind
        output.zero_()
        if lse is not None:
            lse.fill_(-torch.inf)
    elif output.stride(-1) != 1:  # the kernels write rows of contiguous elements
        contiguous = torch.empty_like(output, memory_format=torch.contiguous_format)
        _launch(launcher, contiguous, lse, query, key, value, cu_seqlens_q, cu_seqlens_k, *settings)
        output.copy_(contiguous)
    else:
        _launch(launcher, output, lse, query, key, value, cu_seqlens_q, cu_seqlens_k, *settings)


def _launch(launcher, output, lse, query, key, value, cu_seqlens_q, cu_seqlens_k, *settings):
    plan = planner.plan_forward(query, key, value, output, lse, cu_seqlens_q, cu_seqlens_k, *settings)
    tensors = {"query": query, "key": key, "value": value, "output": output}
    if lse is not None:
        tensors["lse"] = lse
    if cu_seqlens_q is not None:
        tensors["cu_seqlens_q"], tensors["cu_seqlens_k"] = cu_seqlens_q, cu_seqlens_k
    launcher(plan, tensors)


def _backward_cpu(
    grad_output: torch.Tensor,
    grad_lse: Optional[torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    window_left: int,
    window_right: int,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    inputs = (query, key, value, cu_seqlens_q, cu_seqlens_k, softmax_scale, window_left, window_right)
    return cpu.attention_backward(grad_output, grad_lse, *inputs)


def _backward_mps(*_inputs):
    raise NotImplementedError(_NO_BACKWARD)


class _Attention(torch.autograd.Function):
    """Gradients of attention_forward. Only the inputs are kept: the backward computes the weights again."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs[:5])
        ctx.settings = inputs[5:10]
        ctx.launched = launchers.current() is not None
        ctx.set_materialize_grads(False)
        with torch._C._AutoDispatchBelowAutograd():
            output, lse = attention_forward(*inputs)
        if lse.dim() == 1:  # not asked for
            ctx.mark_non_differentiable(lse)
        return output, lse

    @staticmethod
    def backward(ctx, grad_output, grad_lse):
        if ctx.launched:
            raise NotImplementedError(_NO_BACKWARD)
        query = ctx.saved_tensors[0]
        if grad_output is None:
            grad_output = query.new_zeros(query.shape)
        grads = attention_backward(grad_output, grad_lse, *ctx.saved_tensors, *ctx.settings)
        return (*grads, *(None,) * 8)


class _AttentionBackward(torch.autograd.Function):
    """Refuses second derivatives, which autograd would otherwise leave out."""

    @staticmethod
    def forward(ctx, *inputs):
        with torch._C._AutoDispatchBelowAutograd():
            return attention_backward(*inputs)

    @staticmethod
    def backward(ctx, *_grads):
        raise NotImplementedError("second derivatives of attention are not implemented")


def _forward_autograd(*inputs):
    # By hand, as torch.library.register_autograd costs three times as much per call.
    if torch.is_grad_enabled() and (inputs[0].requires_grad or inputs[1].requires_grad or inputs[2].requires_grad):
        return _Attention.apply(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return attention_forward(*inputs)


def _forward_fake(query, key, value, cu_seqlens_q, cu_seqlens_k, max_q, max_k, scale, left, right, return_lse):
    return _new_outputs(query, return_lse)


def _forward_out_fake(output, *_inputs):
    return None


def _backward_fake(grad_output, grad_lse, query, key, value, *_inputs):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


_library.impl("attention_forward", _forward, "CPU")
_library.impl("attention_forward", _forward, "MPS")
_library.impl("attention_forward", _forward_autograd, "Autograd")
_library.impl("attention_forward_out", _forward_out, "CPU")
_library.impl("attention_forward_out", _forward_out, "MPS")
_library.impl("attention_backward", _backward_cpu, "CPU")
_library.impl("attention_backward", _backward_mps, "MPS")
_library.impl("attention_backward", _AttentionBackward.apply, "Autograd")
torch.library.register_fake(add_op_namespace_prefix("attention_forward"), _forward_fake, lib=_library)
torch.library.register_fake(add_op_namespace_prefix("attention_forward_out"), _forward_out_fake, lib=_library)
torch.library.register_fake(add_op_namespace_prefix("attention_backward"), _backward_fake, lib=_library)
