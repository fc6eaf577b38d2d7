"""Plans: what a launcher needs to run kernels, and nothing else. The structs mirror flash_sdpa/params.h."""

from __future__ import annotations

import math
import struct
from typing import Iterable, List, Mapping, NamedTuple, Tuple, Union

import torch

from ..call import Dropout


class Parameters(NamedTuple):
    """A parameter struct of the kernels (params.h), packed."""

    format: str  # struct module's code of every field: "q" int64, "f" float32
    data: bytes

    def values(self) -> Tuple[Union[int, float], ...]:
        return struct.unpack(f"<{len(self.data) // struct.calcsize(self.format)}{self.format}", self.data)


# What a plan's names stand for in a call: tensors, and structs that no plan keeps.
Given = Mapping[str, Union[torch.Tensor, Parameters]]


class Scratch(NamedTuple):
    """An fp32 tensor that a plan's launches hand on."""

    name: str
    shape: Tuple[int, ...]


class Plan(NamedTuple):
    """One kernel launch, complete but for the tensors."""

    source: str  # file of flash_sdpa/ that holds the kernel
    kernel: str  # its host name
    constants: Tuple[Tuple[str, bool], ...]  # function constants (function_constants.h), by name
    arguments: Tuple[Union[str, Parameters, None], ...]  # by buffer index: a name, a struct, or unbound
    grid: Tuple[int, int, int]  # threadgroups
    threads: Tuple[int, int, int]  # threads of a threadgroup
    reason: str  # why this kernel and these tiles
    waits: bool = False  # for the GPU, before the next launch: so far they may have kept it for a second

    def buffers(self, given: Given) -> List[Union[torch.Tensor, Parameters, None]]:
        """The arguments, with what each name stands for."""
        return [given[argument] if isinstance(argument, str) else argument for argument in self.arguments]


class Chain(NamedTuple):
    """Launches in order, and the scratch of all of them. Each plan is made when its turn comes: a long sequence has
    thousands."""

    scratch: Tuple[Scratch, ...]
    launches: Iterable[Plan]


class Pipeline(NamedTuple):
    """What a GPU tells of a plan's kernel, compiled for it."""

    compile_ms: float  # about 0 when it was compiled before, also by an earlier process: macOS keeps what it compiled
    max_threads: int  # that a threadgroup may have; fewer the more registers a thread takes
    is_capped: bool  # whether the kernel's own limit bounds max_threads, too
    threadgroup_bytes: int
    simd_width: int


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
    head_dim: int
    value_dim: int
    heads_per_kv: int
    window_left: int
    window_right: int
    num_pages: int
    page_size: int
    block_table_stride: int
    alibi_batch_stride: int
    num_splits: int
    output_split_stride: int
    lse_split_stride: int
    first_tile: int
    aligns_last: int
    bias: Tuple[int, int, int]  # (batch, token, head)
    bias_keys: int
    bias_key_stride: int

    def fields(self) -> Tuple[int, ...]:
        strides = self.query + self.key + self.value + self.output
        return strides + self[4:-3] + self.bias + self[-2:]

    def pack(self) -> Parameters:
        return _packed(self.fields())


class CombineParams(NamedTuple):
    """Mirrors params.h: CombineParams."""

    output: Tuple[int, int, int]
    lse_batch_stride: int
    lse_head_stride: int
    rows: int
    num_heads: int
    tokens: int
    value_dim: int
    num_splits: int

    def pack(self) -> Parameters:
        return _packed(self.output + self[1:])


class AppendParams(NamedTuple):
    """Mirrors cache_append.metal: AppendParams. Strides are (batch, row or page, token, head) in elements."""

    key: Tuple[int, int, int]
    value: Tuple[int, int, int]
    query: Tuple[int, int, int]
    key_cache: Tuple[int, int, int]
    value_cache: Tuple[int, int, int]
    rotated: Tuple[int, int, int]
    new_tokens: int
    query_tokens: int
    num_heads_kv: int
    num_heads: int
    head_dim: int
    value_dim: int
    capacity: int
    places: int
    page_size: int
    place_stride: int
    place_words: int
    length_words: int
    pairs: int
    pair_step: int
    pair_distance: int
    angles: int
    cosine_stride: int
    sine_stride: int
    query_step: int

    def pack(self) -> Parameters:
        strides = self.key + self.value + self.query + self.key_cache + self.value_cache + self.rotated
        return _packed(strides + self[6:])


class BackwardParams(NamedTuple):
    """Mirrors params.h: BackwardParams."""

    forward: ForwardParams
    grad_output: Tuple[int, int, int]
    grad_query: Tuple[int, int, int]
    grad_key: Tuple[int, int, int]
    grad_value: Tuple[int, int, int]
    stored_keys: int
    stored_tiles: int
    sum_tiles: int

    def pack(self) -> Parameters:
        strides = self.grad_output + self.grad_query + self.grad_key + self.grad_value
        return _packed(self.forward.fields() + strides + self[5:])


class ChunkParams(NamedTuple):
    """Mirrors params.h: ChunkParams."""

    first_head: int
    first_tile: int
    end_tile: int
    first_key: int
    end_key: int
    first_key_tile: int
    carried_from: int
    carried_to: int

    def pack(self) -> Parameters:
        return _packed(self)


class DropoutParams(NamedTuple):
    """Mirrors params.h: DropoutParams."""

    seed: int
    threshold: int

    @classmethod
    def of(cls, dropout: Dropout) -> DropoutParams:
        """Raises ValueError if there is no seed."""
        if dropout.dropout_seed is None:
            raise ValueError("dropout_seed must be given if dropout_p is more than 0, got None")
        return cls(int(dropout.dropout_seed), max(1, round((1 - dropout.dropout_p) * 2**16)))

    def factor(self) -> float:
        """Of the weights that are kept: so that their mean stays, whatever the probability is rounded to."""
        return 2**16 / self.threshold

    def pack(self) -> Parameters:
        return Parameters("q", struct.pack("<2q", *self))


class ScoreParams(NamedTuple):
    """Mirrors params.h: ScoreParams."""

    query_factor: float
    tanh_scale: float
    bias_factor: float
    scale: float
    scale_log2: float

    @classmethod
    def of(cls, softmax_scale: float, softcap: float, has_alibi: bool, has_bias: bool) -> ScoreParams:
        sign, scale = math.copysign(1.0, softmax_scale), abs(softmax_scale)
        first = scale / softcap if softcap > 0 else scale  # what the product of query and key is multiplied by
        if first < 2.0**-110:
            # fp32 may lack so small a number. Products are below 2^127, so the query can spare some of its last bits.
            sign, first = sign * 2.0**-60, first * 2.0**60
        if first < 2.0**-119:
            sign, first = 0.0, 1.0  # scores are below 2^-50
        unit = softcap if softcap > 0 else first
        tanh_scale = first if softcap > 0 else 0.0
        # With ALiBi scores are in units of at least 1, in which no slope is larger than it is given.
        bias_factor, unit = (min(unit, 1.0), max(unit, 1.0)) if has_alibi else (1.0, unit)
        if has_bias:  # of any size: at most half of a score is of the product, and an eighth of the bias
            unit, before = max(2 * unit, 8.0), unit
            bias_factor *= before / unit
        return cls(sign, tanh_scale, bias_factor, unit, unit * math.log2(math.e))

    def pack(self) -> Parameters:
        return Parameters("f", struct.pack(f"<{len(self)}f", *self))


def _packed(fields: Tuple[int, ...]) -> Parameters:
    return Parameters("q", struct.pack(f"<{len(fields)}q", *fields))
