"""From a call's shapes to a `Plan`: which kernel to launch, on what, and how.

Pure Python: no tensor is read, nothing synchronises, no GPU is needed. The same plan drives every launcher.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import NamedTuple, Optional, Tuple, Union

import torch

UNBOUNDED = 2**30  # a window this wide hides nothing; lengths stay below it, so that row arithmetic fits 32 bits


class Parameters(NamedTuple):
    """A parameter struct of the kernels (params.h), packed."""

    format: str  # struct module's code of every field: "q" int64, "f" float32
    data: bytes

    def values(self) -> Tuple[Union[int, float], ...]:
        return struct.unpack(f"<{len(self.data) // struct.calcsize(self.format)}{self.format}", self.data)


class Plan(NamedTuple):
    """One kernel launch, complete but for the tensors."""

    source: str  # file of flash_sdpa/ that holds the kernel
    kernel: str  # its host name
    constants: Tuple[Tuple[str, bool], ...]  # function constants (constants.h), by name
    arguments: Tuple[Union[str, Parameters, None], ...]  # by buffer index: a tensor's name, a struct, or unbound
    grid: Tuple[int, int, int]  # threadgroups
    threads: Tuple[int, int, int]  # threads of a threadgroup
    reason: str  # why this kernel and these tiles


class ForwardParams(NamedTuple):
    """Mirrors params.h: ForwardParams. Strides are (batch, token, head) in elements, lengths in tokens."""

    query: Tuple[int, int, int]
    key: Tuple[int, int, int]
    value: Tuple[int, int, int]
    output: Tuple[int, int, int]
    lse_batch_stride: int
    lse_head_stride: int
    batch: int
    query_length: int
    key_length: int
    group_size: int
    window_left: int
    window_right: int

    def pack(self) -> Parameters:
        fields = self.query + self.key + self.value + self.output + self[4:]
        return Parameters("q", struct.pack(f"<{len(fields)}q", *fields))


class ScoreParams(NamedTuple):
    """Mirrors params.h: ScoreParams."""

    query_sign: float
    scale_log2: float

    @classmethod
    def of(cls, softmax_scale: float) -> ScoreParams:
        if abs(softmax_scale) < 1e-20:  # exp2(scale_log2 * -1e30) must be 0; below, scores are 0 in fp32 anyway
            return cls(0.0, 1.0)
        return cls(math.copysign(1.0, softmax_scale), abs(softmax_scale) * math.log2(math.e))

    def pack(self) -> Parameters:
        return Parameters("f", struct.pack("<2f", *self))


class Tile(NamedTuple):
    """How a threadgroup divides its work: block_m rows among its SIMD groups, keys in blocks of block_n."""

    block_m: int
    block_n: int
    simdgroups: int

    def threadgroup_bytes(self, itemsize: int, head_dim: int) -> int:
        return self.block_n * (head_dim * itemsize + 16)  # tile.h: SharedTile::kBytes

    def live_registers(self, itemsize: int, head_dim: int) -> int:
        """32-bit registers a lane needs for the query, output and score fragments (two values each per 8x8)."""
        values = self.block_m // self.simdgroups // 8 * 2
        return values * (head_dim * itemsize // 4 + head_dim + self.block_n) // 8


# By (bytes of an element, head_dim). Four SIMD groups of 8 rows, as published kernels for M1 and M2 have them; keys in
# the longest blocks of 64, 32, 16, 8 for which a core still holds 20 SIMD groups (threadgroup memory up to 12 KiB of
# about 60) and the fragments take up to 64 registers. head_dim 72..96 keep to 32 keys: 64 would leave fewer than 24
# SIMD groups. head_dim 256, and 128 in fp32, do not fit 64 registers with any block.
TILES = {
    (2, 32): Tile(32, 64, 4),
    (2, 64): Tile(32, 64, 4),
    (2, 72): Tile(32, 32, 4),
    (2, 80): Tile(32, 32, 4),
    (2, 96): Tile(32, 32, 4),
    (2, 128): Tile(32, 32, 4),
    (2, 256): Tile(32, 16, 4),
    (4, 32): Tile(32, 64, 4),
    (4, 64): Tile(32, 32, 4),
    (4, 72): Tile(32, 32, 4),
    (4, 80): Tile(32, 32, 4),
    (4, 96): Tile(32, 16, 4),
    (4, 128): Tile(32, 16, 4),
    (4, 256): Tile(32, 8, 4),
}
DTYPES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}


class _Layout(NamedTuple):
    shape: torch.Size
    strides: Tuple[int, ...]
    offset: int  # elements, modulo 16: all that alignment needs


class _Problem(NamedTuple):
    """All that a plan depends on, and nothing else: the key of the plan cache."""

    dtype: torch.dtype
    query: _Layout
    key: _Layout
    value: _Layout
    output: _Layout
    batch: Optional[int]  # of packed sequences; None when dense
    has_lse: bool
    softmax_scale: float
    window_left: int
    window_right: int


def plan_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    cu_seqlens_q: Optional[torch.Tensor],
    cu_seqlens_k: Optional[torch.Tensor],
    softmax_scale: float,
    window_left: int,
    window_right: int,
) -> Plan:
    """Plan the forward kernel for tensors that operators.attention_forward takes.

    Packed `[total, heads, head_dim]` with both cu_seqlens `[batch + 1]`, or dense `[batch, seqlen, heads, head_dim]`
    with neither. Windows in keys, -1 = unbounded. Tensors are only asked for shape, strides, offset and dtype.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    return _plan_forward(
        _Problem(
            query.dtype,
            _Layout(query.shape, query.stride(), query.storage_offset() % 16),
            _Layout(key.shape, key.stride(), key.storage_offset() % 16),
            _Layout(value.shape, value.stride(), value.storage_offset() % 16),
            _Layout(output.shape, output.stride(), output.storage_offset() % 16),
            None if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1,
            lse is not None,
            softmax_scale,
            window_left,
            window_right,
        )
    )


@functools.lru_cache(maxsize=1024)  # bounded: a server sees ever new lengths
def _plan_forward(problem: _Problem) -> Plan:
    head_dim, itemsize = problem.query.shape[-1], problem.dtype.itemsize
    num_heads, num_heads_kv = problem.query.shape[-2], problem.key.shape[-2]
    tile = TILES.get((itemsize, head_dim))
    if tile is None or problem.dtype not in DTYPES:
        raise NotImplementedError(
            f"no Metal kernel for head_dim {head_dim} in {problem.dtype}; there are kernels for head_dim "
            f"{sorted({dim for _, dim in TILES})} in {', '.join(map(str, DTYPES))}"
        )
    params = _forward_params(problem, num_heads, num_heads // num_heads_kv)
    _refuse_too_many_rows(params)
    name = f"attention_forward_{DTYPES[problem.dtype]}_d{head_dim}"
    packed = problem.batch is not None
    return Plan(
        source="attention_forward.metal",
        kernel=f"{name}_m{tile.block_m}_n{tile.block_n}_s{tile.simdgroups}",
        constants=(("is_packed", packed), ("is_aligned", _is_aligned(problem)), ("writes_lse", problem.has_lse)),
        arguments=(params.pack(), ScoreParams.of(problem.softmax_scale).pack(), "query", "key", "value", "output")
        + ("lse" if problem.has_lse else None,)
        + (("cu_seqlens_q", "cu_seqlens_k") if packed else (None, None)),
        grid=(_query_tiles(params, packed, tile.block_m), num_heads_kv, 1),
        threads=(tile.simdgroups * 32, 1, 1),
        reason=f"{tile.threadgroup_bytes(itemsize, head_dim)} bytes of threadgroup memory, "
        f"about {tile.live_registers(itemsize, head_dim)} registers a lane for fragments",
    )


def _forward_params(problem: _Problem, num_heads: int, group_size: int) -> ForwardParams:
    packed = problem.batch is not None
    query_length, key_length = problem.query.shape[-3], problem.key.shape[-3]
    strides = [
        ((0,) if packed else ()) + layout.strides[:-1]
        for layout in (problem.query, problem.key, problem.value, problem.output)
    ]
    return ForwardParams(
        *strides,
        lse_batch_stride=0 if packed else num_heads * query_length,
        lse_head_stride=query_length,
        batch=problem.batch if packed else problem.query.shape[0],
        query_length=query_length,
        key_length=key_length,
        group_size=group_size,
        window_left=UNBOUNDED if problem.window_left < 0 else min(problem.window_left, UNBOUNDED),
        window_right=UNBOUNDED if problem.window_right < 0 else min(problem.window_right, UNBOUNDED),
    )


def _refuse_too_many_rows(params: ForwardParams) -> None:
    rows = params.query_length * params.group_size
    if rows >= UNBOUNDED or params.key_length >= UNBOUNDED:
        raise NotImplementedError(
            f"the kernels count rows and keys in 32 bits: got {rows} query rows (tokens x query heads per key/value "
            f"head) and {params.key_length} keys, allowed are fewer than {UNBOUNDED} of each"
        )


def _query_tiles(params: ForwardParams, packed: bool, block_m: int) -> int:
    """Tiles of query rows, as sequence.h hands them out: packed ones without knowing where a sequence ends."""
    rows = params.query_length * params.group_size
    return rows // block_m + params.batch + 2 if packed else -(-rows // block_m) * params.batch


def _is_aligned(problem: _Problem) -> bool:
    """Whether every row of every tensor starts on a 16-byte boundary (storage does)."""
    elements = 16 // problem.dtype.itemsize
    return all(
        layout.offset % elements == 0
        and all(stride % elements == 0 for size, stride in zip(layout.shape[:-1], layout.strides) if size > 1)
        for layout in (problem.query, problem.key, problem.value, problem.output)
    )
