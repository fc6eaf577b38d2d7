"""torch's scaled_dot_product_attention on this kernel, and why torch's own computes what it does not take."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from .. import launching as launchers
from ..call import DTYPES
from ..checks.tensors import MAX_HEAD_DIM, MAX_SCALE, MAX_VALUE_DIM, Names
from ..interface import calls
from ..planning.backward_tiles import MAX_HEAD_DIM as MAX_GRADIENT_DIM

OPERATOR = torch.ops.aten.scaled_dot_product_attention.default
_NAMES = Names(query="query", key="key", value="value", softmax_scale="scale", causal="is_causal")
_WITHOUT_DISPATCH = torch._C._disabled_torch_dispatch_impl
_NUMBERS = (float, int, torch.SymFloat, torch.SymInt)
_TRACED = (FakeTensor, FunctionalTensor)


class Arguments(NamedTuple):
    """Of torch's function."""

    query: torch.Tensor  # [..., heads, seqlen_q, head_dim]
    key: torch.Tensor  # [..., heads_kv, seqlen_k, head_dim]
    value: torch.Tensor  # [..., heads_kv, seqlen_k, value head_dim]
    attn_mask: Optional[torch.Tensor]
    dropout_p: float
    is_causal: bool
    scale: Optional[float]
    enable_gqa: bool


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Optional[float] = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`, on this kernel where it can, else by torch's own.

    To make models use it that call torch's function, see `replace_sdpa`, which also tells what is taken and what not.

    Args:
        query: `[..., num_heads, seqlen_q, head_dim]`.
        key, value: `[..., num_heads_kv, seqlen_k, head_dim]`; the head_dim of value may be another one.
        attn_mask: bool (False hides a key) or floating (added to the scores), of a shape that broadcasts to
            `[..., num_heads, seqlen_q, seqlen_k]`.
        dropout_p: probability that a weight is dropped. The seed comes from torch's CPU generator, as for
            `flash_attn_func`; it does not drop what torch's own would drop.
        is_causal: query i sees the keys 0 to i: aligned at the first key, other than `causal` of `flash_attn_func`.
            Not together with attn_mask.
        scale: factor of the scores; None is head_dim ** -0.5.
        enable_gqa: whether num_heads may be a multiple of num_heads_kv.

    Returns:
        `[..., num_heads, seqlen_q, value head_dim]`, dtype of query, with the strides of torch's own result. A query
        that sees no key gives 0. Second derivatives are not implemented where this kernel computes the first.

    Raises what torch's function raises.
    """
    given = Arguments(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    if isinstance(query, torch.Tensor) and torch.is_autocast_enabled(query.device.type):
        given = _autocast(given, torch.get_autocast_dtype(query.device.type))
    if refusal(given) is not None:
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    return attention(given)


def torchs_own(given: Arguments) -> torch.Tensor:
    """Whatever replaces it."""
    *tensors_and_flags, scale, enable_gqa = given
    return OPERATOR.decompose(*tensors_and_flags, scale=scale, enable_gqa=enable_gqa)


def attention(given: Arguments) -> torch.Tensor:
    """On this kernel, what `refusal` finds nothing against."""
    query, key, value = given.query, given.key, given.value
    call = calls.dense(
        _NAMES,
        _tokens_first(query),
        _tokens_first(key),
        _tokens_first(value),
        softmax_scale=given.scale,
        causal=given.is_causal,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        attn_bias=_bias(given),
        aligns_first=given.is_causal,
    )
    output: Any = calls.attend(call, given.dropout_p, deterministic=False, return_attn_probs=False)
    output = output.transpose(1, 2)
    return _with_strides_of_torch(output.reshape(*query.shape[:-1], value.shape[-1]), given)


def refusal(given: Arguments) -> Optional[str]:
    """Why torch's own must compute it, or raise; None if this kernel can."""
    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa = given
    for tensor in (query, key, value) if attn_mask is None else (query, key, value, attn_mask):
        if not isinstance(tensor, torch.Tensor):
            return "an argument is no tensor"
        if type(tensor).__torch_dispatch__ is not _WITHOUT_DISPATCH and not isinstance(tensor, _TRACED):
            return f"a tensor is a {type(tensor).__name__}"
        if tensor.is_nested or tensor.layout is not torch.strided:
            return "a tensor is nested or sparse"
        if tensor.device != query.device:
            return "the tensors are on different devices"
    if not (isinstance(dropout_p, _NUMBERS) and isinstance(is_causal, bool) and isinstance(enable_gqa, bool)):
        return "an argument has another type"
    if scale is not None and not isinstance(scale, _NUMBERS):
        return "an argument has another type"
    if query.dtype not in DTYPES:
        return f"the dtype is {query.dtype}"
    if not query.dtype == key.dtype == value.dtype:
        return "the dtypes differ"
    reason = _refusal_of_shapes(query, key, value, enable_gqa) or _refusal_of_mask(query, key, attn_mask)
    if reason is not None:
        return reason
    if is_causal and attn_mask is not None:
        return "is_causal comes with an attn_mask"
    if not 0 <= dropout_p < 1:
        return "dropout_p is not 0 or more and less than 1"
    if scale is not None and not -MAX_SCALE <= scale <= MAX_SCALE:
        return f"scale is larger than {MAX_SCALE:g}"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are on"
    if torch._C._are_functorch_transforms_active():
        levels = torch._C._functorch.get_interpreter_stack() or ()
        if len(levels) > 1 or any(level.key() != torch._C._functorch.TransformType.Grad for level in levels):
            return "torch.func transforms it by more than one grad or vjp"
    # Dynamo cannot ask for the launcher of a test.
    if torch.is_grad_enabled() and (query.is_mps or not torch.compiler.is_compiling() and launchers.takes(query)):
        if attn_mask is not None and attn_mask.requires_grad:
            return "the gradient of attn_mask is not implemented on Metal"
        wants_gradient = query.requires_grad or key.requires_grad or value.requires_grad
        if wants_gradient and max(query.shape[-1], value.shape[-1]) > MAX_GRADIENT_DIM:
            return f"gradients on Metal need a head_dim of at most {MAX_GRADIENT_DIM}"
    return None


def _refusal_of_shapes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, enable_gqa: bool) -> Optional[str]:
    if query.dim() < 2 or not query.dim() == key.dim() == value.dim():
        return "the numbers of dimensions differ, or are less than 2"
    if query.numel() == 0 or key.numel() == 0 or value.numel() == 0:
        return "a tensor is empty"
    if query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]:
        return "the shapes of query, key and value do not fit"
    if query.shape[:-3] != key.shape[:-3]:
        return "the batch dimensions of query and key differ"
    if query.dim() > 2 and query.shape[-3] != key.shape[-3]:
        if not enable_gqa:
            return "the numbers of heads differ without enable_gqa"
        if query.shape[-3] % key.shape[-3]:
            return "the heads of query are no multiple of those of key"
    if query.shape[-1] > MAX_HEAD_DIM or value.shape[-1] > MAX_VALUE_DIM:
        return f"head_dim is larger than {MAX_HEAD_DIM}, or {MAX_VALUE_DIM} of value"
    return None


def _refusal_of_mask(query: torch.Tensor, key: torch.Tensor, mask: Optional[torch.Tensor]) -> Optional[str]:
    if mask is None:
        return None
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        return f"the dtype of attn_mask is {mask.dtype}"
    scores = (*query.shape[:-1], key.shape[-2])
    sizes = zip(reversed(mask.shape), reversed(scores))
    if not 2 <= mask.dim() <= len(scores) or not all(size == 1 or size == axis for size, axis in sizes):
        return "attn_mask does not broadcast to the scores"
    return None


def _bias(given: Arguments) -> Optional[torch.Tensor]:
    """The mask with at most four axes, of which the batch dimensions are one."""
    mask, query = given.attn_mask, given.query
    if mask is None or mask.dim() < 4 or query.dim() == 4:
        return mask
    return mask.expand(*query.shape[:-3], *mask.shape[-3:]).flatten(0, -4)


def _tokens_first(tensor: torch.Tensor) -> torch.Tensor:
    """[batch, seqlen, heads, head_dim], a view where the batch dimensions are one or have the strides of one."""
    if tensor.dim() > 4:
        tensor = tensor.flatten(0, -4)
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    return tensor.transpose(1, 2)


def _with_strides_of_torch(output: torch.Tensor, given: Arguments) -> torch.Tensor:
    """Those of the query if torch's own would come from its fused operator for the CPU, else of a contiguous tensor."""
    query, key, value, attn_mask = given[:4]
    is_fused = (
        query.is_cpu
        and query.dim() == 4
        and given.dropout_p == 0
        and query.shape[-1] == value.shape[-1]
        and query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        and (torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled())
        and (attn_mask is None or attn_mask.dim() in (2, 4) and not attn_mask.requires_grad)
    )
    if not is_fused:
        return output.contiguous()
    strides = torch.empty_like(query, device="meta").stride()
    if output.stride() == strides:
        return output
    return output.new_empty_strided(output.shape, strides).copy_(output)


def _autocast(given: Arguments, dtype: torch.dtype) -> Arguments:
    """As torch casts the arguments of its own function."""

    def cast(tensor: Any) -> Any:
        is_cast = isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dtype != torch.float64
        return tensor.to(dtype) if is_cast else tensor

    query, key, value, attn_mask = map(cast, given[:4])
    return given._replace(query=query, key=key, value=value, attn_mask=attn_mask)
