"""How the operators work on DTensors: on whole sequences, with their heads or those of a dense batch divided.

The rules are registered when the first DTensor comes, as torch.distributed takes long to import.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any, Dict, List, NamedTuple, Tuple

import torch

from .. import launching as launchers
from ..call import Call, present, taken
from .schemas import attention_backward, attention_forward

_Rule = Tuple[List[Any], List[Any]]  # placements of the results, and of the arguments
_WHOLE = None  # of a Division's axes: the tensor is on every device


class _Division(NamedTuple):
    """The axes along which tensors are divided, all at once; None: not divided."""

    call: Dict[str, Any]  # of the tensors that a call has, by name
    rows: Any  # of lse and row_softmax
    sums_sinks: bool  # the gradient of the sinks is a sum over devices


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
    call, (output, row_softmax, wants_key_value, *dropout) = taken(arguments)
    rules = []
    for division in _divisions(call, dropout):
        axes, rows = division.call, division.rows
        key_value = [axes[name] if wants_key_value else _WHOLE for name in ("key", "value")]
        results = _placements([axes["query"], *key_value, axes.get("sinks")])
        if division.sums_sinks:
            results[-1] = _tensor_module().Partial()
        before = [_given(grad_output, axes["query"]), _given(grad_lse, rows)]
        behind = [_given(output, axes["query"]), _given(row_softmax, rows), None, *_of_dropout(dropout)]
        rules.append((results, [*before, *_of_call(call, division), *behind]))
    return rules


def _divisions(call: Call, dropout: List[Any]) -> List[_Division]:
    tensors = present(call)
    divisions = [_Division(dict.fromkeys(tensors, _WHOLE), _WHOLE, False)]
    if dropout and dropout[0] > 0:  # what is dropped depends on the numbers of sequence and head
        return divisions
    query, is_dense = call.query, call.cu_seqlens_q is None
    if call.key.shape[-2] % _shards(query, query.ndim - 2) == 0:
        heads = {name: tensor.ndim - 2 for name, tensor in tensors.items() if name in ("query", "key", "value")}
        if call.alibi_slopes is not None:
            heads["alibi_slopes"] = call.alibi_slopes.ndim - 1
        if call.sinks is not None:
            heads["sinks"] = 0
        divisions.append(_Division({**divisions[0].call, **heads}, 1 if is_dense else 0, False))
    if is_dense:
        batch = {"query": 0}
        if call.block_table is None:
            batch.update(key=0, value=0)
        batch.update({name: 0 for name in ("seqused_k", "block_table") if name in tensors})
        if call.alibi_slopes is not None and call.alibi_slopes.ndim == 2:
            batch["alibi_slopes"] = 0
        divisions.append(_Division({**divisions[0].call, **batch}, 0, call.sinks is not None))
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
