"""Checks of the public functions' arguments; those of optional features are in features.py, of values in
device_values.py.

Every check names the argument, what is allowed and what came: TypeError for a wrong type, ValueError for a wrong value
or shape, NotImplementedError for a feature that this version lacks. Values that live on a device are not read, unless
the environment variable METAL_FLASH_SDPA_CHECK_VALUES is "1" when the package is imported.
"""

from __future__ import annotations

import enum
import os
from typing import Collection, Iterable, NamedTuple, Optional, Tuple, Union

import torch

from ..call import DTYPES
from .scalars import as_flag, as_float, as_integer, as_pair, kind_of

CHECK_VALUES = os.environ.get("METAL_FLASH_SDPA_CHECK_VALUES") == "1"
PAGE_SIZE_UNIT = 16  # so that a kernel's blocks of keys end where pages do
MAX_HEAD_DIM, MAX_VALUE_DIM = 576, 512  # of queries and keys; of values
MAX_SCALE = 1e8  # ordinary scores stay finite in fp32 after scaling
MAX_LENGTH = 2**31 - 1  # tokens


class Names(NamedTuple):
    """What a public function calls its arguments."""

    query: str = "q"
    key: str = "k"
    value: str = "v"
    softmax_scale: str = "softmax_scale"
    causal: str = "causal"
    cu_seqlens_q: str = "cu_seqlens_q"
    cu_seqlens_k: str = "cu_seqlens_k"
    max_seqlen_q: str = "max_seqlen_q"
    max_seqlen_k: str = "max_seqlen_k"


class Layout(enum.Enum):
    """The axes of queries, keys or values, or of a tensor that stacks them on the third axis from behind."""

    PACKED = ("total", "heads", "head_dim")
    DENSE = ("batch", "seqlen", "heads", "head_dim")
    PAGED = ("num_pages", "page_size", "heads", "head_dim")
    CACHE = ("batch_cache", "seqlen_cache", "heads", "head_dim")
    PACKED_QKV = ("total", 3, "heads", "head_dim")
    PACKED_KV = ("total", 2, "heads", "head_dim")
    DENSE_QKV = ("batch", "seqlen", 3, "heads", "head_dim")
    DENSE_KV = ("batch", "seqlen", 2, "heads", "head_dim")

    def __init__(self, *axes: Union[str, int]):
        self.axes, self.rank = axes, len(axes)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.axes))}]"


_DENSE, _PAGED = Layout.DENSE, Layout.PAGED  # as looking up a member takes its time


def check_query(query: torch.Tensor, layout: Layout, name: str) -> None:
    """`query` alone: what the other checks build on."""
    *_, num_heads, head_dim = shape = _check_layout(query, layout, name)
    if query.dtype not in DTYPES:
        raise TypeError(f"{name} must be one of {list_of(DTYPES)}, got {query.dtype}")
    if num_heads < 1:
        raise ValueError(f"{name} must have at least one head, got shape {tuple(shape)}")
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"{name} must have a head_dim of 1 to {MAX_HEAD_DIM}, got {head_dim}")


def check_key_value(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, names: Names) -> None:
    """`key` and `value` beside a checked `query`."""
    *axes, num_heads, head_dim = query.shape  # once, as reading a shape takes its time
    *key_axes, key_dim = _check_like_query(query, axes[0], key, layout, names.query, names.key)
    *value_axes, value_dim = _check_like_query(query, axes[0], value, layout, names.query, names.value)
    if key_dim != head_dim:
        raise ValueError(
            f"{names.key} must have the head_dim of {names.query}, {head_dim}, got shape {tuple(key.shape)}"
        )
    if value_axes != key_axes:
        raise ValueError(
            f"{names.value} must have the shape of {names.key} up to head_dim, {tuple(key_axes)}, "
            f"got shape {tuple(value.shape)}"
        )
    if not 1 <= value_dim <= MAX_VALUE_DIM:
        raise ValueError(f"{names.value} must have a head_dim of 1 to {MAX_VALUE_DIM}, got {value_dim}")
    num_heads_kv = key_axes[-1]
    if num_heads_kv < 1 or num_heads % num_heads_kv:
        raise ValueError(
            f"the number of heads of {names.query}, {num_heads}, must be a multiple of that of {names.key}, "
            f"got {num_heads_kv}"
        )


def _check_like_query(
    query: torch.Tensor, batch: int, tensor: torch.Tensor, layout: Layout, query_name: str, name: str
) -> torch.Size:
    """The tensor's shape. batch: of dense queries."""
    shape = _check_layout(tensor, layout, name)
    if tensor.dtype != query.dtype:
        raise TypeError(f"{name} must have the dtype of {query_name}, {query.dtype}, got {tensor.dtype}")
    if tensor.device != query.device:
        raise ValueError(f"{name} must be on the device of {query_name}, {query.device}, got {tensor.device}")
    if layout is _DENSE and shape[0] != batch:
        raise ValueError(f"{name} must have the batch size of {query_name}, {batch}, got shape {tuple(shape)}")
    if layout is _PAGED and (shape[1] < 1 or shape[1] % PAGE_SIZE_UNIT):
        raise ValueError(
            f"{name} must have a page_size that is a multiple of {PAGE_SIZE_UNIT} in its layout {layout}, "
            f"got shape {tuple(shape)}"
        )
    return shape


def _check_layout(tensor: torch.Tensor, layout: Layout, name: str) -> torch.Size:
    """The tensor's shape."""
    shape = check_kind(tensor, name).shape
    if len(shape) != layout.rank:
        raise ValueError(f"{name} must have {layout.rank} dimensions {layout}, got shape {tuple(shape)}")
    return shape


def check_kind(tensor: object, name: str, allowed: str = "a tensor") -> torch.Tensor:
    """What is given: a tensor, and one whose elements lie at strides in the memory of one device."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be {allowed}, got {kind_of(tensor)}")
    if tensor.is_nested:
        raise NotImplementedError(
            f"{name} must not be a nested tensor: pass its values to flash_attn_varlen_func, its offsets as cu_seqlens"
        )
    if tensor.layout is not torch.strided:
        raise NotImplementedError(f"{name} must have the layout torch.strided, got {tensor.layout}")
    if type(tensor) is not torch.Tensor and type(tensor).__name__ == "DTensor":
        raise NotImplementedError(f"{name} must not be a DTensor: pass its to_local(), of whole sequences and heads")
    return tensor


def check_stacked(tensor: torch.Tensor, name: str, layout: Layout) -> None:
    """Queries, keys and values, or keys and values, in one tensor."""
    check_kind(tensor, name)
    if tensor.dim() != layout.rank or tensor.shape[-3] != layout.axes[-3]:
        raise ValueError(f"{name} must have shape {layout}, got shape {tuple(tensor.shape)}")


def check_tensor(
    tensor: object, name: str, layout: str, at_least: int = 0, dtypes: Collection[torch.dtype] = ()
) -> torch.Tensor:
    """What is given: a tensor of at least that many dimensions and one of the dtypes, if there are any."""
    tensor = check_kind(tensor, name)
    if dtypes and tensor.dtype not in dtypes:
        raise TypeError(f"{name} must be one of {list_of(dtypes)}, got {tensor.dtype}")
    if tensor.dim() < at_least:
        raise ValueError(f"{name} must have the dimensions {layout}, got shape {tuple(tensor.shape)}")
    return tensor


def check_cu_seqlens(
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: Optional[torch.Tensor],
    seqused_k: Optional[torch.Tensor],
    block_table: Optional[torch.Tensor],
    query: torch.Tensor,
    names: Names,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Both cu_seqlens as contiguous int32; one tensor passed twice stays one tensor. With paged keys, cu_seqlens_k
    gives lengths only, and may be None where seqused_k gives them."""
    checked_q = _check_cu_seqlens(cu_seqlens_q, names.cu_seqlens_q, query, names.query)
    if cu_seqlens_k is cu_seqlens_q:
        return checked_q, checked_q
    if cu_seqlens_k is None and block_table is not None:
        if seqused_k is None:
            raise ValueError("block_table needs the lengths of the sequences: cu_seqlens_k or seqused_k, got neither")
        return checked_q, checked_q  # the operators bind both, and read one
    checked_k = _check_cu_seqlens(cu_seqlens_k, names.cu_seqlens_k, query, names.query)
    if checked_q.shape[0] != checked_k.shape[0]:
        raise ValueError(
            f"{names.cu_seqlens_k} must be as long as {names.cu_seqlens_q}, {checked_q.shape[0]}, "
            f"got {checked_k.shape[0]}"
        )
    return checked_q, checked_k


def _check_cu_seqlens(cu_seqlens: object, name: str, query: torch.Tensor, query_name: str) -> torch.Tensor:
    cu_seqlens = check_kind(cu_seqlens, name)
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(f"{name} must have shape [batch + 1], got shape {tuple(cu_seqlens.shape)}")
    if cu_seqlens.dtype != torch.int32 and cu_seqlens.dtype != torch.int64:
        raise TypeError(f"{name} must be torch.int32 or torch.int64, got {cu_seqlens.dtype}")
    if cu_seqlens.device != query.device:
        raise ValueError(f"{name} must be on the device of {query_name}, {query.device}, got {cu_seqlens.device}")
    if cu_seqlens.dtype == torch.int32 and cu_seqlens.stride(0) == 1:
        return cu_seqlens
    return cu_seqlens.to(torch.int32).contiguous()


def check_max_seqlen(max_seqlen: Union[int, torch.Tensor], total: int, name: str) -> int:
    """An int. A tensor is not read, as it may live on a device: it becomes its upper bound, `total` tokens."""
    if isinstance(max_seqlen, torch.Tensor):
        if max_seqlen.dim() != 0 or max_seqlen.dtype not in (torch.int32, torch.int64):
            raise TypeError(
                f"{name} must be an int or a 0-dim integer tensor, "
                f"got {max_seqlen.dtype} of shape {tuple(max_seqlen.shape)}"
            )
        return total
    return check_index(max_seqlen, name)


def check_window(window_size: Tuple[int, int], causal: bool, causal_name: str) -> Tuple[int, int]:
    """(window_left, window_right) in keys, -1 = all of them; causal is a window that ends at the diagonal."""
    causal = as_flag(causal, causal_name)
    left, right = as_pair(window_size, "window_size")
    if left < -1 or right < -1:
        raise ValueError(f"window_size must be -1 (unbounded) or more on both sides, got {(left, right)}")
    # No sequence is longer, and operators count in 64 bits.
    if left >= MAX_LENGTH:
        left = -1
    if right >= MAX_LENGTH:
        right = -1
    return left, 0 if causal else right


def check_softmax_scale(softmax_scale: Optional[float], head_dim: int, name: str) -> float:
    """The scale, by default head_dim ** -0.5."""
    if softmax_scale is None:
        return head_dim**-0.5
    softmax_scale = as_float(softmax_scale, name, "a float or None")
    if not -MAX_SCALE <= softmax_scale <= MAX_SCALE:  # false for NaN, too
        raise ValueError(f"{name} must be finite and {-MAX_SCALE:g} to {MAX_SCALE:g}, got {softmax_scale}")
    return float(softmax_scale)


def check_out(out: torch.Tensor, query: torch.Tensor, value: torch.Tensor) -> None:
    """`out` is like `query` with the head_dim of `value`."""
    check_kind(out, "out")
    shape = (*query.shape[:-1], value.shape[-1])
    if out.shape != shape:
        raise ValueError(
            f"out must have the shape of query with the head_dim of value, {shape}, got shape {tuple(out.shape)}"
        )
    if out.dtype != query.dtype:
        raise TypeError(f"out must have the dtype of query, {query.dtype}, got {out.dtype}")
    if out.device != query.device:
        raise ValueError(f"out must be on the device of query, {query.device}, got {out.device}")


def check_index(number: int, name: str, largest: int = MAX_LENGTH) -> int:
    number = as_integer(number, name)
    # While compiling, the value may be unknown until run time.
    if not torch.compiler.is_compiling() and not 0 <= number <= largest:
        raise ValueError(f"{name} must be 0 to {largest}, got {number}")
    return number


def list_of(dtypes: Iterable[torch.dtype]) -> str:
    return ", ".join(map(str, dtypes))
