"""From the shapes of a cache and of what it is extended by to one launch, as forward.py."""

from __future__ import annotations

import functools
from typing import Any, Optional, Tuple

import torch

from ..call import DTYPES, Append
from .plan import AppendParams, Plan
from .problem import SIMD_WIDTH, UNBOUNDED

ROWS = 4  # cache_append.metal: kRows


def plan_append(append: Append) -> Plan:
    """Plan the kernel that appends. Tensors are only asked for shape, strides and dtype; they have elements.

    The plan reads and writes the fields by name, and writes "seqused_k" and, with rotary, the contiguous "rotated".

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    cos, sin, rows, table = append.rotary_cos, append.rotary_sin, append.cache_batch_idx, append.block_table
    return _plan_append(
        append.k_cache.dtype,
        (append.k_cache.shape, append.k_cache.stride()),
        (append.v_cache.shape, append.v_cache.stride()),
        (append.k.shape, append.k.stride()),
        append.v.stride(),
        (append.query.shape, append.query.stride()),
        append.cache_seqlens.dtype,
        None if rows is None else rows.dtype,
        None if table is None else table.shape[1],
        None if cos is None or sin is None else (cos.dtype, cos.shape, cos.stride(0), sin.stride(0)),
        append.rotary_interleaved,
        append.turns_by_first,
    )


@functools.lru_cache(maxsize=1024)  # bounded, as that of forward plans
def _plan_append(
    dtype: torch.dtype,
    key_cache: tuple,
    value_cache: tuple,
    key: tuple,
    value_strides: tuple,
    query: tuple,
    length_dtype: torch.dtype,
    row_dtype: Optional[torch.dtype],
    max_pages: Optional[int],
    rotary: Optional[Tuple[Any, ...]],
    interleaved: bool,
    turns_by_first: bool,
) -> Plan:
    (places, page_size, num_heads_kv, head_dim), cache_strides = key_cache
    (batch, new_tokens, *_), key_strides = key
    (_, query_tokens, num_heads, _), query_strides = query
    capacity = page_size * (1 if max_pages is None else max_pages)
    if capacity >= UNBOUNDED:
        raise NotImplementedError(
            f"the kernels count keys in 32 bits: got room for {capacity} of a sequence, allowed are fewer than "
            f"{UNBOUNDED}"
        )
    angle_dtype, (angles, pairs), cosine_stride, sine_stride = rotary or (dtype, (0, 0), 0, 0)
    if rotary is None:
        query_tokens = num_heads = 0
    tokens = max(new_tokens, query_tokens)
    params = AppendParams(
        key=key_strides[:3],
        value=value_strides[:3],
        query=query_strides[:3],
        key_cache=cache_strides[:3],
        value_cache=value_cache[1][:3],
        rotated=(query_tokens * num_heads * head_dim, num_heads * head_dim, head_dim),
        new_tokens=new_tokens,
        query_tokens=query_tokens,
        num_heads_kv=num_heads_kv,
        num_heads=num_heads,
        head_dim=head_dim,
        value_dim=value_cache[0][3],
        capacity=capacity,
        places=places,
        page_size=page_size,
        place_stride=max_pages or int(row_dtype is not None),
        place_words=_words(row_dtype),
        length_words=_words(length_dtype),
        pairs=pairs,
        pair_step=2 if interleaved else 1,
        pair_distance=1 if interleaved else pairs,
        angles=angles,
        cosine_stride=cosine_stride,
        sine_stride=sine_stride,
        query_step=int(not turns_by_first),
    )
    suffix = "" if angle_dtype == dtype else f"_{DTYPES[angle_dtype]}"
    # Where there is nothing to bind, another tensor is bound: the kernel does not touch it.
    numbers = "block_table" if max_pages else "cache_seqlens" if row_dtype is None else "cache_batch_idx"
    return Plan(
        source="cache_append.metal",
        kernel=f"cache_append_{DTYPES[dtype]}{suffix}",
        constants=(),
        arguments=(params.pack(), "cache_seqlens", numbers, "k", "v", "k_cache", "v_cache", "seqused_k")
        + (("rotary_cos", "rotary_sin", "query", "rotated") if rotary else ("k", "k", "k", "k")),
        grid=(-(-(2 * num_heads_kv + num_heads) // ROWS), tokens, batch),
        threads=(ROWS * SIMD_WIDTH, 1, 1),
        reason="one SIMD group for a head of a token",
    )


def _words(dtype: Optional[torch.dtype]) -> int:
    return 2 if dtype == torch.int64 else 1
