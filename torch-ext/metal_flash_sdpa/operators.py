"""The operators, in the namespace of this build: schemas, shapes, gradients, and where each device's work is done."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from . import cache_rows, cpu, flops, launchers, memory, planner
from ._ops import add_op_namespace_prefix, ops

# Queries are packed, [total, heads, head_dim] with both cu_seqlens, or dense, [batch, seqlen, heads, head_dim] with
# neither. Keys and values are like the queries, or paged: [num_pages, page_size, heads, head_dim] with a block_table
# [batch, max_pages], the number of each sequence's keys being its seqused_k, else the difference of its cu_seqlens_k.
# Unless paged, seqused_k [batch] shortens sequences. All these are int32 and contiguous, as are alibi_slopes ([heads]
# or [batch, heads]) and sinks ([heads]) in fp32. Lengths are in tokens; windows in keys, -1 = unbounded;
# softcap 0.0 = none; num_splits: parts in which a GPU divides the keys, 0 = as many as fill it. Lengths are SymInts:
# new ones compile nothing anew. With dropout_p > 0, dropout_seed is int64 [1] on the CPU: the same seed drops the same
# weights, in the forward and in the backward.
_TENSORS = (
    "Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_k, "
    "Tensor? block_table, Tensor? alibi_slopes, Tensor? sinks"
)
# A cache whose sequences begin anywhere in its rows: [batch_cache, seqlen_cache, heads, head_dim], the rows [batch] of
# the sequences and where each begins and ends in its row, [batch], or None for the rows in order, 0 and seqlen_cache.
_ROWS = (
    "Tensor query, Tensor keys, Tensor values, Tensor? lengths, Tensor? rows, Tensor? leftpad, Tensor? alibi_slopes, "
    "Tensor? sinks"
)
_LENGTHS = "SymInt max_seqlen_q, SymInt max_seqlen_k"
_SETTINGS = "float softmax_scale, SymInt window_left, SymInt window_right, float softcap, int num_splits"
_INPUTS = f"{_TENSORS}, {_LENGTHS}, {_SETTINGS}"
_DROPOUT = "float dropout_p=0.0, Tensor? dropout_seed=None"
_NUM_INPUTS = len(_INPUTS.split(", "))
_NAMES = tuple(declaration.split()[-1] for declaration in _TENSORS.split(", "))
_PUBLIC_NAMES = (*_NAMES[:-1], "s_aux")  # of flash_attention_varlen, which gives them all
_NO_BACKWARD = (
    "the backward of attention is not implemented on Metal: run the forward under torch.no_grad(), or on CPU tensors"
)

_library = torch.library.Library(add_op_namespace_prefix("").rstrip(":"), "FRAGMENT")
for _schema in (
    f"attention_forward({_INPUTS}, bool return_lse, {_DROPOUT}) -> (Tensor, Tensor)",
    f"attention_forward_out(Tensor(a!) output, {_INPUTS}) -> ()",
    f"attention_backward(Tensor grad_output, Tensor? grad_lse, {_INPUTS}, {_DROPOUT}) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    f"attention_over_rows({_ROWS}, {_LENGTHS}, {_SETTINGS}, bool return_lse) -> (Tensor, Tensor)",
    "refuse_backward(Tensor grad, SymInt[] shape) -> Tensor",
):
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)

attention_forward = ops.attention_forward.default
attention_forward_out = ops.attention_forward_out.default
attention_backward = ops.attention_backward.default
attention_over_rows = ops.attention_over_rows.default
refuse_backward = ops.refuse_backward.default


def _forward(*inputs) -> Tuple[torch.Tensor, torch.Tensor]:
    inputs, return_lse, dropout = inputs[:_NUM_INPUTS], inputs[_NUM_INPUTS], inputs[_NUM_INPUTS + 1 :]
    output, lse = _new_outputs(inputs[0], inputs[2], return_lse)
    _compute(output, lse if return_lse else None, inputs, *dropout)
    return output, lse


def _forward_out(output: torch.Tensor, *inputs) -> None:
    memory.check((("out", output),), zip(_PUBLIC_NAMES, inputs))  # here, as tracing knows no memory
    if not output.is_inference():
        increment_version(output)  # a launcher writes behind torch's back
    _compute(output, None, inputs)


def _over_rows(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, *inputs):
    """Here strides are those of the memory; while tracing, they may not be."""
    *tensors, return_lse = inputs
    packed = cache_rows.packed_inputs(query, keys, values, *tensors[:5])
    output, lse = _forward(*packed, *tensors[5:], return_lse)
    output = output.unflatten(0, query.shape[:2])
    return output, lse.unflatten(1, query.shape[:2]).transpose(0, 1).contiguous() if return_lse else lse


def _for_cpu(inputs):
    """The inputs without those that only serve a GPU: max_seqlen_q, max_seqlen_k and num_splits."""
    return *inputs[:9], *inputs[11:15]


def _new_outputs(query: torch.Tensor, value: torch.Tensor, return_lse: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """Output like query with the value's head_dim, and lse [num_heads, total_q] or [batch, num_heads, seqlen_q], or
    [0] when not asked for."""
    lse_shape = (*query.shape[:-3], query.shape[-2], query.shape[-3]) if return_lse else (0,)
    output = query.new_empty((*query.shape[:-1], value.shape[-1]))
    return output, query.new_empty(lse_shape, dtype=torch.float32)


def _compute(
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    inputs: Sequence,
    dropout_p: float = 0.0,
    dropout_seed: Optional[torch.Tensor] = None,
) -> None:
    """Fills output, and lse unless None, by the implementation for the tensors' device."""
    query, key, value = inputs[:3]
    if not query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:  # the kernels read contiguous rows
        rows = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value))
        inputs = (*rows, *inputs[3:])
    target = launchers.current() if output.device.type == "cpu" else launchers.metal()
    if target is None:
        with torch._C._DisableAutocast():  # or it would round within
            cpu.attention_forward(output, lse, *_for_cpu(inputs), dropout_p, dropout_seed)
    elif dropout_p > 0:
        raise NotImplementedError(f"dropout is not implemented on Metal: dropout_p must be 0.0, got {dropout_p}")
    elif any(tensor is not None and tensor.numel() == 0 for tensor in inputs[:9]):
        # Nothing to see: no queries, no keys, no pages or no sequences. An empty tensor may have no memory to bind.
        output.zero_()
        if lse is not None:
            lse.fill_(-torch.inf)
    elif output.stride(-1) != 1:  # the kernels write rows of contiguous elements
        contiguous = torch.empty_like(output, memory_format=torch.contiguous_format)
        _launch(target, contiguous, lse, inputs)
        output.copy_(contiguous)
    else:
        _launch(target, output, lse, inputs)


def _launch(target: launchers.Target, output: torch.Tensor, lse: Optional[torch.Tensor], inputs: Sequence) -> None:
    plan = planner.plan_forward(target.device, output, lse, *inputs)
    tensors = dict(zip(("output", "lse", *_NAMES), (output, lse, *inputs)))
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    for name, shape in plan.scratch:
        tensors[name] = output.new_empty(shape, dtype=torch.float32)
    while plan is not None:
        target.launcher(plan, tensors)
        plan = plan.then


def _backward_cpu(grad_output: torch.Tensor, grad_lse: Optional[torch.Tensor], *inputs) -> Tuple[torch.Tensor, ...]:
    with torch._C._DisableAutocast():
        return cpu.attention_backward(grad_output, grad_lse, *_for_cpu(inputs), *inputs[_NUM_INPUTS:])


def _backward_mps(*_inputs):
    raise NotImplementedError(_NO_BACKWARD)


def _refuse_backward(_grad, _shape):
    raise NotImplementedError("flash_attn_with_kvcache has no gradient: run it under torch.no_grad()")


def _refuse_vmap(*_inputs):
    raise NotImplementedError(
        "attention does not support torch.vmap, nor torch.func.jacrev, which uses it: a batch of sequences is one call"
    )


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


class _Attention(torch.autograd.Function):
    """Gradients of attention_forward. Only the inputs are kept: the backward computes the weights again."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.dropout = inputs[_NUM_INPUTS + 1 :]
        ctx.save_for_backward(*inputs[:9])
        ctx.settings = inputs[9:_NUM_INPUTS]
        ctx.launched = launchers.current() is not None
        ctx.set_materialize_grads(False)
        output, lse = _below_autograd(attention_forward, inputs)
        if lse.dim() == 1:  # not asked for
            ctx.mark_non_differentiable(lse)
        return output, lse

    @staticmethod
    def backward(ctx, grad_output, grad_lse):
        if ctx.launched:
            raise NotImplementedError(_NO_BACKWARD)
        saved = ctx.saved_tensors  # unpacked once: checkpoints and offloading give each tensor once
        query, value, sinks = saved[0], saved[2], saved[8]
        if grad_output is None:
            grad_output = query.new_zeros((*query.shape[:-1], value.shape[-1]))
        *grads, grad_sinks = attention_backward(grad_output, grad_lse, *saved, *ctx.settings, *ctx.dropout)
        return (*grads, *(None,) * 5, None if sinks is None else grad_sinks, *(None,) * (8 + len(ctx.dropout)))


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
        ctx.shapes = [tensor.shape for tensor in inputs[2:]]

    @staticmethod
    def backward(ctx, grad_output, grad_lse):
        grad = grad_lse if grad_output is None else grad_output
        return None, None, *(refuse_backward(grad, shape) for shape in ctx.shapes)


without_backward = _WithoutBackward.apply


def _forward_autograd(*inputs):
    # By hand, as torch.library.register_autograd costs three times as much per call.
    if forward_ad._current_level >= 0:
        _refuse_tangents(inputs)
    if torch.is_grad_enabled():
        query, key, value, sinks = inputs[0], inputs[1], inputs[2], inputs[8]
        if query.requires_grad or key.requires_grad or value.requires_grad or sinks is not None and sinks.requires_grad:
            return _apply(_Attention, inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return attention_forward(*inputs)


def _backward_autograd(*inputs):
    if forward_ad._current_level >= 0:
        _refuse_tangents(inputs)
    return _apply(_AttentionBackward, inputs)


def _without_gradient(operator):
    """The interface calls attention_forward where gradients are wanted, or refuses them."""

    def autograd(*inputs):
        if forward_ad._current_level >= 0:
            _refuse_tangents(inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*inputs)

    return autograd


def _forward_fake(*inputs):
    return _new_outputs(inputs[0], inputs[2], inputs[_NUM_INPUTS])


def _forward_out_fake(output, *_inputs):
    return None


def _backward_fake(grad_output, grad_lse, query, key, value, *inputs):
    sinks = inputs[5]
    grad_sinks = query.new_empty((0,) if sinks is None else sinks.shape, dtype=torch.float32)
    return (*(tensor.new_empty(tensor.shape) for tensor in (query, key, value)), grad_sinks)


def _over_rows_fake(query, _keys, values, *inputs):
    return _new_outputs(query, values, inputs[-1])


def _refuse_backward_fake(grad, shape):
    return grad.new_empty(shape)


for _name, _cpu, _mps, _autograd, _fake in (
    ("attention_forward", _forward, _forward, _forward_autograd, _forward_fake),
    ("attention_forward_out", _forward_out, _forward_out, _without_gradient(attention_forward_out), _forward_out_fake),
    ("attention_backward", _backward_cpu, _backward_mps, _backward_autograd, _backward_fake),
    ("attention_over_rows", _over_rows, _over_rows, _without_gradient(attention_over_rows), _over_rows_fake),
    ("refuse_backward", _refuse_backward, _refuse_backward, _without_gradient(refuse_backward), _refuse_backward_fake),
):
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _mps, "MPS")
    _library.impl(_name, _autograd, "Autograd")
    _library.impl(_name, _refuse_vmap, "FuncTorchBatched")
    torch.library.register_fake(add_op_namespace_prefix(_name), _fake, lib=_library)
flops.register(ops, _NUM_INPUTS)
