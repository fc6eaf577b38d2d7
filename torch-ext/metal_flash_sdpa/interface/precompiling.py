"""Kernels compiled before they are needed: the first call of each kind would otherwise wait for the compiler."""

from __future__ import annotations

import itertools
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch

from .. import launching as launchers
from ..call import DTYPES, Append, Call
from ..checks import features, tensors
from ..checks.scalars import as_flag
from ..planning.append import plan_append
from ..planning.backward import plan_backward
from ..planning.device import SMALLEST, Device
from ..planning.forward import plan_forward
from ..planning.plan import Plan

CALLS = ("flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache")
_Launches = Iterator[Plan]


class Precompiled(NamedTuple):
    """A kernel with the features that it was specialised for."""

    kernel: str
    features: Tuple[str, ...]  # function constants that are true
    milliseconds: Optional[float]  # to compile it, about 0 if it was before; None: there is no GPU, it would be


class _Model(NamedTuple):
    """The checked arguments of precompile."""

    call: str
    num_heads: int
    num_heads_kv: int
    head_dim: int
    value_dim: int
    dtype: torch.dtype
    max_seqlen: int
    max_batch: int
    window: Tuple[int, int]
    softcap: float
    alibi_slopes: bool
    sinks: bool
    bias: Optional[torch.dtype]
    dropout: bool
    lse: bool
    gradients: bool
    page_size: int
    rotary_dim: int

    def empty(self, *shape: int, dtype: Optional[torch.dtype] = None) -> torch.Tensor:
        """Of no memory: planners ask for shapes and strides only."""
        return torch.empty(shape, dtype=dtype or self.dtype, device="meta")


def precompile(
    call: str,
    *,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    max_seqlen: int,
    max_batch: int = 1,
    num_heads_kv: Optional[int] = None,
    value_dim: Optional[int] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: bool = False,
    sinks: bool = False,
    attn_bias: Optional[torch.dtype] = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    gradients: bool = False,
    page_size: int = 0,
    rotary_dim: int = 0,
) -> List[Precompiled]:
    """Compile the Metal kernels that a model's calls will need, before its first token; one call of it for each kind.

    Which kernel runs depends on the lengths: it goes through batches and sequences of 1, 2, 4, ... up to the largest,
    with as many queries as keys, and with one query. Tensors are taken to be contiguous. No memory is allocated and
    nothing is launched. macOS keeps what it has compiled, so that a later process finds it.

    Args:
        call: "flash_attn_func", "flash_attn_varlen_func" (also for its relatives of packed batches and stacked
            tensors) or "flash_attn_with_kvcache".
        num_heads, num_heads_kv: of the queries; of keys and values, by default as many.
        head_dim, value_dim: of queries and keys; of the values, by default the same.
        dtype: of the tensors, fp32, fp16 or bf16.
        max_seqlen, max_batch: the longest sequence, in tokens, and the most sequences of a call.
        causal, window_size, softcap, dropout_p: as the calls will have them.
        alibi_slopes, sinks: whether the calls will have any.
        attn_bias: its dtype, torch.bool for a mask; None without.
        return_lse: whether the log-sum-exp will be asked for.
        gradients: whether there will be a backward, of queries, keys and values. Not of "flash_attn_with_kvcache".
        page_size: tokens of a page, if there will be a block_table; 0 without. With cache_batch_idx, the length of the
            cache's rows.
        rotary_dim: elements of a head that "flash_attn_with_kvcache" will rotate; 0 = none.

    Returns:
        What was compiled, in order of first need: a list of (kernel, features, milliseconds). On a machine without an
        Apple GPU, what would be compiled on the smallest one, M1; milliseconds are then None.

    Raises:
        TypeError, ValueError: an argument of a wrong type or value.
        NotImplementedError: no kernel can do it.
        RuntimeError: the GPU or its compiler refuses a kernel, or this build has no Metal kernels.
    """
    model = _checked(
        call,
        num_heads=num_heads,
        num_heads_kv=num_heads if num_heads_kv is None else num_heads_kv,
        head_dim=head_dim,
        value_dim=head_dim if value_dim is None else value_dim,
        dtype=dtype,
        max_seqlen=max_seqlen,
        max_batch=max_batch,
        window=tensors.check_window(window_size, causal, "causal"),
        softcap=features.check_softcap(softcap),
        alibi_slopes=as_flag(alibi_slopes, "alibi_slopes"),
        sinks=as_flag(sinks, "sinks"),
        bias=attn_bias,
        dropout=features.check_dropout(dropout_p) > 0,
        lse=as_flag(return_lse, "return_lse"),
        gradients=as_flag(gradients, "gradients"),
        page_size=page_size,
        rotary_dim=rotary_dim,
    )
    target = launchers.current()
    if target is None and torch.backends.mps.is_available():
        target = launchers.metal()
    prepare = getattr(target.launcher, "prepare", None) if target else None
    compiled: Dict[tuple, Precompiled] = {}
    for plan in _plans(model, target.device if target else SMALLEST):
        pipeline = plan.source, plan.kernel, plan.constants
        if pipeline in compiled:
            continue
        started = time.perf_counter()
        if prepare is not None:
            prepare(plan)
        milliseconds = None if prepare is None else (time.perf_counter() - started) * 1e3
        names = tuple(name for name, value in plan.constants if value)
        compiled[pipeline] = Precompiled(plan.kernel, names, milliseconds)
    return list(compiled.values())


def _checked(call: str, **fields) -> _Model:
    if call not in CALLS:
        raise ValueError(f"call must be one of {', '.join(CALLS)}, got {call!r}")
    model = _Model(call=call, **fields)
    for name in ("num_heads", "num_heads_kv", "head_dim", "value_dim", "max_seqlen", "max_batch"):
        if tensors.check_index(getattr(model, name), name) < 1:
            raise ValueError(f"{name} must be 1 or more, got {getattr(model, name)}")
    for name, dtype, allowed in (("dtype", model.dtype, DTYPES), ("attn_bias", model.bias, features.BIAS_DTYPES)):
        if dtype not in allowed and not (name == "attn_bias" and dtype is None):
            raise TypeError(f"{name} must be one of {tensors.list_of(allowed)}, got {dtype}")
    query = model.empty(1, 1, model.num_heads, model.head_dim)
    key = model.empty(1, 1, model.num_heads_kv, model.head_dim)
    names = tensors.Names(query="num_heads and head_dim", key="num_heads_kv", value="value_dim")
    tensors.check_query(query, tensors.Layout.DENSE, names.query)
    value = model.empty(1, 1, model.num_heads_kv, model.value_dim)
    tensors.check_key_value(query, key, value, tensors.Layout.DENSE, names)
    is_cache = call == "flash_attn_with_kvcache"
    if tensors.check_index(model.page_size, "page_size") % tensors.PAGE_SIZE_UNIT:
        raise ValueError(f"page_size must be a multiple of {tensors.PAGE_SIZE_UNIT}, got {model.page_size}")
    if model.page_size and call == "flash_attn_func":
        raise ValueError(f"page_size must be 0 for flash_attn_func, which takes no pages, got {model.page_size}")
    if not 0 <= tensors.check_index(model.rotary_dim, "rotary_dim") <= model.head_dim or model.rotary_dim % 2:
        raise ValueError(f"rotary_dim must be even and at most head_dim, {model.head_dim}, got {model.rotary_dim}")
    if model.rotary_dim and not is_cache:
        raise ValueError(f"rotary_dim must be 0 but for flash_attn_with_kvcache, got {model.rotary_dim}")
    if is_cache and (model.gradients or model.dropout):
        raise ValueError("gradients and dropout_p must be left out: flash_attn_with_kvcache has neither")
    return model


def _plans(model: _Model, device: Device) -> _Launches:
    for batch in _sizes(model.max_batch):
        for keys in _sizes(model.max_seqlen):
            for queries in dict.fromkeys((keys, 1)):
                call = _call(model, batch, queries, keys)
                if model.call == "flash_attn_with_kvcache":
                    yield from _of_append(model, call)
                elif call.block_table is not None:  # lengths come by cu_seqlens_k, or so
                    used = model.empty(batch, dtype=torch.int32)
                    yield from _of_attention(model, device, call._replace(seqused_k=used))
                yield from _of_attention(model, device, call)


def _sizes(largest: int) -> List[int]:
    """1, 2, 4, ... and the largest itself."""
    return [*(1 << power for power in range((largest - 1).bit_length())), largest]


def _call(model: _Model, batch: int, queries: int, keys: int) -> Call:
    is_packed, is_cache = model.call == "flash_attn_varlen_func", model.call == "flash_attn_with_kvcache"
    tokens = [batch * queries] if is_packed else [batch, queries]
    pages = -(-keys // model.page_size) if model.page_size else 0
    places = [batch * pages, model.page_size] if pages else [batch * keys] if is_packed else [batch, keys]
    cu_seqlens = model.empty(batch + 1, dtype=torch.int32) if is_packed else None
    lengths = model.empty(batch, dtype=torch.int32)
    bias = None
    if model.bias is not None:
        dtype = model.bias if model.bias in (torch.bool, torch.float32, model.dtype) else torch.float32
        axes = [model.num_heads, batch * queries, keys] if is_packed else [batch, model.num_heads, queries, keys]
        bias = model.empty(*axes, dtype=dtype)
    return Call(
        query=model.empty(*tokens, model.num_heads, model.head_dim),
        key=model.empty(*places, model.num_heads_kv, model.head_dim),
        value=model.empty(*places, model.num_heads_kv, model.value_dim),
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_k=cu_seqlens,
        seqused_k=lengths if is_cache else None,
        block_table=model.empty(batch, pages, dtype=torch.int32) if pages else None,
        alibi_slopes=model.empty(model.num_heads, dtype=torch.float32) if model.alibi_slopes else None,
        sinks=model.empty(model.num_heads, dtype=torch.float32) if model.sinks else None,
        attn_bias=bias,
        max_seqlen_q=queries,
        max_seqlen_k=keys,
        softmax_scale=model.head_dim**-0.5,
        window_left=model.window[0],
        window_right=model.window[1],
        softcap=model.softcap,
        num_splits=0,
        aligns_first=False,
    )


def _of_append(model: _Model, call: Call) -> _Launches:
    """Of the launch before the attention. If angles are fp32 and the tensors are not, the kernel is another one."""
    assert call.seqused_k is not None
    batch, queries = call.query.shape[:2]
    k, v = (model.empty(batch, queries, *cache.shape[2:]) for cache in (call.key, call.value))
    for dtype in dict.fromkeys((model.dtype, torch.float32)):
        cos = model.empty(1, model.rotary_dim // 2, dtype=dtype) if model.rotary_dim else None
        cache = call.key, call.value, k, v, call.query, call.seqused_k, None, call.block_table
        yield plan_append(Append(*cache, cos, cos, rotary_interleaved=True, turns_by_first=False))


def _of_attention(model: _Model, device: Device, call: Call) -> _Launches:
    output = model.empty(*call.query.shape[:-1], model.value_dim)
    rows = model.empty(1, dtype=torch.float32)
    lse, row_softmax = rows if model.lse else None, rows if model.gradients else None
    yield from plan_forward(device, output, lse, call, row_softmax, model.dropout).launches
    if not model.gradients:
        return
    of_pages = call.block_table is not None  # whose gradients no kernel computes
    grad_key, grad_value = (None if of_pages else torch.empty_like(tensor) for tensor in (call.key, call.value))
    grads = torch.empty_like(call.query), grad_key, grad_value
    for grad_lse in dict.fromkeys((None, lse)):
        chain = plan_backward(device, call, output, output, grad_lse, grads, model.dropout)
        yield from itertools.islice(chain.launches, 3)  # one of each kernel
