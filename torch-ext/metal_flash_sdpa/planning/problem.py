"""What a plan is made for, and what all kernels of a call are told of it."""

from __future__ import annotations

import math
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

import torch

from .device import Device
from .plan import ForwardParams, ScoreParams

UNBOUNDED = 2**30  # the kernels' widest window: lengths stay below it, so that row arithmetic fits 32 bits
SIMD_WIDTH = 32  # threads of a SIMD group; tile.h: kSimdWidth
_CONSTANTS = {  # optional arguments of kernels, by name: the function constant that says whether one is there
    "lse": "writes_lse",
    "partial_softmax": "writes_lse",
    "row_softmax": "writes_softmax",
    "cu_seqlens_q": "is_packed",
    "cu_seqlens_k": "is_packed",
    "seqused_k": "has_seqused_k",
    "block_table": "is_paged",
    "alibi_slopes": "has_alibi",
    "attn_bias": "has_bias",
    "sinks": "has_sinks",
    "dropout": "has_dropout",
    "grad_lse": "has_grad_lse",
    "weights": "stores_weights",
    "query_sums": "carries_sums",
    "key_sums": "carries_sums",
}


class Layout(NamedTuple):
    shape: torch.Size
    strides: Tuple[int, ...]
    offset: Union[int, torch.SymInt]  # elements, modulo 16: all that alignment needs


class BiasLayout(NamedTuple):
    """Of attn_bias; an axis of one element is shared."""

    shape: torch.Size
    strides: Tuple[int, ...]
    dtype: torch.dtype


class Problem(NamedTuple):
    """All that a plan depends on, and nothing else."""

    device: Device
    dtype: torch.dtype
    query: Layout
    key: Layout
    value: Layout
    output: Layout
    batch: Optional[int]  # of packed sequences; None when dense
    max_pages: Optional[int]  # of a sequence; None when not paged
    alibi_dims: int  # of the slopes; 0 without
    has_seqused_k: bool
    has_sinks: bool
    bias: Optional[BiasLayout]
    has_lse: bool
    has_softmax: bool
    has_dropout: bool
    softmax_scale: float
    window_left: int
    window_right: int
    aligns_first: bool
    softcap: float
    few_rows: int  # one of tile.FEW_ROWS, if no sequence has more rows; else 0
    longest_key: int  # bound of max_seqlen_k, rounded up to a power of two
    num_splits: int  # 0 = the planner's choice


def forward_params(problem: Problem) -> ForwardParams:
    packed, paged = problem.batch is not None, problem.max_pages is not None
    num_heads, num_heads_kv = problem.query.shape[-2], problem.key.shape[-2]
    query_length = problem.query.shape[-3]
    page_size = problem.key.shape[1] if paged else 0
    bias, bias_keys, bias_key_stride = _bias_strides(problem.bias)
    return ForwardParams(
        query=strides_of(problem.query),
        key=strides_of(problem.key),
        value=strides_of(problem.value),
        output=strides_of(problem.output),
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
        aligns_last=int(not problem.aligns_first),
        bias=bias,
        bias_keys=bias_keys,
        bias_key_stride=bias_key_stride,
    )


def _bias_strides(bias: Optional[BiasLayout]) -> Tuple[Tuple[int, int, int], int, int]:
    """((batch, token, head) in elements, the keys that have a bias, the stride of keys)."""
    if bias is None:
        return (0, 0, 0), UNBOUNDED, 0
    *batch, head, token, key = (0 if size == 1 else stride for size, stride in zip(bias.shape, bias.strides))
    keys = bias.shape[-1]
    return (batch[0] if batch else 0, token, head), UNBOUNDED if keys == 1 else keys, key


def bias_constants(problem: Problem) -> Dict[str, bool]:
    """The function constants that say whether there is a bias, and of what its elements are."""
    dtype = None if problem.bias is None else problem.bias.dtype
    return {
        "has_bias": dtype is not None,
        "bias_is_mask": dtype == torch.bool,
        "bias_is_float": dtype == torch.float32,
    }


def score_params(problem: Problem) -> ScoreParams:
    has_bias = problem.bias is not None and problem.bias.dtype != torch.bool
    return ScoreParams.of(problem.softmax_scale, problem.softcap, problem.alibi_dims > 0, has_bias)


def bias_of(attn_bias: Optional[torch.Tensor]) -> Optional[BiasLayout]:
    return None if attn_bias is None else BiasLayout(attn_bias.shape, attn_bias.stride(), attn_bias.dtype)


def _window(size: int) -> int:
    return min(size, UNBOUNDED) if size >= 0 else UNBOUNDED


def strides_of(layout: Layout) -> Tuple[int, int, int]:
    """(batch or page, token, head), in elements."""
    *batch, token, head, _ = layout.strides
    return (batch[0] if batch else 0, token, head)


def refuse_too_many_rows(params: ForwardParams) -> None:
    rows = params.query_length * params.heads_per_kv
    if rows >= UNBOUNDED or params.key_length >= UNBOUNDED:
        raise NotImplementedError(
            f"the kernels count rows and keys in 32 bits: got {rows} query rows (tokens x query heads per key/value "
            f"head) and {params.key_length} keys, allowed are fewer than {UNBOUNDED} of each"
        )


def query_tiles(params: ForwardParams, packed: bool, block_m: int) -> int:
    """Tiles of query rows, as sequence.h hands them out: packed ones without knowing where a sequence ends."""
    rows = params.query_length * params.heads_per_kv
    return rows // block_m + params.batch + 2 if packed else -(-rows // block_m) * params.batch


def optional(constants: Mapping[str, bool], *names: str) -> Tuple[Optional[str], ...]:
    """Arguments of a plan: each is None unless its function constant says that it is there."""
    return tuple(name if constants[_CONSTANTS[name]] else None for name in names)


def are_aligned(dtype: torch.dtype, layouts: Iterable[Layout]) -> bool:
    """Whether every row of every tensor starts on a 16-byte boundary (storage does) and is whole chunks of 16 bytes."""
    steps: List[int] = []
    for layout in layouts:
        steps += int(layout.offset), layout.shape[-1]
        steps += [stride for size, stride in zip(layout.shape, layout.strides[:-1]) if size > 1]
    return math.gcd(*steps) * dtype.itemsize % 16 == 0
