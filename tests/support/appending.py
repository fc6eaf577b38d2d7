"""Calls of flash_attn_with_kvcache that append, and what must be left of them: a loop in NumPy, and float64.

What is written is compared bit by bit, what is rotated within fp32 and one rounding; everything else in the memory of
the caches stays as it was.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Optional

import numpy as np
import torch
from cases import random_tensor
from reference import assert_output, attention

SOURCE = "cache_append.metal"


class Problem(NamedTuple):
    lengths: list[int]
    new: int = 1
    queries: int = 1
    capacity: int = 48  # of a row, or of a page
    pages: Optional[list[list[int]]] = None
    rows: Optional[list[int]] = None
    places: int = 5  # rows or pages that exist
    heads: int = 4
    heads_kv: int = 2
    head_dim: int = 64
    value_dim: int = 40
    dtype: torch.dtype = torch.float16
    pairs: int = 0
    interleaved: bool = True
    table_dtype: Optional[torch.dtype] = None  # that of the queries
    causal: bool = True
    long_lengths: bool = False
    long_rows: bool = False
    strides: str = "whole"

    @property
    def room(self) -> int:
        return self.capacity * (len(self.pages[0]) if self.pages else 1)

    def place(self, sequence: int, position: int) -> Optional[tuple[int, int]]:
        """Of a token, or None."""
        if not 0 <= position < self.room:
            return None
        place = sequence
        if self.pages:
            place = self.pages[sequence][position // self.capacity]
        elif self.rows:
            place = self.rows[sequence]
        return (place, position % self.capacity) if 0 <= place < self.places else None


class Appending:
    """A launcher that has another run the kernel that appends, and the rest if it attends."""

    def __init__(self, run, attends: bool = False):
        self.run, self.attends, self.given = run, attends, []

    def __call__(self, plan, given):
        if plan.source == SOURCE:
            self.given.append(given)
        if plan.source == SOURCE or self.attends:
            self.run(plan, given)


def strided(tensor: torch.Tensor, kind: str) -> torch.Tensor:
    """The same values as a view that lies otherwise, with NaN around it."""
    if kind == "head-major":
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "whole":
        return tensor.clone()
    larger = torch.full([size + 3 for size in tensor.shape], math.nan, dtype=tensor.dtype)
    return larger[tuple(slice(1, 1 + size) for size in tensor.shape)].copy_(tensor)


def memory(tensor: torch.Tensor) -> torch.Tensor:
    """All of the storage that a tensor is a part of, as bits."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def integers(values: Optional[list], are_long: bool) -> Optional[torch.Tensor]:
    return None if values is None else torch.tensor(values, dtype=torch.int64 if are_long else torch.int32)


def angles_of(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    angles = random_tensor(4, problem.room + 3, problem.pairs) * 3
    dtype = problem.table_dtype or problem.dtype
    return strided(angles.cos().to(dtype), "whole"), angles.sin().to(dtype)


def turned(tensor: torch.Tensor, problem: Problem, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([batch, tokens, heads, head_dim] rotated, in float64; the magnitudes that were summed up)."""
    cos, sin = (table.double().numpy() for table in angles_of(problem))
    x = tensor.double().numpy()
    result, sizes = x.copy(), np.zeros_like(x)
    positions = np.clip(positions, 0, len(cos) - 1)
    for pair in range(problem.pairs):
        i, j = (2 * pair, 2 * pair + 1) if problem.interleaved else (pair, problem.pairs + pair)
        c, s = cos[positions, pair][..., None], sin[positions, pair][..., None]
        a, b = x[..., i], x[..., j]
        result[..., i], result[..., j] = a * c - b * s, a * s + b * c
        sizes[..., i], sizes[..., j] = abs(a * c) + abs(b * s), abs(a * s) + abs(b * c)
    return result, sizes


def assert_rounded(found: torch.Tensor, expected: np.ndarray, sizes: np.ndarray) -> None:
    """Sums in fp32, rounded once; where nothing was summed up, the same bits."""
    tiny = torch.finfo(found.dtype).smallest_normal * torch.finfo(found.dtype).eps
    allowed = 2**-22 * sizes + (sizes > 0) * (0.51 * torch.finfo(found.dtype).eps * abs(expected) + tiny)
    assert (abs(found.double().numpy() - expected) <= allowed).all()


class Done(NamedTuple):
    """A call that was made."""

    problem: Problem
    inputs: tuple[torch.Tensor, ...]  # query, k, v
    inputs_before: tuple[torch.Tensor, ...]  # bits of their memory
    caches: tuple[torch.Tensor, ...]
    caches_before: tuple[torch.Tensor, ...]  # copies, with all of their memory
    settings: dict
    output: torch.Tensor
    given: dict  # to the launcher

    def verify(self, attended: bool) -> None:
        """Everything that the call has left behind; attended: also its output."""
        p, (query, k, v), (k_cache, v_cache) = self.problem, self.inputs, self.caches
        assert all(torch.equal(memory(tensor), bits) for tensor, bits in zip(self.inputs, self.inputs_before))
        positions = np.array(p.lengths, dtype=object)[:, None] + np.arange(max(p.new, p.queries))
        positions = np.clip(positions, -(2**40), 2**40).astype(np.int64)
        keys, sizes = turned(k, p, positions[:, : p.new])
        expected_k, expected_v = self.caches_before
        for sequence, token in np.ndindex(len(p.lengths), p.new):
            place = p.place(sequence, int(positions[sequence, token]))
            if place is not None:
                assert_rounded(k_cache[place], keys[sequence, token], sizes[sequence, token])
                expected_k[place] = k_cache[place] if p.pairs else k[sequence, token]
                expected_v[place] = v[sequence, token]
        assert torch.equal(memory(k_cache), memory(expected_k)) and torch.equal(memory(v_cache), memory(expected_v))
        used = [(length + p.new + 2**31) % 2**32 - 2**31 for length in p.lengths]
        assert self.given["seqused_k"].tolist() == used
        if p.pairs:
            at = positions[:, : p.queries] if p.causal else positions[:, :1].repeat(p.queries, 1)
            assert_rounded(self.given["rotated"], *turned(query, p, at))
        if attended:
            self._verify_output(self.given["rotated"] if p.pairs else query)

    def _verify_output(self, query: torch.Tensor) -> None:
        for sequence, length in enumerate(self.problem.lengths):
            places = [self.problem.place(sequence, position) for position in range(length + self.problem.new)]
            rows, slots = ([place[axis] for place in places] for axis in range(2))
            key, value = (cache[rows, slots][None] for cache in self.caches)
            window = (-1, 0) if self.problem.causal else (-1, -1)
            expected, _ = attention(query[sequence : sequence + 1], key, value, window=window)
            assert_output(self.output[sequence : sequence + 1], expected, value)


def call(kernel, problem: Problem, launcher, attends: bool = False) -> Done:
    p, batch = problem, len(problem.lengths)
    cache_shape = (p.places, p.capacity, p.heads_kv)
    caches = tuple(
        strided(random_tensor(seed, *cache_shape, dim, dtype=p.dtype), p.strides)
        for seed, dim in ((1, p.head_dim), (2, p.value_dim))
    )
    query, k, v = inputs = tuple(
        strided(random_tensor(seed, batch, tokens, heads, dim, dtype=p.dtype), p.strides)
        for seed, tokens, heads, dim in (
            (5, p.queries, p.heads, p.head_dim), (6, p.new, p.heads_kv, p.head_dim), (7, p.new, p.heads_kv, p.value_dim)
        )
    )  # fmt: skip
    inputs_before = tuple(memory(tensor).clone() for tensor in inputs)
    caches_before = tuple(
        torch.empty(0, dtype=p.dtype).set_(
            memory(cache).clone().untyped_storage(), cache.storage_offset(), cache.shape, cache.stride()
        )
        for cache in caches
    )
    settings = {
        "rotary_interleaved": p.interleaved,
        "causal": p.causal,
        "cache_seqlens": integers(p.lengths, p.long_lengths),
        "cache_batch_idx": integers(p.rows, p.long_rows),
        "block_table": integers(p.pages, False),
        **(dict(zip(("rotary_cos", "rotary_sin"), angles_of(p))) if p.pairs else {}),
    }
    appending = Appending(launcher, attends)
    with kernel.launchers.use_launcher(appending):
        output = kernel.flash_attn_with_kvcache(query, *caches, k, v, **settings)
    [given] = appending.given
    return Done(p, inputs, inputs_before, caches, caches_before, settings, output, given)
