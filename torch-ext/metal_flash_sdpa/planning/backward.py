"""From a call and its gradients to a `Chain`: the launches of the backward pass, in chunks.

Pure Python, as planning/forward.py. One launch makes the rows' terms; then, chunk by chunk, one makes the queries'
gradients and stores the weights, and another makes those of keys and values from them. Whatever the chunks, each sum
goes through rows and keys in one order: no bit depends on them.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import Dict, Iterator, NamedTuple, Optional, Tuple, Union

import torch

from ..call import DTYPES, Call
from .backward_tiles import STORED_KEYS, KeysTile, QueriesTile, Tiles, choose
from .device import Device
from .plan import BackwardParams, Chain, ChunkParams, ForwardParams, Parameters, Plan, Scratch
from .problem import (
    SIMD_WIDTH,
    UNBOUNDED,
    BiasLayout,
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
    strides_of,
)
from .tile import ROWS, STAGED

TERMS_TOKENS, TERMS_THREADS = 64, 256  # of a threadgroup; attention_backward_terms.metal: kTokens, kThreads
# Stored weights of a chunk, for each core: with CHUNK_KEYS keys, 8 tiles of 64 rows, which leave few cores idle at the
# end, also where a causal mask makes them uneven.
SCRATCH_BYTES = 16 * 2**20
CHUNK_KEYS = 4096  # a multiple of every KeysTile's block_n


class _BackwardProblem(NamedTuple):
    """All that a chain depends on."""

    forward: Problem
    grad_output: Layout
    grad_query: Layout
    grad_key: Optional[Layout]  # None: A alone
    grad_value: Optional[Layout]
    has_grad_lse: bool
    has_dropout: bool
    longest_key: int  # bound of a sequence's keys


def plan_backward(
    device: Device,
    call: Call,
    grad_output: torch.Tensor,
    output: torch.Tensor,
    grad_lse: Optional[torch.Tensor],
    grads: Tuple[torch.Tensor, Optional[torch.Tensor], Optional[torch.Tensor]],
    has_dropout: bool,
) -> Chain:
    """Plan the gradients of a call on a GPU. Tensors are only asked for shape, strides, offset and dtype.

    grads are to be written: the query's, and those of key and value, or None for both. The launches read the call's
    tensors, "output", "grad_output", "grad_lse", "row_softmax" and "dropout", and write "grad_query", "grad_key" and
    "grad_value". "row_terms" of the scratch stays for the sinks' gradient. A call of no rows or no keys has no
    launches: its gradients are 0.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    query, key = call.query, call.key
    return _plan_backward(
        device,
        query.dtype,
        _layout(query),
        _layout(key),
        _layout(call.value),
        _layout(output),
        _layout(grad_output),
        *(None if grad is None else _layout(grad) for grad in grads),
        None if call.cu_seqlens_q is None else call.cu_seqlens_q.shape[0] - 1,
        None if call.block_table is None else call.block_table.shape[1],
        0 if call.alibi_slopes is None else call.alibi_slopes.dim(),
        call.seqused_k is not None,
        call.sinks is not None,
        bias_of(call.attn_bias),
        call.softmax_scale,
        call.window_left,
        call.window_right,
        call.aligns_first,
        call.softcap,
        call.max_seqlen_k,
        grad_lse is not None,
        has_dropout,
    )


def _layout(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.storage_offset() % 16


@functools.lru_cache(maxsize=1024)  # bounded, as that of forward plans
def _plan_backward(
    device: Device,
    dtype: torch.dtype,
    query: tuple,
    key: tuple,
    value: tuple,
    output: tuple,
    grad_output: tuple,
    grad_query: tuple,
    grad_key: Optional[tuple],
    grad_value: Optional[tuple],
    batch: Optional[int],
    max_pages: Optional[int],
    alibi_dims: int,
    has_seqused_k: bool,
    has_sinks: bool,
    bias: Optional[BiasLayout],
    softmax_scale: float,
    window_left: int,
    window_right: int,
    aligns_first: bool,
    softcap: float,
    max_seqlen_k: int,
    has_grad_lse: bool,
    has_dropout: bool,
) -> Chain:
    forward = Problem(
        device=device,
        dtype=dtype,
        query=Layout(*query),
        key=Layout(*key),
        value=Layout(*value),
        output=Layout(*output),
        batch=batch,
        max_pages=max_pages,
        alibi_dims=alibi_dims,
        has_seqused_k=has_seqused_k,
        has_sinks=has_sinks,
        bias=bias,
        has_lse=False,
        has_softmax=False,
        has_dropout=False,
        softmax_scale=softmax_scale,
        window_left=window_left,
        window_right=window_right,
        aligns_first=aligns_first,
        softcap=softcap,
        few_rows=0,
        longest_key=max_seqlen_k,
        num_splits=1,
    )
    params = forward_params(forward)
    refuse_too_many_rows(params)
    problem = _BackwardProblem(
        forward,
        Layout(*grad_output),
        Layout(*grad_query),
        None if grad_key is None else Layout(*grad_key),
        None if grad_value is None else Layout(*grad_value),
        has_grad_lse,
        has_dropout,
        params.key_length if batch is None else max(1, min(max_seqlen_k, params.key_length)),
    )
    tiles = choose(device, dtype, params.head_dim, params.value_dim)
    if 0 in query[0] or params.key_length == 0:
        return Chain((), ())
    return _chain(problem, params, tiles)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The launches of a chain, each made when its turn comes: the terms, then for each chunk the queries' and, unless
    None, the keys'. These two lack their first argument, the chunk, and have the grid of all chunks together."""

    terms: Plan
    queries: Plan
    keys: Optional[Plan]
    heads: range  # key/value heads, in steps of a chunk's
    tiles: range  # of query rows, of all sequences
    tokens: range  # keys of a sequence
    tile_keys: int  # of a tile of keys, where there is one dense sequence; else 0
    halves: int  # of the scratch for sums of keys
    rest: int  # chunks after which the launchers wait: they may have kept the GPU for a second

    def __iter__(self) -> Iterator[Plan]:
        yield self.terms
        count = 0
        for first_head in self.heads:
            heads = min(self.heads.step, self.heads.stop - first_head)
            for turn, first_tile in enumerate(self.tiles):
                tiles = min(self.tiles.step, self.tiles.stop - first_tile)
                for first_key in self.tokens:
                    key_tiles = self.key_tiles(first_key)
                    chunk = ChunkParams(
                        first_head=first_head,
                        first_tile=first_tile,
                        end_tile=_end(self.tiles, first_tile),
                        first_key=first_key,
                        end_key=_end(self.tokens, first_key),
                        first_key_tile=key_tiles.start,
                        carried_from=turn % self.halves,
                        carried_to=(turn + 1) % self.halves,
                    ).pack()
                    count += 1
                    launches = [_of_chunk(self.queries, chunk, heads, tiles)]
                    if self.keys is not None:
                        launches.append(_of_chunk(self.keys, chunk, heads, len(key_tiles)))
                    launches[-1] = launches[-1]._replace(waits=count % self.rest == 0 and count < len(self))
                    yield from launches

    def __len__(self) -> int:
        """Chunks."""
        return len(self.heads) * len(self.tiles) * len(self.tokens)

    def key_tiles(self, first_key: int) -> range:
        """Those that the chunk of these keys may meet: its own ones, where there is one dense sequence."""
        count = 0 if self.keys is None else self.keys.grid[1]
        if self.tile_keys == 0:
            return range(count)
        end_key = min(first_key + self.tokens.step, self.tokens.stop)
        return range(first_key // self.tile_keys, -(-end_key // self.tile_keys))


def _end(steps: range, first: int) -> int:
    """Where the step from `first` on ends; the last one takes whatever may be left."""
    end = first + steps.step
    return end if end < steps.stop else UNBOUNDED


def _of_chunk(plan: Plan, chunk: Parameters, heads: int, tiles: int) -> Plan:
    return plan._replace(arguments=(chunk, *plan.arguments), grid=(heads, tiles, 1))


def _chain(problem: _BackwardProblem, forward: ForwardParams, tiles: Tiles) -> Chain:
    queries, keys = tiles
    stores = problem.grad_key is not None
    num_heads_kv, packed = problem.forward.key.shape[-2], problem.forward.batch is not None
    row_tiles = query_tiles(forward, packed, queries.block_m)
    seen_keys = _keys_of_a_tile(problem, forward, queries)
    divides_keys = stores and seen_keys > CHUNK_KEYS
    chunk_keys = CHUNK_KEYS if divides_keys else seen_keys
    fitting = _tiles_of_a_chunk(problem, chunk_keys, tiles, stores)
    chunk_heads = max(1, min(num_heads_kv, fitting // row_tiles))
    chunk_heads = _even(num_heads_kv, chunk_heads)
    work_of_keys = queries.block_m * keys.block_n * _columns(keys)  # of a tile of keys, for a tile of rows
    chunk_tiles = _even(row_tiles, max(1, min(fitting, problem.forward.device.launch_work // work_of_keys)))
    work = chunk_heads * chunk_tiles * queries.block_m * chunk_keys * (queries.head_dim + 2 * _columns(keys))
    params = BackwardParams(
        forward=forward,
        grad_output=strides_of(problem.grad_output),
        grad_query=strides_of(problem.grad_query),
        grad_key=strides_of(problem.grad_key) if problem.grad_key else (0, 0, 0),
        grad_value=strides_of(problem.grad_value) if problem.grad_value else (0, 0, 0),
        stored_keys=chunk_keys,
        stored_tiles=chunk_tiles,
        sum_tiles=-(-problem.longest_key // keys.block_n),
    )
    chunks = Chunks(
        terms=_terms_plan(problem, params),
        queries=_queries_plan(problem, params, queries, stores, divides_keys),
        keys=_keys_plan(problem, params, keys, chunk_tiles < row_tiles) if stores else None,
        heads=range(0, num_heads_kv, chunk_heads),
        tiles=range(0, row_tiles, chunk_tiles),
        tokens=range(0, problem.longest_key, CHUNK_KEYS if divides_keys else UNBOUNDED),
        tile_keys=0 if packed or forward.batch > 1 else keys.block_n,
        halves=1 if forward.batch == 1 else 2,  # chunks that share a sequence with both neighbours
        rest=max(1, problem.forward.device.launch_work * problem.forward.device.cores // work),
    )
    *lead, tokens, num_heads, _ = problem.forward.query.shape
    scratch = [Scratch("row_terms", (*lead, num_heads, tokens))]
    if stores:
        shape = chunk_heads, chunk_tiles, queries.block_m // ROWS, queries.stored_floats(chunk_keys)
        scratch.append(Scratch("weights", shape))
    if stores and divides_keys:
        scratch.append(Scratch("query_sums", (chunk_heads, chunk_tiles, queries.block_m, queries.head_dim)))
    if stores and chunk_tiles < row_tiles:
        sums = chunks.halves, chunk_heads, params.sum_tiles, keys.block_n, _columns(keys)
        scratch.append(Scratch("key_sums", sums))
    return Chain(tuple(scratch), chunks)


def _columns(keys: KeysTile) -> int:
    return keys.head_dim + keys.value_dim


def _even(whole: int, part: int) -> int:
    """The most even parts of at most so much."""
    return -(-whole // -(-whole // part))


def _keys_of_a_tile(problem: _BackwardProblem, forward: ForwardParams, tile: QueriesTile) -> int:
    """How many keys a tile of rows sees, at most, in whole stored blocks."""
    tokens = (tile.block_m - 1) // forward.heads_per_kv + 2
    seen = min(problem.longest_key, forward.window_left + forward.window_right + tokens + STORED_KEYS - 1)
    return -(-seen // STORED_KEYS) * STORED_KEYS


def _tiles_of_a_chunk(problem: _BackwardProblem, chunk_keys: int, tiles: Tiles, stores: bool) -> int:
    """As many as SCRATCH_BYTES and a launch allow, but one at least."""
    cores, queries = problem.forward.device.cores, tiles.queries
    tile_bytes = 4 * queries.block_m // ROWS * queries.stored_floats(chunk_keys)
    work = queries.block_m * chunk_keys * (2 * tiles.queries.head_dim + tiles.queries.value_dim)
    by_work = max(1, problem.forward.device.launch_work // work) * cores
    return max(1, min(by_work, SCRATCH_BYTES * cores // tile_bytes)) if stores else by_work


def _terms_plan(problem: _BackwardProblem, params: BackwardParams) -> Plan:
    query, constants = problem.forward.query, {"has_grad_lse": problem.has_grad_lse}
    return Plan(
        source="attention_backward_terms.metal",
        kernel=f"attention_backward_terms_{DTYPES[problem.forward.dtype]}",
        constants=tuple(constants.items()),
        arguments=(
            params.pack(),
            "output",
            "grad_output",
            "row_softmax",
            *optional(constants, "grad_lse"),
            "row_terms",
        ),
        grid=(-(-query.shape[-3] // TERMS_TOKENS), query.shape[-2], query.shape[:-3].numel()),
        threads=(TERMS_THREADS, 1, 1),
        reason="8 rows a SIMD group, one after another",
    )


def _queries_plan(
    problem: _BackwardProblem, params: BackwardParams, tile: QueriesTile, stores: bool, divides_keys: bool
) -> Plan:
    constants = _constants(problem, params, tile)
    constants["is_paged"] = problem.forward.max_pages is not None
    constants["has_softcap"] = problem.forward.softcap > 0
    constants["has_alibi"] = problem.forward.alibi_dims > 0
    constants["has_sinks"] = problem.forward.has_sinks
    constants["has_dropout"] = problem.has_dropout
    constants.update(bias_constants(problem.forward))
    constants["stores_weights"] = stores
    constants["carries_sums"] = divides_keys
    return Plan(
        source=_source(tile, "attention_backward_queries.metal"),
        kernel=tile.kernel(problem.forward.dtype),
        constants=tuple(constants.items()),
        arguments=(params.pack(), score_params(problem.forward).pack(), _softmax_scale(problem))
        + ("query", "key", "value", "grad_output", "row_softmax", "row_terms", "grad_query")
        + optional(constants, "weights", "query_sums", "cu_seqlens_q", "cu_seqlens_k", "seqused_k")
        + optional(constants, "block_table", "alibi_slopes", "sinks", "dropout", "attn_bias"),
        grid=(problem.forward.key.shape[-2], query_tiles(params.forward, constants["is_packed"], tile.block_m), 1),
        threads=(tile.simdgroups * SIMD_WIDTH, 1, 1),
        reason=f"{tile.block_m} rows a threadgroup, up to {params.stored_tiles} tiles and {params.stored_keys} keys of "
        f"each in a chunk, for {problem.forward.device.cores} cores of Apple{problem.forward.device.family}",
    )


def _keys_plan(problem: _BackwardProblem, params: BackwardParams, tile: KeysTile, divides_rows: bool) -> Plan:
    constants = _constants(problem, params, tile)
    constants["carries_sums"] = divides_rows
    keys = params.forward.key_length
    key_tiles = keys // tile.block_n + params.forward.batch + 2  # as sequence.h hands them out
    if not constants["is_packed"]:
        key_tiles = -(-keys // tile.block_n) * params.forward.batch
    return Plan(
        source=_source(tile, "attention_backward_keys.metal"),
        kernel=tile.kernel(problem.forward.dtype),
        constants=tuple(constants.items()),
        arguments=(params.pack(), _softmax_scale(problem))
        + ("query", "grad_output", "weights", "grad_key", "grad_value")
        + optional(constants, "key_sums", "cu_seqlens_q", "cu_seqlens_k", "seqused_k"),
        grid=(problem.forward.key.shape[-2], key_tiles, 1),
        threads=(tile.simdgroups * SIMD_WIDTH, 1, 1),
        reason=f"{tile.block_n} keys a threadgroup",
    )


def _source(tile: Union[QueriesTile, KeysTile], staged: str) -> str:
    return staged if tile.loader is STAGED else "attention_backward_unit.metal"


def _constants(
    problem: _BackwardProblem, params: BackwardParams, tile: Union[QueriesTile, KeysTile]
) -> Dict[str, bool]:
    """Those that both kernels have."""
    sizes = params.forward.head_dim, params.forward.value_dim
    call = problem.forward
    layouts = call.query, call.key, call.value, problem.grad_output, problem.grad_query
    return {
        "is_packed": problem.forward.batch is not None,
        "is_aligned": are_aligned(problem.forward.dtype, layouts),
        "is_padded": sizes != (tile.head_dim, tile.value_dim),
        "has_seqused_k": problem.forward.has_seqused_k,
        "has_bias": problem.forward.bias is not None,
    }


def _softmax_scale(problem: _BackwardProblem) -> Parameters:
    return Parameters("f", struct.pack("<f", problem.forward.softmax_scale))
