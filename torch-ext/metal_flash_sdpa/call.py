"""One call of attention, by name: what the operators take, and what every part behind them is given."""

# Annotations are evaluated here: the operators' schemas are made of them.

import operator
from typing import Annotated, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Type, Union, get_type_hints

import torch

Length = Annotated[int, "SymInt"]  # so in the schemas: a new one compiles nothing anew


class Call(NamedTuple):
    """Queries are packed, with both cu_seqlens, or dense, with neither. Keys and values are like the queries, or paged,
    with a block_table. Tensors other than query, key, value and attn_bias are contiguous; lengths are in tokens.
    """

    query: torch.Tensor  # [total_q, num_heads, head_dim] or [batch, seqlen_q, num_heads, head_dim]
    key: torch.Tensor  # the same with num_heads_kv, or [num_pages, page_size, num_heads_kv, head_dim]
    value: torch.Tensor  # as key, with a head_dim of its own
    cu_seqlens_q: Optional[torch.Tensor]  # int32 [batch + 1]
    cu_seqlens_k: Optional[torch.Tensor]  # int32 [batch + 1]; paged keys: the lengths unless seqused_k gives them
    seqused_k: Optional[torch.Tensor]  # int32 [batch]: how many of a sequence's keys are used
    block_table: Optional[torch.Tensor]  # int32 [batch, max_pages]
    alibi_slopes: Optional[torch.Tensor]  # fp32 [num_heads] or [batch, num_heads]
    sinks: Optional[torch.Tensor]  # fp32 [num_heads]
    # Any axis of it may be 1. bool (True = seen), fp32 or the query's dtype. Of paged keys, key j has column j.
    attn_bias: Optional[torch.Tensor]  # [num_heads, total_q, keys] or [batch, num_heads, seqlen_q, keys]
    max_seqlen_q: Length  # bounds of the lengths; they only help to choose a kernel
    max_seqlen_k: Length
    softmax_scale: float
    window_left: Length  # keys seen before and after the query's own position; -1 = all
    window_right: Length
    softcap: float  # 0.0 = none
    num_splits: int  # parts in which a GPU divides the keys; 0 = as many as fill it
    aligns_first: bool  # the first query stands at the first key, instead of the last query at the last key


class Dropout(NamedTuple):
    """What the operators with dropout take behind a call: the same seed drops the same weights."""

    dropout_p: float = 0.0
    dropout_seed: Optional[torch.Tensor] = None  # int64 [1] on the CPU; needed if dropout_p > 0


class Append(NamedTuple):
    """What append_to_cache takes, as flash_attn_with_kvcache does. Rows of all tensors are contiguous."""

    k_cache: torch.Tensor  # [batch_cache, seqlen_cache, num_heads_kv, head_dim], or pages [num_pages, page_size, ...]
    v_cache: torch.Tensor  # as k_cache, with a head_dim of its own
    k: torch.Tensor  # [batch, seqlen_new, num_heads_kv, head_dim]
    v: torch.Tensor  # as k, with the head_dim of v_cache
    query: torch.Tensor  # [batch, seqlen_q, num_heads, head_dim]
    cache_seqlens: torch.Tensor  # int32 or int64 [batch]: tokens of each sequence before the call
    cache_batch_idx: Optional[torch.Tensor]  # int32 or int64 [batch]
    block_table: Optional[torch.Tensor]  # int32 [batch, max_pages]
    rotary_cos: Optional[torch.Tensor]  # [positions, rotary_dim / 2], the query's dtype or fp32; with rotary_sin
    rotary_sin: Optional[torch.Tensor]
    rotary_interleaved: bool
    turns_by_first: bool  # all queries of a sequence turn by its first new position


class Gradients(NamedTuple):
    """Of the loss, by the fields of a call; what attention_backward returns, [0] in the place of what is not wanted or
    not there."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: Optional[torch.Tensor]
    attn_bias: Optional[torch.Tensor]


_KINDS = {
    torch.Tensor: "Tensor",
    Optional[torch.Tensor]: "Tensor?",
    Length: "SymInt",
    float: "float",
    int: "int",
    bool: "bool",
}
_TYPES = get_type_hints(Call, include_extras=True)
TENSORS = tuple(name for name, kind in _TYPES.items() if _KINDS[kind].startswith("Tensor"))
SETTINGS = tuple(name for name in _TYPES if name not in TENSORS)
DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}  # with their names in the kernels'


def _values_of(names: Sequence[str]) -> Callable[[tuple], tuple]:
    return operator.itemgetter(*map(Call._fields.index, names))


# The values of these fields, in order, of a call or of what an operator is given, which begins with one.
tensors_of, settings_of, differentiable_of = map(_values_of, (TENSORS, SETTINGS, Gradients._fields))


def schema(kind: Union[Type[Call], Type[Dropout]]) -> str:
    """The fields of Call or Dropout as arguments of an operator."""
    defaults = kind._field_defaults
    return ", ".join(
        f"{_KINDS[annotation]} {name}" + (f"={defaults[name]}" if name in defaults else "")
        for name, annotation in get_type_hints(kind, include_extras=True).items()
    )


def taken(arguments: tuple) -> Tuple[Call, tuple]:
    """The call that an operator's arguments begin with, and what follows it."""
    count = len(Call._fields)
    return Call._make(arguments[:count]), arguments[count:]


def present(call: Call) -> Dict[str, torch.Tensor]:
    """The tensors that a call has, by name."""
    return {name: tensor for name, tensor in zip(TENSORS, tensors_of(call)) if tensor is not None}
