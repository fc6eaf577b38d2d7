"""Attention over a cache of keys and values, which the call may extend.

The attention reads the cache where it is, in one call of the operator. Nothing here reads a value from the device:
lengths, indices and page numbers stay tensors.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple, Union

import torch

from .. import operators
from ..call import Call
from ..checks import device_values, features, memory, tensors
from ..checks.scalars import as_flag
from ..checks.tensors import Layout, Names
from . import calls
from .rotary import Rotary, check_rotary

LARGEST_NUM_SPLITS = 128  # as flash_attn has it; the planner takes what its kernels can
_NAMES, _NEW_NAMES = Names(key="k_cache", value="v_cache"), Names()
_INTEGERS = (torch.int32, torch.int64)


class _Cache(NamedTuple):
    """Where each sequence's keys and values are."""

    keys: torch.Tensor  # [batch_cache, seqlen_cache, heads, head_dim] or [num_pages, page_size, heads, head_dim]
    values: torch.Tensor
    block_table: Optional[torch.Tensor]  # [batch, max_pages]; None: one row of the cache for each sequence,
    rows: Optional[torch.Tensor]  # [batch], or None: the rows 0, 1, ...
    capacity: int  # tokens of a sequence

    def places(self, positions: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Rows or pages, and the offsets in them, of positions [batch, tokens] below the capacity."""
        if self.block_table is not None:
            page_size = self.keys.shape[1]
            return self.block_table.long().gather(1, positions // page_size), positions % page_size
        batch = positions.shape[0]
        rows = torch.arange(batch, device=positions.device) if self.rows is None else self.rows.long()
        return rows.unsqueeze(1).expand_as(positions), positions


def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: Optional[torch.Tensor] = None,
    v: Optional[torch.Tensor] = None,
    rotary_cos: Optional[torch.Tensor] = None,
    rotary_sin: Optional[torch.Tensor] = None,
    cache_seqlens: Optional[Union[int, torch.Tensor]] = None,
    cache_batch_idx: Optional[torch.Tensor] = None,
    cache_leftpad: Optional[torch.Tensor] = None,
    block_table: Optional[torch.Tensor] = None,
    softmax_scale: Optional[float] = None,
    causal: bool = False,
    window_size: Tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Optional[torch.Tensor] = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    s_aux: Optional[torch.Tensor] = None,
    learnable_sink: Optional[torch.Tensor] = None,
    attn_bias: Optional[torch.Tensor] = None,
) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:
    """Attention over a cache, to which k and v, if given, are appended first, in place.

    Args:
        q: `[batch, seqlen_q, num_heads, head_dim]`, fp32, fp16 or bf16.
        k_cache, v_cache: `[batch_cache, seqlen_cache, num_heads_kv, head_dim]`, batch_cache at least batch, or, with a
            block_table, `[num_pages, page_size, num_heads_kv, head_dim]`, page_size a multiple of 16. dtype and device
            of `q`; the head_dim of v_cache may be another one. Any strides with a contiguous last dimension; also
            parts or views of larger tensors. If k and v are given, a cache that shares memory with the other, with
            another part of itself or with another argument is a ValueError (not while compiling). With a block_table
            both may be views of one pool of pages, from different pages on.
        k, v: `[batch, seqlen_new, num_heads_kv, head_dim]`, together: written to the cache from position cache_seqlens
            on, and seen by the queries. A token that finds no place (beyond the end, or at a negative position, or in
            a page that does not exist) is not written.
        rotary_cos, rotary_sin: `[positions, rotary_dim / 2]`, as many positions as a sequence of the cache can
            hold or more, rotary_dim up to head_dim, dtype of `q` or fp32: k and q are rotated by them, the new key
            number t by the row cache_seqlens + t, query i by the row cache_seqlens + i, or, if neither causal nor a
            window is given, cache_seqlens. Only together with k and v. They have no gradient.
        cache_seqlens: tokens in the cache before the call, int or `[batch]` or 0-dim int32 (int64 is converted); None
            is all that it can hold. Needed with k and v.
        cache_batch_idx: `[batch]`, int32 or int64: the row of the cache that holds each sequence, instead of 0, 1, ...
            If rows are repeated while k and v are appended, any of them is kept. Not together with block_table.
        cache_leftpad: `[batch]`, int32 or int64: where each sequence begins in its row of the cache; cache_seqlens
            counts what is before. Not implemented together with block_table.
        block_table: `[batch, max_pages]`, int32: the pages that hold each sequence's keys in order.
        rotary_interleaved: whether the elements 0 and 1, 2 and 3, ... are rotated together, else 0 and rotary_dim / 2,
            1 and rotary_dim / 2 + 1, ...
        num_splits: parts in which a GPU divides the keys, 0 to 128; 0 = as many as fill it.
        return_softmax_lse: whether to return the log-sum-exp as well.
        attn_bias: as for `flash_attn_func`; column j is that of slot j of the sequence's row of the cache, whatever
            cache_leftpad says, or of its pages in order. It may be copied if cache_leftpad or cache_batch_idx is given.
        softmax_scale, causal, window_size, softcap, alibi_slopes, s_aux, learnable_sink: as for `flash_attn_func`.

    Returns:
        The output `[batch, seqlen_q, num_heads, value head_dim]`, or, with return_softmax_lse, the pair
        (output, softmax_lse) with softmax_lse `[batch, num_heads, seqlen_q]`, fp32. There is no gradient: a backward
        through them raises NotImplementedError. To the caches, k and v are written as by torch's own operations.

    The cache is not copied, with one exception: if cache_leftpad is given, or cache_batch_idx and seqlen_cache is no
    multiple of 16, and if the step from row to row of k_cache or v_cache is no multiple of its step from token to
    token, or not the same multiple in both, then their rows are gathered.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong value or shape.
        NotImplementedError: a feature that this version lacks, as for `flash_attn_varlen_func`.
    """
    tensors.check_query(q, Layout.DENSE, "q")
    batch, seqlen_q = q.shape[:2]
    cache = _check_cache(q, k_cache, v_cache, block_table, cache_batch_idx)
    leftpad = None
    if cache_leftpad is not None:
        if block_table is not None:
            raise NotImplementedError("cache_leftpad is not implemented for paged caches: block_table must be None")
        leftpad = features.check_per_sequence(cache_leftpad, "cache_leftpad", q, batch, _INTEGERS)
    seqlen_new = _check_new(q, k, v, cache)
    if k is not None and cache_seqlens is None:
        raise ValueError("cache_seqlens must say where k and v are appended, got None")
    lengths, longest = _check_cache_seqlens(cache_seqlens, q, cache.capacity, seqlen_new)
    rotary = check_rotary(rotary_cos, rotary_sin, rotary_interleaved, q, cache.capacity)
    if rotary is not None and k is None:
        raise ValueError("rotary_cos and rotary_sin need new keys to rotate: k and v must be given, got None")
    fields = calls.scored(
        _NAMES,
        q,
        batch=batch,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        s_aux=s_aux,
        learnable_sink=learnable_sink,
    )
    fewest = 1 if isinstance(cache_seqlens, torch.Tensor) else longest
    attn_bias = features.check_attn_bias(attn_bias, q, fewest, is_packed=False)
    num_splits = tensors.check_index(num_splits, "num_splits", LARGEST_NUM_SPLITS)
    return_softmax_lse = as_flag(return_softmax_lse, "return_softmax_lse")
    if tensors.CHECK_VALUES:
        device_values.check_cache_values(lengths, seqlen_new, cache.capacity, cache.rows, leftpad, block_table, k_cache)

    if seqlen_new > 0 and k_cache is v_cache:
        raise ValueError("k_cache is written, so it must not share memory with v_cache, got one tensor for both")
    if seqlen_new > 0 and not torch.compiler.is_compiling():  # while tracing, tensors have no memory
        read = [("q", q), ("k", k), ("v", v), ("rotary_cos", rotary_cos), ("rotary_sin", rotary_sin)]
        read += [("cache_batch_idx", cache_batch_idx), ("cache_leftpad", cache_leftpad), ("block_table", block_table)]
        read += [("alibi_slopes", alibi_slopes), ("s_aux", s_aux), ("learnable_sink", learnable_sink)]
        read += [("attn_bias", attn_bias)]
        if isinstance(cache_seqlens, torch.Tensor):
            read.append(("cache_seqlens", cache_seqlens))
        if block_table is None:
            memory.check([("k_cache", k_cache), ("v_cache", v_cache)], read)
        else:  # both may be views of one pool, from different pages on: the block_table then keeps them apart
            same_pages = [("v_cache", v_cache)] if k_cache.storage_offset() == v_cache.storage_offset() else []
            memory.check([("k_cache", k_cache)], [*read, *same_pages])
            memory.check([("v_cache", v_cache)], read)

    query = q
    if k is not None and v is not None and lengths is not None:  # all three, then
        is_whole = fields["window_left"] == fields["window_right"] == -1
        query, lengths = _extend(cache, q, k, v, lengths, rotary, is_whole)
    # One call of an operator on the whole cache: on dense or paged keys, if every sequence starts its row.
    starts_rows = leftpad is None and (cache.rows is None or cache.capacity % tensors.PAGE_SIZE_UNIT == 0)
    over_rows = cache.capacity != 0 and not starts_rows
    key, value, block_table = cache.keys, cache.values, cache.block_table
    if not over_rows:
        key, value, block_table, lengths = _where_it_is(cache, lengths, batch)
    call = Call(
        query=query,
        key=key,
        value=value,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        seqused_k=lengths,
        block_table=block_table,
        attn_bias=attn_bias,
        max_seqlen_q=seqlen_q,
        max_seqlen_k=longest,
        num_splits=num_splits,
        aligns_first=False,
        **fields,
    )
    if over_rows:
        output, lse = operators.without_gradient_of(
            operators.attention_over_rows, *call, cache.rows, leftpad, return_softmax_lse
        )
    else:
        output, lse = operators.attention_without_gradient(call, return_softmax_lse)
    if torch.is_grad_enabled():
        inputs = q, k_cache, v_cache, k, v, fields["sinks"], attn_bias
        sources = [t for t in inputs if t is not None and t.requires_grad]
        if sources:
            output, lse = operators.without_backward(output, lse, *sources)
    return (output, lse) if return_softmax_lse else output


def _extend(
    cache: _Cache,
    query: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    rotary: Optional[Rotary],
    turns_by_first: bool,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Appends k and v, and returns (the query, the lengths after it). With rotary, both k and the query are rotated;
    all of a sequence's queries by the position of the first new token with turns_by_first."""
    seqlen_new = k.shape[1]
    if operators.appends(query, cache.keys, cache.values, k, v) and cache.capacity > 0:
        cos, sin, interleaved = (None, None, False) if rotary is None else rotary
        rotated, lengths = operators.without_gradient_of(
            operators.append_to_cache,
            *cache[:2],
            k,
            v,
            query,
            lengths,
            cache.rows,
            cache.block_table,
            cos,
            sin,
            interleaved,
            turns_by_first,
        )
        return query if rotary is None else rotated, lengths
    if rotary is not None:
        first = lengths.long().unsqueeze(1)
        k = rotary.rotate(k, first + torch.arange(seqlen_new, device=k.device))
        if not turns_by_first:
            first = first + torch.arange(query.shape[1], device=query.device)
        query = rotary.rotate(query, first)
    _append(cache, k, v, lengths)
    return query, lengths + seqlen_new


def _append(cache: _Cache, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor) -> None:
    """Writes k and v [batch, tokens, heads, head_dim] behind the lengths; tokens without a place stay out."""
    if k.numel() == 0 or cache.keys.numel() == 0 or cache.capacity == 0:
        return
    positions = lengths.long().unsqueeze(1) + torch.arange(k.shape[1], device=k.device)
    valid = (positions >= 0) & (positions < cache.capacity)
    places, offsets = cache.places(positions.clamp(0, cache.capacity - 1))
    valid = (valid & (places >= 0) & (places < cache.keys.shape[0])).flatten()
    # How many are valid is known to the device alone, so all are written: one that is not, as a copy of one that is,
    # or, if none is, of what is there already. No two writes to one place then differ.
    source = torch.arange(valid.shape[0], device=k.device).where(valid, valid.int().argmax())
    index = places.flatten()[source].clamp(0, cache.keys.shape[0] - 1), offsets.flatten()[source]
    any_valid = valid.any()
    for tensor, new in ((cache.keys, k), (cache.values, v)):
        # As for every in-place operation, but that a cache which is a parameter may be written.
        tracked = new.requires_grad or (tensor.requires_grad and not tensor.is_leaf)
        with torch.set_grad_enabled(torch.is_grad_enabled() and tracked):
            tensor.index_put_(index, new.flatten(0, 1)[source].where(any_valid, tensor[index]))


def _where_it_is(
    cache: _Cache, lengths: Optional[torch.Tensor], batch: int
) -> Tuple[torch.Tensor, torch.Tensor, Optional[torch.Tensor], Optional[torch.Tensor]]:
    """(key, value, block_table, seqused_k) of a call that reads the cache, of dense or paged keys."""
    key, value, block_table, rows, capacity = cache
    if rows is not None:  # a page for each row of the cache
        block_table = rows.to(torch.int32).unsqueeze(1)
    if lengths is not None:
        lengths = lengths if lengths.dtype == torch.int32 else lengths.to(torch.int32)
    elif block_table is not None:
        lengths = torch.full((batch,), capacity, dtype=torch.int32, device=key.device)
    if block_table is None and key.shape[0] != batch:
        key, value = key[:batch], value[:batch]
    return key, value, block_table, lengths


def _check_cache(
    query: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: Optional[torch.Tensor],
    cache_batch_idx: Optional[torch.Tensor],
) -> _Cache:
    batch = query.shape[0]
    block_table = features.check_block_table(block_table, query, batch)
    layout = Layout.CACHE if block_table is None else Layout.PAGED
    tensors.check_key_value(query, k_cache, v_cache, layout, _NAMES)
    for tensor, name in ((k_cache, "k_cache"), (v_cache, "v_cache")):
        if tensor.stride()[-1] != 1:
            raise ValueError(f"{name} must have a contiguous last dimension, got strides {tensor.stride()}")
    rows = None
    if cache_batch_idx is not None:
        if block_table is not None:
            raise ValueError("cache_batch_idx must be None with block_table, which says where the sequences are")
        rows = features.check_per_sequence(cache_batch_idx, "cache_batch_idx", query, batch, _INTEGERS)
    elif block_table is None and k_cache.shape[0] < batch:
        raise ValueError(
            f"k_cache must have at least the batch size of q, {batch}, without cache_batch_idx, "
            f"got shape {tuple(k_cache.shape)}"
        )
    capacity = k_cache.shape[1] if block_table is None else block_table.shape[1] * k_cache.shape[1]
    return _Cache(k_cache, v_cache, block_table, rows, capacity)


def _check_cache_seqlens(
    cache_seqlens: Optional[Union[int, torch.Tensor]], query: torch.Tensor, capacity: int, seqlen_new: int
) -> Tuple[Optional[torch.Tensor], int]:
    """(the lengths before the call [batch], or None for all that the cache can hold; a bound of those after it)."""
    batch = query.shape[0]
    if cache_seqlens is None:
        return None, capacity
    if isinstance(cache_seqlens, torch.Tensor):
        if cache_seqlens.dim() == 0:  # one length for all: not read, either
            cache_seqlens = cache_seqlens.expand(batch)
        return features.check_per_sequence(cache_seqlens, "cache_seqlens", query, batch, _INTEGERS), capacity
    length = tensors.check_index(cache_seqlens, "cache_seqlens", capacity - seqlen_new)
    return torch.full((batch,), length, dtype=torch.int32, device=query.device), length + seqlen_new


def _check_new(query: torch.Tensor, k: Optional[torch.Tensor], v: Optional[torch.Tensor], cache: _Cache) -> int:
    """How many tokens are appended to each sequence."""
    if k is None and v is None:
        return 0
    if k is None or v is None:
        raise ValueError(f"k and v must be given together, got {'k' if v is None else 'v'} alone")
    tensors.check_key_value(query, k, v, Layout.DENSE, _NEW_NAMES)
    for new, cached, name in ((k, cache.keys, "k"), (v, cache.values, "v")):
        if new.shape[2:] != cached.shape[2:]:
            raise ValueError(
                f"{name} must have the heads and head_dim of {name}_cache, {tuple(cached.shape[2:])}, "
                f"got shape {tuple(new.shape)}"
            )
    if k.shape[1] > cache.capacity:
        raise ValueError(
            f"k must fit into the cache, {cache.capacity} tokens for each sequence, got shape {tuple(k.shape)}"
        )
    return k.shape[1]
