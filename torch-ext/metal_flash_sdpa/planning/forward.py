"""From a call's shapes to its launches: which kernels, on what, and how.

Pure Python: no tensor is read, nothing synchronises, no GPU is needed. The same plans drive every launcher.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Iterable, Iterator, Optional

import torch

from ..call import DTYPES, Call
from .device import Device
from .plan import Chain, CombineParams, ForwardParams, Plan, Scratch
from .problem import (
    SIMD_WIDTH,
    Layout,
    Problem,
    are_aligned,
    bias_constants,
    bias_of,
    forward_params,
    optional,
    query_tiles,
    refuse_too_many_rows,
    score_params,
)
from .tile import FEW_ROWS
from .tiles import MAX_SPLITS, SIMDGROUPS_PER_CORE, Tile, choose

UNSPLIT_KEYS = 512  # so few are seen before a second launch, which joins parts, could begin
MIN_SPLIT_BLOCKS = 2  # for each SIMD group
SPLIT_GAIN = 0.97  # of the time that fewer parts take, or those are taken
COMBINE_THREADS = 512  # attention_combine.metal: kMostThreads
MOST_WAVES = 5  # threadgroups of all parts, in times what the GPU holds at full rate: what bounds the scratch
SOFTMAX_OF_NO_KEY = (-(2.0**127), 1e30)  # row_softmax of a row that sees no key: mask.h, softmax.h


def plan_forward(
    device: Device,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    call: Call,
    row_softmax: Optional[torch.Tensor] = None,
    has_dropout: bool = False,
) -> Chain:
    """Plan the forward kernel on a GPU. Tensors are only asked for shape, strides, offset and dtype.

    lse and row_softmax are None unless they are wanted; num_splits of a call counts up to MAX_SPLITS. With dropout,
    "dropout" stands for the DropoutParams of the call.

    A call with a tensor of no elements has no launches: its results are those of rows that see no key.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    query, key, value = call.query, call.key, call.value
    query_shape, key_shape = query.shape, key.shape
    return _plan_forward(  # the fields of Problem, unnamed: names would add a third to what a planned call costs
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
        bias_of(call.attn_bias),
        lse is not None,
        row_softmax is not None,
        has_dropout,
        call.softmax_scale,
        call.window_left,
        call.window_right,
        call.aligns_first,
        call.softcap,
        _few_rows(min(call.max_seqlen_q, query_shape[-3]) * query_shape[-2], key_shape[-2]),
        1 << max(0, call.max_seqlen_k - 1).bit_length(),
        call.num_splits,
    )


def _few_rows(rows: int, num_heads_kv: int) -> int:
    """rows: of the longest sequence, of all key/value heads."""
    for few in FEW_ROWS:
        if rows <= few * num_heads_kv:
            return few
    return 0


@functools.lru_cache(maxsize=1024)  # bounded: a server sees ever new lengths
def _plan_forward(
    device: Device, dtype: torch.dtype, query: tuple, key: tuple, value: tuple, output: tuple, *facts: Any
) -> Chain:
    layouts = Layout(*query), Layout(*key), Layout(*value), Layout(*output)
    problem = Problem(device, dtype, *layouts, *facts)
    if _is_empty(problem):
        return Chain((), ())
    params = forward_params(problem)
    refuse_too_many_rows(params)
    packed = problem.batch is not None
    tile_for = functools.partial(
        choose,
        problem.device,
        problem.dtype,
        params.head_dim,
        params.value_dim,
        problem.few_rows,
        lambda block_m: query_tiles(params, packed, block_m) * problem.key.shape[-2],
    )
    tile = tile_for(_has_features(problem))
    num_splits = min(problem.num_splits or _num_splits(problem, params, tile), MAX_SPLITS)
    if num_splits == 1:
        return Chain((), _launches(problem, params, tile))
    return _split_chain(problem, params, tile_for(has_features=True), num_splits)  # as parts write their lse


def _is_empty(problem: Problem) -> bool:
    """Whether any tensor of the call has no elements: no queries, no keys, no pages or nothing for each sequence."""
    if problem.batch == 0 and (problem.has_seqused_k or problem.max_pages is not None or problem.alibi_dims == 2):
        return True
    shapes = [problem.query.shape, problem.key.shape, problem.value.shape, problem.bias.shape if problem.bias else ()]
    return problem.max_pages == 0 or any(0 in shape for shape in shapes)


def _has_features(problem: Problem) -> bool:
    """Whether a call has any of those that take registers through the loop over the keys."""
    takes_rows = problem.batch is not None or problem.max_pages is not None
    writes_rows = problem.has_lse or problem.has_softmax
    return takes_rows or writes_rows or problem.alibi_dims > 0 or problem.has_dropout or problem.bias is not None


def _launches(problem: Problem, params: ForwardParams, tile: Tile) -> Iterable[Plan]:
    """Of the forward kernel: one, or one for each second of work."""
    plan = _forward_plan(problem, params, tile)
    allowed = _tiles_of_a_launch(problem, params, tile)
    return (plan,) if plan.grid[1] <= allowed else Ranges(plan, params, allowed)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """A plan as launches of at most so many tiles of the grid's second axis; the last tiles come first, as within a
    launch. All but the last wait. `params` is the plan's first argument, before it was packed."""

    plan: Plan
    params: ForwardParams
    tiles: int

    def __iter__(self) -> Iterator[Plan]:
        x, all_tiles, z = self.plan.grid
        for first in reversed(range(0, all_tiles, self.tiles)):
            arguments = self.params._replace(first_tile=first).pack(), *self.plan.arguments[1:]
            grid = x, min(self.tiles, all_tiles - first), z
            yield self.plan._replace(arguments=arguments, grid=grid, waits=first > 0)


def _forward_plan(problem: Problem, params: ForwardParams, tile: Tile) -> Plan:
    packed = problem.batch is not None
    is_split = params.num_splits > 1
    constants = {
        "is_packed": packed,
        "is_paged": problem.max_pages is not None,
        "is_aligned": are_aligned(problem.dtype, (problem.query, problem.key, problem.value, problem.output)),
        "is_padded": (params.head_dim, params.value_dim) != (tile.head_dim, tile.value_dim),
        "has_seqused_k": problem.has_seqused_k,
        "has_softcap": problem.softcap > 0,
        "has_alibi": problem.alibi_dims > 0,
        "has_sinks": problem.has_sinks and not is_split,
        "is_split": is_split,
        "writes_lse": problem.has_lse or is_split,
        "writes_softmax": problem.has_softmax and not is_split,
        "has_dropout": problem.has_dropout,
        **bias_constants(problem),
    }
    return Plan(
        source="attention_forward_unit.metal" if tile.uses_unit else "attention_forward.metal",
        kernel=tile.kernel(problem.dtype),
        constants=tuple(constants.items()),
        arguments=(
            params.pack(),
            score_params(problem).pack(),
            "query",
            "key",
            "value",
            "partial_output" if is_split else "output",
            *optional(constants, "partial_softmax" if is_split else "lse", "cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
            *optional(constants, "block_table", "alibi_slopes", "sinks", "row_softmax", "dropout", "attn_bias"),
        ),
        grid=(problem.key.shape[-2], query_tiles(params, packed, tile.block_m), params.num_splits),
        # On Apple10 a published measurement gained 30 % by threadgroups of two axes.
        threads=(SIMD_WIDTH, tile.simdgroups, 1) if tile.uses_unit else (tile.simdgroups * SIMD_WIDTH, 1, 1),
        reason=f"{tile.block_m} rows a threadgroup, keys in {params.num_splits} part(s), "
        f"for {problem.device.cores} cores of Apple{problem.device.family}",
    )


def _split_chain(problem: Problem, params: ForwardParams, tile: Tile, num_splits: int) -> Chain:
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
    columns = -(-params.value_dim // SIMD_WIDTH) * SIMD_WIDTH
    constants = {
        "has_sinks": problem.has_sinks,
        "writes_lse": problem.has_lse,
        "writes_softmax": problem.has_softmax,
        "has_dropout": problem.has_dropout,
    }
    combine = Plan(
        source="attention_combine.metal",
        kernel=f"attention_combine_{DTYPES[problem.dtype]}",
        constants=tuple(constants.items()),
        arguments=(combine_params.pack(), score_params(problem).pack())
        + ("partial_output", "partial_softmax", "output")
        + optional(constants, "lse", "sinks", "row_softmax", "dropout"),
        grid=(rows, 1, 1),
        threads=(columns, 2 ** (min(COMBINE_THREADS // columns, -(-num_splits // 4)).bit_length() - 1), 1),
        reason="one threadgroup a row, each thread some parts of a column",
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
    return Chain(scratch, (*_launches(problem, params, tile), combine))


def _num_splits(problem: Problem, params: ForwardParams, tile: Tile) -> int:
    """The parts of the keys in which the busiest core is done first; one for few keys."""
    keys = _keys_of_a_tile(problem, params, tile)
    if keys <= UNSPLIT_KEYS:
        return 1
    rows = params.query_length * params.heads_per_kv
    tiles = -(-rows // tile.block_m)
    # Packed: at least one for each sequence, as the planner does not know the empty ones.
    tiles = tiles * params.batch if problem.batch is None else max(tiles, params.batch)
    threadgroups = tiles * problem.key.shape[-2]
    full_rate = 1 if tile.uses_unit else SIMDGROUPS_PER_CORE / tile.simdgroups  # threadgroups that keep a core busy
    # Of causal tiles the long ones start first, so that short ones fill the cores' last gaps.
    differ = problem.window_right >= 0 and 2 * params.query_length > keys
    # A part's fp32 output is written and read, as many bytes as two keys for each row; its start and its end take as
    # long as a block. To join a row takes about as long as 4 keys (counted, of 2,048 to 8,192 rows).
    overhead = 2 * tile.block_m + tile.block_n * tile.key_groups
    join = 4 * problem.output.shape[:-1].numel() / problem.device.cores

    def time(parts: int) -> float:  # in keys that a threadgroup works on alone, at the core's full rate
        of_a_core = threadgroups * parts / problem.device.cores
        busy = max(full_rate, of_a_core if differ else math.ceil(of_a_core)) * (keys / parts + overhead)
        return busy + (join if parts > 1 else 0)

    room = MOST_WAVES * SIMDGROUPS_PER_CORE * problem.device.cores // (tile.simdgroups * max(1, threadgroups))
    best = 1
    for parts in range(2, min(MAX_SPLITS, room, keys // (tile.block_n * tile.key_groups * MIN_SPLIT_BLOCKS)) + 1):
        if time(parts) < SPLIT_GAIN * time(best):
            best = parts
    return best


def _keys_of_a_tile(problem: Problem, params: ForwardParams, tile: Tile) -> int:
    """How many keys a tile of rows sees, at most."""
    return min(problem.longest_key, params.key_length, params.window_left + params.window_right + tile.block_m)


def _tiles_of_a_launch(problem: Problem, params: ForwardParams, tile: Tile) -> int:
    """As many as a launch may have, but one at least."""
    keys = -(-_keys_of_a_tile(problem, params, tile) // params.num_splits)
    work = tile.block_m * keys * (tile.head_dim + tile.value_dim)  # of a threadgroup, at most
    threadgroups = max(1, problem.device.launch_work // max(1, work)) * problem.device.cores
    return max(1, threadgroups // (problem.key.shape[-2] * params.num_splits))
