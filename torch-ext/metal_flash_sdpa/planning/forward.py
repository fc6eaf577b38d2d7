"""From a call's shapes to a `Plan`: which kernel to launch, on what, and how.

Pure Python: no tensor is read, nothing synchronises, no GPU is needed. The same plan drives every launcher.
"""

from __future__ import annotations

import functools
import math
from typing import Any, List, NamedTuple, Optional, Tuple, Union

import torch

from ..call import DTYPES, Call
from .device import Device
from .plan import CombineParams, ForwardParams, Plan, ScoreParams, Scratch, in_ranges
from .tiles import DECODE_ROWS, Tile, choose

UNBOUNDED = 2**30  # the kernels' widest window: lengths stay below it, so that row arithmetic fits 32 bits
SIMD_WIDTH = 32  # threads of a SIMD group; tile.h: kSimdWidth
SIMDGROUPS_PER_CORE = 16  # at full rate, by published measurements of M1 and M2
MIN_SPLIT_BLOCKS = 2  # for each SIMD group: a part costs a write and a read of its fp32 output
MAX_SPLITS = 64  # attention_combine.metal: kMaxSplits. Bounds the scratch, too: 64 outputs that do not fill the GPU
# Multiply-adds of a core in one launch. M1, the slowest GPU, does them in a second at 60 % of its peak (128 a clock,
# 1.28 GHz); macOS ends what keeps the GPU for long.
LAUNCH_WORK = 100 * 10**9
SOFTMAX_OF_NO_KEY = (-(2.0**127), 1e30)  # row_softmax of a row that sees no key: mask.h, softmax.h


class _Layout(NamedTuple):
    shape: torch.Size
    strides: Tuple[int, ...]
    offset: Union[int, torch.SymInt]  # elements, modulo 16: all that alignment needs


class _Problem(NamedTuple):
    """All that a plan depends on, and nothing else."""

    device: Device
    dtype: torch.dtype
    query: _Layout
    key: _Layout
    value: _Layout
    output: _Layout
    batch: Optional[int]  # of packed sequences; None when dense
    max_pages: Optional[int]  # of a sequence; None when not paged
    alibi_dims: int  # of the slopes; 0 without
    has_seqused_k: bool
    has_sinks: bool
    has_lse: bool
    has_softmax: bool
    softmax_scale: float
    window_left: int
    window_right: int
    softcap: float
    is_decode: bool  # no sequence has more rows than a decode tile
    longest_key: int  # bound of max_seqlen_k, rounded up to a power of two
    num_splits: int  # 0 = the planner's choice


def plan_forward(
    device: Device,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    call: Call,
    row_softmax: Optional[torch.Tensor] = None,
) -> Plan:
    """Plan the forward kernel on a GPU. Tensors are only asked for shape, strides, offset and dtype.

    lse and row_softmax are None unless they are wanted; num_splits of a call counts up to MAX_SPLITS.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    query, key, value = call.query, call.key, call.value
    query_shape, key_shape = query.shape, key.shape
    return _plan_forward(  # the fields of _Problem, unnamed: names would add a third to what a planned call costs
        device,
        query.dtype,
        (query_shape, query.stride(), query.storage_offset() % 16),
        (key_shape, key.stride(), key.storage_offset() % 16),
        (value.shape, value.stride(), value.storage_offset() % 16),
        (output.shape, output.stride(), output.storage_offset() % 16),
        None if call.cu_seqlens_q is None else call.cu_seqlens_q.shape[0] - 1,
        None if call.block_table is None else call.block_table.shape[1],
        0 if call.alibi_slopes is None else call.alibi_slopes.dim(),
        call.seqused_k is not None,
        call.sinks is not None,
        lse is not None,
        row_softmax is not None,
        call.softmax_scale,
        call.window_left,
        call.window_right,
        call.softcap,
        min(call.max_seqlen_q, query_shape[-3]) * query_shape[-2] <= DECODE_ROWS * key_shape[-2],
        1 << max(0, call.max_seqlen_k - 1).bit_length(),
        call.num_splits,
    )


@functools.lru_cache(maxsize=1024)  # bounded: a server sees ever new lengths
def _plan_forward(
    device: Device, dtype: torch.dtype, query: tuple, key: tuple, value: tuple, output: tuple, *facts: Any
) -> Plan:
    layouts = _Layout(*query), _Layout(*key), _Layout(*value), _Layout(*output)
    problem = _Problem(device, dtype, *layouts, *facts)
    params = _forward_params(problem)
    _refuse_too_many_rows(params)
    packed = problem.batch is not None
    tile = choose(
        problem.device,
        problem.dtype,
        params.head_dim,
        params.value_dim,
        problem.is_decode,
        threadgroups=lambda block_m: _query_tiles(params, packed, block_m) * problem.key.shape[-2],
    )
    num_splits = min(problem.num_splits or _num_splits(problem, params, tile), MAX_SPLITS)
    if num_splits == 1:
        return _forward_plan(problem, params, tile)
    return _split_plan(problem, params, tile, num_splits)


def _forward_plan(
    problem: _Problem,
    params: ForwardParams,
    tile: Tile,
    scratch: Tuple[Scratch, ...] = (),
    then: Optional[Plan] = None,
) -> Plan:
    packed = problem.batch is not None
    is_split = params.num_splits > 1
    constants = {
        "is_packed": packed,
        "is_paged": problem.max_pages is not None,
        "is_aligned": _is_aligned(problem),
        "is_padded": (params.head_dim, params.value_dim) != (tile.head_dim, tile.value_dim),
        "has_seqused_k": problem.has_seqused_k,
        "has_softcap": problem.softcap > 0,
        "has_alibi": problem.alibi_dims > 0,
        "has_sinks": problem.has_sinks and not is_split,
        "is_split": is_split,
        "writes_lse": problem.has_lse or is_split,
        "writes_softmax": problem.has_softmax and not is_split,
    }
    optional = {
        "partial_softmax" if is_split else "lse": "writes_lse",
        "cu_seqlens_q": "is_packed",
        "cu_seqlens_k": "is_packed",
        "seqused_k": "has_seqused_k",
        "block_table": "is_paged",
        "alibi_slopes": "has_alibi",
        "sinks": "has_sinks",
        "row_softmax": "writes_softmax",
    }
    tiles = _query_tiles(params, packed, tile.block_m)
    plan = Plan(
        source="attention_forward.metal",
        kernel=tile.kernel(problem.dtype),
        constants=tuple(constants.items()),
        arguments=(
            params.pack(),
            _score_params(problem).pack(),
            "query",
            "key",
            "value",
            "partial_output" if is_split else "output",
            *[name if constants[constant] else None for name, constant in optional.items()],
        ),
        grid=(problem.key.shape[-2], tiles, params.num_splits),
        threads=(tile.simdgroups * SIMD_WIDTH, 1, 1),
        reason=f"{tile.block_m} rows a threadgroup, keys in {params.num_splits} part(s), "
        f"for {problem.device.cores} cores of Apple{problem.device.family}",
        scratch=scratch,
        then=then,
    )
    allowed = _tiles_of_a_launch(problem, params, tile)
    return plan if tiles <= allowed else in_ranges(plan, params, allowed)


def _split_plan(problem: _Problem, params: ForwardParams, tile: Tile, num_splits: int) -> Plan:
    """Each split's output in fp32, laid out as the whole one, the maxima and sums of its softmax, laid out as lse, and
    the launch that joins them."""
    num_heads = problem.query.shape[-2]
    rows = problem.output.shape[:-1].numel()
    token_stride = num_heads * params.value_dim
    combine_params = CombineParams(
        output=params.output,
        lse_batch_stride=params.lse_batch_stride,
        lse_head_stride=params.lse_head_stride,
        rows=rows,
        num_heads=num_heads,
        tokens=params.query_length,
        value_dim=params.value_dim,
        num_splits=num_splits,
    )
    combine = Plan(
        source="attention_combine.metal",
        kernel=f"attention_combine_{DTYPES[problem.dtype]}",
        constants=(
            ("has_sinks", problem.has_sinks),
            ("writes_lse", problem.has_lse),
            ("writes_softmax", problem.has_softmax),
        ),
        arguments=(combine_params.pack(), _score_params(problem).pack())
        + ("partial_output", "partial_softmax", "output")
        + ("lse" if problem.has_lse else None, "sinks" if problem.has_sinks else None)
        + ("row_softmax" if problem.has_softmax else None,),
        grid=(rows, 1, 1),
        threads=(-(-params.value_dim // SIMD_WIDTH) * SIMD_WIDTH, 1, 1),
        reason="one thread a column, one threadgroup a row",
    )
    params = params._replace(
        output=(params.query_length * token_stride if problem.batch is None else 0, token_stride, params.value_dim),
        num_splits=num_splits,
        output_split_stride=rows * params.value_dim,
        lse_split_stride=rows,
    )
    scratch = (
        Scratch("partial_output", (num_splits, rows, params.value_dim)),
        Scratch("partial_softmax", (num_splits, rows, 2)),
    )
    return _forward_plan(problem, params, tile, scratch, combine)


def _num_splits(problem: _Problem, params: ForwardParams, tile: Tile) -> int:
    """As many parts as the GPU still has room for, each of at least MIN_SPLIT_BLOCKS blocks of keys."""
    rows = params.query_length * params.heads_per_kv
    tiles = -(-rows // tile.block_m)
    # Packed: at least one for each sequence, as the planner does not know the empty ones.
    tiles = tiles * params.batch if problem.batch is None else max(tiles, params.batch)
    keys = _keys_of_a_tile(problem, params, tile)
    room = problem.device.cores * SIMDGROUPS_PER_CORE // tile.simdgroups // max(1, tiles * problem.key.shape[-2])
    return max(1, min(room, keys // (tile.block_n * tile.key_groups * MIN_SPLIT_BLOCKS)))


def _keys_of_a_tile(problem: _Problem, params: ForwardParams, tile: Tile) -> int:
    """How many keys a tile of rows sees, at most."""
    return min(problem.longest_key, params.key_length, params.window_left + params.window_right + tile.block_m)


def _tiles_of_a_launch(problem: _Problem, params: ForwardParams, tile: Tile) -> int:
    """As many as LAUNCH_WORK allows, but one at least."""
    keys = -(-_keys_of_a_tile(problem, params, tile) // params.num_splits)
    work = tile.block_m * keys * (tile.head_dim + tile.value_dim)  # of a threadgroup, at most
    threadgroups = max(1, LAUNCH_WORK // max(1, work)) * problem.device.cores
    return max(1, threadgroups // (problem.key.shape[-2] * params.num_splits))


def _forward_params(problem: _Problem) -> ForwardParams:
    packed, paged = problem.batch is not None, problem.max_pages is not None
    num_heads, num_heads_kv = problem.query.shape[-2], problem.key.shape[-2]
    query_length = problem.query.shape[-3]
    page_size = problem.key.shape[1] if paged else 0
    return ForwardParams(
        query=_strides(problem.query),
        key=_strides(problem.key),
        value=_strides(problem.value),
        output=_strides(problem.output),
        lse_batch_stride=0 if packed else num_heads * query_length,
        lse_head_stride=query_length,
        batch=problem.query.shape[0] if problem.batch is None else problem.batch,
        query_length=query_length,
        key_length=problem.key.shape[-3] if problem.max_pages is None else problem.max_pages * page_size,
        head_dim=problem.query.shape[-1],
        value_dim=problem.value.shape[-1],
        heads_per_kv=num_heads // num_heads_kv,
        window_left=_window(problem.window_left),
        window_right=_window(problem.window_right),
        num_pages=problem.key.shape[0] if paged else 0,
        page_size=page_size,
        block_table_stride=problem.max_pages or 0,
        alibi_batch_stride=num_heads if problem.alibi_dims == 2 else 0,
        num_splits=1,
        output_split_stride=0,
        lse_split_stride=0,
        first_tile=0,
    )


def _score_params(problem: _Problem) -> ScoreParams:
    return ScoreParams.of(problem.softmax_scale, problem.softcap, problem.alibi_dims > 0)


def _window(size: int) -> int:
    return min(size, UNBOUNDED) if size >= 0 else UNBOUNDED


def _strides(layout: _Layout) -> Tuple[int, int, int]:
    """(batch or page, token, head), in elements."""
    *batch, token, head, _ = layout.strides
    return (batch[0] if batch else 0, token, head)


def _refuse_too_many_rows(params: ForwardParams) -> None:
    rows = params.query_length * params.heads_per_kv
    if rows >= UNBOUNDED or params.key_length >= UNBOUNDED:
        raise NotImplementedError(
            f"the kernels count rows and keys in 32 bits: got {rows} query rows (tokens x query heads per key/value "
            f"head) and {params.key_length} keys, allowed are fewer than {UNBOUNDED} of each"
        )


def _query_tiles(params: ForwardParams, packed: bool, block_m: int) -> int:
    """Tiles of query rows, as sequence.h hands them out: packed ones without knowing where a sequence ends."""
    rows = params.query_length * params.heads_per_kv
    return rows // block_m + params.batch + 2 if packed else -(-rows // block_m) * params.batch


def _is_aligned(problem: _Problem) -> bool:
    """Whether every row of every tensor starts on a 16-byte boundary (storage does) and is whole chunks of 16 bytes."""
    steps: List[int] = []
    for layout in (problem.query, problem.key, problem.value, problem.output):
        steps += int(layout.offset), layout.shape[-1]
        steps += [stride for size, stride in zip(layout.shape, layout.strides[:-1]) if size > 1]
    return math.gcd(*steps) * problem.dtype.itemsize % 16 == 0
