"""`torch.nn.attention.varlen.varlen_attn` on this kernel, by torch's registry of flash attention implementations.

varlen_attn calls torch's operators `_flash_attention_forward` and `_flash_attention_backward`, which torch itself
implements for CUDA alone.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict, Iterable, Optional, Tuple

import torch

from .. import operators
from ..call import Call
from ..checks.tensors import Names
from ..interface import calls
from . import parts
from .door import Undo, check_devices

NAME = "metal_flash_sdpa"
_NAMES = Names("query", "key", "value", "scale", "is_causal", "cum_seq_q", "cum_seq_k", "max_q", "max_k")


class _Kernels:
    """What the registry keeps while this implementation is the active one."""

    def __init__(self, devices: Tuple[str, ...]) -> None:
        self._library = torch.library.Library("aten", "IMPL")
        for device in devices:
            self._library.impl("_flash_attention_forward", _forward, device.upper())
            self._library.impl("_flash_attention_forward_no_dropout_inplace", _forward_out, device.upper())
            self._library.impl("_flash_attention_backward", _backward, device.upper())

    def remove(self) -> None:
        self._library._destroy()


def activate_varlen_attn(devices: Iterable[str] = ("mps",)) -> Undo:
    """Makes `torch.nn.attention.varlen.varlen_attn` run on this kernel, with gradients.

    It becomes the active implementation of torch's registry, "metal_flash_sdpa", and restores the default at the end.

    Args:
        devices: of the tensors that are taken, "mps" or "cpu" or both.

    Returns:
        What undoes it: by `undo()`, or at the end of a `with` block.

    Raises:
        ValueError: other devices.
        RuntimeError: this torch has no such registry.
    """
    chosen = check_devices(devices)
    try:
        registry = importlib.import_module("torch.nn.attention._registry")
    except ModuleNotFoundError:
        raise RuntimeError(
            f"torch {torch.__version__} has no registry of flash attention implementations: it came with 2.11"
        ) from None
    registry.register_flash_attention_impl(NAME, register_fn=lambda: _Kernels(chosen))
    registry.activate_flash_attention_impl(NAME)

    def undo() -> None:
        if registry.current_flash_attention_impl() == NAME:
            registry.restore_flash_attention_impl()
        registry._FLASH_ATTENTION_IMPLS.pop(NAME, None)

    return Undo(undo)


def _call(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cum_seq_q: Optional[torch.Tensor],
    cum_seq_k: Optional[torch.Tensor],
    max_q: int,
    max_k: int,
    is_causal: bool,
    scale: Optional[float],
    window_size_left: Optional[int],
    window_size_right: Optional[int],
    alibi_slopes: Optional[torch.Tensor] = None,
    **keys: Any,
) -> Call:
    scoring: Dict[str, Any] = {
        "softmax_scale": scale,
        "causal": is_causal,
        "window_size": tuple(-1 if side is None else side for side in (window_size_left, window_size_right)),
        "softcap": 0.0,
        "alibi_slopes": alibi_slopes,
    }
    if cum_seq_q is None:
        return calls.dense(_NAMES, query, key, value, **scoring)
    lengths: Dict[str, Any] = {
        "cu_seqlens_q": cum_seq_q,
        "cu_seqlens_k": cum_seq_k,
        "max_seqlen_q": max_q,
        "max_seqlen_k": max_k,
    }
    return calls.packed(_NAMES, query, key, value, **lengths, **keys, **scoring)


def _forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    seqused_k=None,
    alibi_slopes=None,
    block_table=None,
    num_splits=None,
):
    if dropout_p > 0:
        raise NotImplementedError("dropout_p must be 0: the rng_state of torch's operator holds no seed of this kernel")
    if return_debug_mask:
        raise NotImplementedError("return_debug_mask must be False: the weights of attention are never stored")
    call = _call(
        query,
        key,
        value,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        is_causal,
        scale,
        window_size_left,
        window_size_right,
        alibi_slopes,
        seqused_k=seqused_k,
        block_table=block_table,
    )
    output, lse, _ = operators.attention_forward(*call._replace(num_splits=num_splits or 0), True, False)
    like_query = torch.empty_like(query) if query.shape == output.shape else output
    if like_query.stride() != output.stride():  # torch's fake has the query's strides
        output = like_query.copy_(output)
    rng_state = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return output, lse, rng_state, query.new_empty(0), query.new_empty(0)


def _forward_out(out, *arguments, **named):
    output, lse, *_ = _forward(*arguments, **named)
    out.copy_(output)
    return lse


def _backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng_state,
    unused,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
):
    call = _call(
        query,
        key,
        value,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
        is_causal,
        scale,
        window_size_left,
        window_size_right,
    )
    grads = parts.backward(grad_out, call, out, logsumexp, dropout_p, None)
    return grads.query, grads.key, grads.value
