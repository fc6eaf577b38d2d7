"""The operators, in the namespace of this build: schemas, shapes, gradients, and where each device's work is done."""

from __future__ import annotations

from typing import Optional, Tuple

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from .. import cpu
from .. import launching as launchers
from .._ops import add_op_namespace_prefix, ops
from ..call import (
    SETTINGS,
    TENSORS,
    Call,
    Dropout,
    Gradients,
    differentiable_of,
    present,
    schema,
    settings_of,
    taken,
    tensors_of,
)
from ..checks import memory
from ..planning import forward as planner
from . import cache_rows, flops

_PUBLIC_NAMES = tuple("s_aux" if name == "sinks" else name for name in TENSORS)  # of flash_attention_varlen
_NO_GRADIENTS = Call._make((None,) * len(Call._fields))
_NO_BACKWARD = (
    "the backward of attention is not implemented on Metal: run the forward under torch.no_grad(), or on CPU tensors"
)

_library = torch.library.Library(add_op_namespace_prefix("").rstrip(":"), "FRAGMENT")
# attention_over_rows takes a call on a cache: key and value [batch_cache, seqlen_cache, heads, head_dim], and seqused_k
# where each sequence ends in its row, int32 or int64, None for seqlen_cache. Beside it, [batch], int32 or int64: the
# rows of the sequences, None for those in order, and where each begins in its row, None for 0.
for _schema in (
    f"attention_forward({schema(Call)}, bool return_lse, bool return_softmax, {schema(Dropout)}) "
    "-> (Tensor output, Tensor lse, Tensor row_softmax)",
    f"attention_forward_out(Tensor(a!) output, {schema(Call)}) -> ()",
    f"attention_backward(Tensor grad_output, Tensor? grad_lse, {schema(Call)}, {schema(Dropout)}) "
    "-> (Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_sinks)",
    f"attention_over_rows({schema(Call)}, Tensor? cache_batch_idx, Tensor? cache_leftpad, bool return_lse) "
    "-> (Tensor, Tensor)",
    "refuse_backward(Tensor grad, SymInt[] shape) -> Tensor",
):
    _library.define(_schema, tags=torch.Tag.pt2_compliant_tag)

attention_forward = ops.attention_forward.default
attention_forward_out = ops.attention_forward_out.default
attention_backward = ops.attention_backward.default
attention_over_rows = ops.attention_over_rows.default
refuse_backward = ops.refuse_backward.default


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


def _forward_out(output: torch.Tensor, *arguments) -> None:
    call = Call(*arguments)
    # Here, as tracing knows no memory.
    memory.check((("out", output),), zip(_PUBLIC_NAMES, tensors_of(call)))
    if not output.is_inference():
        increment_version(output)  # a launcher writes behind torch's back
    _compute(output, None, None, call, Dropout())


def _over_rows(*arguments) -> Tuple[torch.Tensor, torch.Tensor]:
    """Here strides are those of the memory; while tracing, they may not be."""
    call, (cache_batch_idx, cache_leftpad, return_lse) = taken(arguments)
    output, lse, _ = _forward(*cache_rows.packed(call, cache_batch_idx, cache_leftpad), return_lse, False)
    shape = call.query.shape[:2]
    output = output.unflatten(0, shape)
    return output, lse.unflatten(1, shape).transpose(0, 1).contiguous() if return_lse else lse


def _new_results(call: Call, return_lse: bool, return_softmax: bool) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output like query with the value's head_dim; lse [num_heads, total_q] or [batch, num_heads, seqlen_q]; row_softmax
    as lse, with two numbers for each row (softmax.h). Those two are fp32, or [0] when not asked for; row_softmax also on
    the CPU, where the backward computes the weights from the inputs."""
    query = call.query
    *batch, seqlen_q, num_heads, _ = query.shape
    rows = (*batch, num_heads, seqlen_q)
    has_softmax = return_softmax and (query.device.type == "mps" or launchers.current() is not None)
    return (
        query.new_empty((*batch, seqlen_q, num_heads, call.value.shape[-1])),
        query.new_empty(rows if return_lse else 0, dtype=torch.float32),
        query.new_empty((*rows, 2) if has_softmax else 0, dtype=torch.float32),
    )


def _compute(
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    row_softmax: Optional[torch.Tensor],
    call: Call,
    dropout: Dropout,
) -> None:
    """Fills output, and lse and row_softmax unless None, by the implementation for the tensors' device."""
    query, key, value = call.query, call.key, call.value
    if not query.stride(-1) == key.stride(-1) == value.stride(-1) == 1:  # the kernels read contiguous rows
        call = call._replace(query=_with_rows(query), key=_with_rows(key), value=_with_rows(value))
    target = launchers.current() if output.device.type == "cpu" else launchers.metal()
    if target is None:
        with torch._C._DisableAutocast():  # or it would round within
            cpu.attention_forward(output, lse, call, dropout)
        return
    if dropout.dropout_p > 0:
        dropout_p = dropout.dropout_p
        raise NotImplementedError(f"dropout is not implemented on Metal: dropout_p must be 0.0, got {dropout_p}")
    if output.stride(-1) != 1:  # the kernels write rows of contiguous elements
        contiguous = torch.empty_like(output, memory_format=torch.contiguous_format)
        launch(target, contiguous, lse, call, row_softmax)
        output.copy_(contiguous)
    else:
        launch(target, output, lse, call, row_softmax)


def _with_rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def launch(
    target: launchers.Target,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    call: Call,
    row_softmax: Optional[torch.Tensor] = None,
) -> None:
    """Plans a call for the target's GPU and runs the plan."""
    tensors = present(call)
    if not all(map(torch.Tensor.numel, tensors.values())):
        # Nothing to see: no queries, no keys, no pages or no sequences. An empty tensor may have no memory to bind.
        output.zero_()
        if lse is not None:
            lse.fill_(-torch.inf)
        if row_softmax is not None:
            row_softmax.copy_(row_softmax.new_tensor(planner.SOFTMAX_OF_NO_KEY))
        return
    plan = planner.plan_forward(target.device, output, lse, call, row_softmax)
    tensors["output"] = output
    if lse is not None:
        tensors["lse"] = lse
    if row_softmax is not None:
        tensors["row_softmax"] = row_softmax
    for name, shape in plan.scratch:
        tensors[name] = output.new_empty(shape, dtype=torch.float32)
    launched: Optional[planner.Plan] = plan
    while launched is not None:
        target.launcher(launched, tensors)
        launched = launched.then


def _backward_cpu(grad_output: torch.Tensor, grad_lse: Optional[torch.Tensor], *arguments) -> Gradients:
    call, dropout = taken(arguments)
    with torch._C._DisableAutocast():
        return cpu.attention_backward(grad_output, grad_lse, call, Dropout(*dropout))


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
    def forward(ctx, *arguments):
        ctx.save_for_backward(*tensors_of(arguments))
        ctx.settings = settings_of(arguments)
        _call, (_return_lse, _return_softmax, *ctx.dropout) = taken(arguments)
        ctx.launched = launchers.current() is not None
        ctx.set_materialize_grads(False)
        output, lse, row_softmax = _below_autograd(attention_forward, arguments)
        ctx.mark_non_differentiable(row_softmax, *([] if lse.dim() > 1 else [lse]))  # lse that was not asked for
        return output, lse, row_softmax

    @staticmethod
    def backward(ctx, grad_output, grad_lse, _grad_row_softmax):
        if ctx.launched:
            raise NotImplementedError(_NO_BACKWARD)
        # Unpacked once: checkpoints and offloading give each tensor once.
        call = Call(**dict(zip(TENSORS, ctx.saved_tensors)), **dict(zip(SETTINGS, ctx.settings)))
        if grad_output is None:
            grad_output = call.query.new_zeros((*call.query.shape[:-1], call.value.shape[-1]))
        grads = Gradients(*attention_backward(grad_output, grad_lse, *call, *ctx.dropout))
        if call.sinks is None:
            grads = grads._replace(sinks=None)
        return (*_NO_GRADIENTS._replace(**grads._asdict()), None, None, *(None for _ in ctx.dropout))


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


def _forward_autograd(*inputs):
    # By hand, as torch.library.register_autograd costs three times as much per call.
    if forward_ad._current_level >= 0:
        _refuse_tangents(inputs)
    if torch.is_grad_enabled():
        query, key, value, sinks = differentiable_of(inputs)
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


def _forward_fake(*arguments):
    call, (return_lse, return_softmax, *_dropout) = taken(arguments)
    return _new_results(call, return_lse, return_softmax)


def _forward_out_fake(output, *_arguments):
    return None


def _backward_fake(_grad_output, _grad_lse, *arguments):
    call, _dropout = taken(arguments)
    query, key, value = (tensor.new_empty(tensor.shape) for tensor in (call.query, call.key, call.value))
    shape = (0,) if call.sinks is None else call.sinks.shape
    return Gradients(query, key, value, query.new_empty(shape, dtype=torch.float32))


def _over_rows_fake(*arguments):
    call, (_cache_batch_idx, _cache_leftpad, return_lse) = taken(arguments)
    return _new_results(call, return_lse, False)[:2]


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
flops.register(ops)
