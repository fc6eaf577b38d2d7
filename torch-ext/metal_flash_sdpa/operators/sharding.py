"""How the operators work on DTensors: on whole sequences, with their heads or those of a dense batch divided.

The rules are registered when the first DTensor comes, as torch.distributed takes long to import.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any, Dict, FrozenSet, List, NamedTuple, Tuple

import torch

from .. import launching as launchers
from ..call import Call, Gradients, present, taken
from .schemas import attention_backward, attention_forward

_Rule = Tuple[List[Any], List[Any]]  # placements of the results, and of the arguments
_WHOLE = None  # of a Division's axes: the tensor is on every device


class _Division(NamedTuple):
    """The axes along which tensors are divided, all at once; None: not divided."""

    call: Dict[str, Any]  # of the tensors that a call has, by name
    rows: Any  # of lse and row_softmax
    summed: FrozenSet[str] = frozenset()  # whose gradients are sums over the devices


def register_for(tensor: torch.Tensor) -> None:
    """The rules, if the tensor is a DTensor."""
    if type(tensor).__name__ == "DTensor":
        _register()


@functools.lru_cache(maxsize=1)
def _register() -> None:
    register_sharding = importlib.import_module("torch.distributed.tensor.experimental").register_sharding
    register_sharding(attention_forward)(_forward_rules)
    register_sharding(attention_backward)(_backward_rules)


def _forward_rules(*arguments: Any) -> List[_Rule]:
    call, (return_lse, return_softmax, *dropout) = taken(arguments)
    query: Any = call.query  # what stands for a DTensor
    has_softmax = return_softmax and (query.mesh.device_type == "mps" or launchers.current() is not None)
    rules = []
    for division in _divisions(call, dropout):
        rows = division.rows
        results = [division.call["query"], rows if return_lse else _WHOLE, rows if has_softmax else _WHOLE]
        rules.append((_placements(results), [*_of_call(call, division), None, None, *_of_dropout(dropout)]))
    return rules


def _backward_rules(grad_output: Any, grad_lse: Any, *arguments: Any) -> List[_Rule]:
    call, (output, row_softmax, wants_key_value, wants_attn_bias, *dropout) = taken(arguments)
    wanted = {"query": True, "key": wants_key_value, "value": wants_key_value}
    wanted.update(sinks=call.sinks is not None, attn_bias=wants_attn_bias)
    rules = []
    for division in _divisions(call, dropout):
        axes, rows = division.call, division.rows
        results = _placements([axes[name] if wanted[name] else _WHOLE for name in Gradients._fields])
        for position, name in enumerate(Gradients._fields):
            if wanted[name] and name in division.summed:
                results[position] = _tensor_module().Partial()
        before = [_given(grad_output, axes["query"]), _given(grad_lse, rows)]
        behind = [_given(output, axes["query"]), _given(row_softmax, rows), None, None, *_of_dropout(dropout)]
        rules.append((results, [*before, *_of_call(call, division), *behind]))
    return rules


def _divisions(call: Call, dropout: List[Any]) -> List[_Division]:
    tensors = present(call)
    whole = dict.fromkeys(tensors, _WHOLE)
    divisions = [_Division(whole, _WHOLE)]
    if dropout and dropout[0] > 0:  # what is dropped depends on the numbers of sequence and head
        return divisions
    query, bias, is_dense = call.query, call.attn_bias, call.cu_seqlens_q is None
    of_heads, of_batch = 1 if is_dense else 0, 0  # of what has heads before tokens
    if call.key.shape[-2] % _shards(query, query.ndim - 2) == 0:
        heads: Dict[str, Any] = {name: tensors[name].ndim - 2 for name in ("query", "key", "value")}
        if call.alibi_slopes is not None:
            heads["alibi_slopes"] = call.alibi_slopes.ndim - 1
        if call.sinks is not None:
            heads["sinks"] = 0
        if bias is not None and bias.shape[of_heads] > 1:
            heads["attn_bias"] = of_heads
        divisions.append(_Division({**whole, **heads}, of_heads, frozenset({"attn_bias"} - set(heads))))
    if is_dense:
        batch: Dict[str, Any] = {name: 0 for name in ("query", "seqused_k", "block_table") if name in tensors}
        if call.block_table is None:
            batch.update(key=0, value=0)
        if call.alibi_slopes is not None and call.alibi_slopes.ndim == 2:
            batch["alibi_slopes"] = 0
        if bias is not None and bias.shape[of_batch] > 1:
            batch["attn_bias"] = of_batch
        divisions.append(_Division({**whole, **batch}, of_batch, frozenset({"sinks", "attn_bias"} - set(batch))))
    return divisions


def _shards(query: Any, axis: int) -> int:
    """In how many parts the heads are, or, if they are not divided, could come to be: each must have whole groups."""
    divided = [size for size, placement in zip(query.mesh.shape, query.placements) if placement.is_shard(axis)]
    return math.prod(divided) if divided else query.mesh.size()


def _of_call(call: Call, division: _Division) -> List[Any]:
    axes = division.call
    return [_given(tensor, axes[name]) if name in axes else None for name, tensor in call._asdict().items()]


def _of_dropout(dropout: List[Any]) -> List[Any]:
    return [_given(value, _WHOLE) if hasattr(value, "placements") else None for value in dropout]


def _given(tensor: Any, axis: Any) -> Any:
    return None if tensor is None else _placements([axis])[0]


def _placements(axes: List[Any]) -> List[Any]:
    placements = _tensor_module()
    return [placements.Replicate() if axis is _WHOLE else placements.Shard(axis) for axis in axes]


def _tensor_module() -> Any:
    return importlib.import_module("torch.distributed.tensor")
