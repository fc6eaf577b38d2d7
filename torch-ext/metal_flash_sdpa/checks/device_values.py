"""Checks of values that live on a device, for debugging: reading them waits for the device.

The kernels never trust these values; they clamp them, so that a wrong one gives a wrong result and no more.
"""

from __future__ import annotations

from typing import List, Optional, Union

import torch


def check_query_values(cu_seqlens_q: torch.Tensor, max_seqlen_q: Union[int, torch.Tensor], total_q: int) -> None:
    """Of the queries of a packed batch."""
    _check_longest(_packed_lengths(cu_seqlens_q, "cu_seqlens_q", total_q), max_seqlen_q, "max_seqlen_q")


def check_key_values(
    cu_seqlens_k: torch.Tensor,
    max_seqlen_k: Union[int, torch.Tensor],
    seqused_k: Optional[torch.Tensor],
    block_table: Optional[torch.Tensor],
    key: torch.Tensor,
) -> None:
    """Of the keys of a packed or paged batch."""
    if block_table is None:
        lengths = _packed_lengths(cu_seqlens_k, "cu_seqlens_k", key.shape[0])
    else:
        capacity = block_table.shape[1] * key.shape[1]
        lengths = [capacity] * block_table.shape[0]
        if seqused_k is None:
            lengths = _paged_lengths(cu_seqlens_k, capacity)
    if seqused_k is not None:
        lengths = _used_lengths(seqused_k, lengths)
    if block_table is not None:
        _check_pages(block_table, lengths, key.shape[0], key.shape[1])
    _check_longest(lengths, max_seqlen_k, "max_seqlen_k")


def check_cache_values(
    cache_seqlens: Optional[torch.Tensor],
    seqlen_new: int,
    capacity: int,
    cache_batch_idx: Optional[torch.Tensor],
    cache_leftpad: Optional[torch.Tensor],
    block_table: Optional[torch.Tensor],
    k_cache: torch.Tensor,
) -> None:
    """Of a cache that can hold `capacity` tokens for each sequence, to which seqlen_new are appended."""
    lengths = None if cache_seqlens is None else cache_seqlens.tolist()
    for index, length in enumerate(lengths or ()):
        if not 0 <= length <= capacity - seqlen_new:
            raise ValueError(
                f"cache_seqlens must be 0 to {capacity - seqlen_new}, what the cache can hold beside the new tokens, "
                f"got {length} at index {index}"
            )
    for index, row in enumerate([] if cache_batch_idx is None else cache_batch_idx.tolist()):
        if not 0 <= row < k_cache.shape[0]:
            raise ValueError(
                f"cache_batch_idx must hold numbers of the cache's {k_cache.shape[0]} rows, from 0, "
                f"got {row} at index {index}"
            )
    for index, start in enumerate([] if cache_leftpad is None else cache_leftpad.tolist()):
        length = capacity if lengths is None else lengths[index]
        if not 0 <= start <= length:
            raise ValueError(
                f"cache_leftpad must be 0 to the sequence's cache_seqlens, {length}, got {start} at index {index}"
            )
    if block_table is not None:
        lengths = [capacity] * block_table.shape[0] if lengths is None else [length + seqlen_new for length in lengths]
        _check_pages(block_table, lengths, k_cache.shape[0], k_cache.shape[1])


def _packed_lengths(cu_seqlens: torch.Tensor, name: str, total: int) -> List[int]:
    values = cu_seqlens.tolist()
    if values[0] < 0:
        raise ValueError(f"{name} must start at 0 or more, got {values[0]}")
    if values[-1] > total:
        raise ValueError(f"{name} must end within the tensor's {total} tokens, got {values[-1]}")
    return _differences(values, name)


def _paged_lengths(cu_seqlens_k: torch.Tensor, capacity: int) -> List[int]:
    lengths = _differences(cu_seqlens_k.tolist(), "cu_seqlens_k")
    for index, length in enumerate(lengths):
        if length > capacity:
            raise ValueError(
                f"cu_seqlens_k must give no sequence more than the {capacity} tokens of its pages, "
                f"got {length} at index {index}"
            )
    return lengths


def _differences(values: List[int], name: str) -> List[int]:
    for index, (begin, end) in enumerate(zip(values, values[1:])):
        if end < begin:
            raise ValueError(f"{name} must never decrease, got {begin} before {end} at index {index}")
    return [end - begin for begin, end in zip(values, values[1:])]


def _used_lengths(seqused_k: torch.Tensor, lengths: List[int]) -> List[int]:
    used_lengths = seqused_k.tolist()
    for index, (used, length) in enumerate(zip(used_lengths, lengths)):
        if not 0 <= used <= length:
            raise ValueError(f"seqused_k must be 0 to the sequence's {length} tokens, got {used} at index {index}")
    return used_lengths


def _check_pages(block_table: torch.Tensor, lengths: List[int], num_pages: int, page_size: int) -> None:
    """Only pages that hold keys: what comes after them may be anything."""
    for index, (pages, length) in enumerate(zip(block_table.tolist(), lengths)):
        for page in pages[: -(-length // page_size)]:
            if not 0 <= page < num_pages:
                raise ValueError(
                    f"block_table must hold numbers of the {num_pages} pages, from 0, got {page} for sequence {index}"
                )


def _check_longest(lengths: List[int], max_seqlen: Union[int, torch.Tensor], name: str) -> None:
    longest = max(lengths, default=0)
    if int(max_seqlen) < longest:
        raise ValueError(f"{name} must be at least the longest sequence, {longest}, got {int(max_seqlen)}")
