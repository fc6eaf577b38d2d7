"""FLOP formulas for torch.utils.flop_counter, by its conventions for attention: multiplications and additions of the
matrix products, of every query with every key of its sequence, whatever the mask hides."""

from __future__ import annotations

from typing import List, Optional, Union

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils.flop_counter import register_flop_formula

from ..call import Call, taken

Count = Union[int, torch.SymInt]


def register(ops) -> None:
    """For the operators of this build."""

    @register_flop_formula(ops.attention_forward, get_raw=True)
    def forward(*arguments, out_val=None) -> Count:
        call, _ = taken(arguments)
        return _flops(call, of_head_dim=1, of_value_dim=1)

    @register_flop_formula(ops.attention_forward_out, get_raw=True)
    def forward_out(_output, *arguments, out_val=None) -> Count:
        return _flops(Call(*arguments), of_head_dim=1, of_value_dim=1)

    @register_flop_formula(ops.attention_forward_inference, get_raw=True)
    def inference(*arguments, out_val=None) -> Count:
        return _flops(Call(*arguments), 1, 1)

    @register_flop_formula(ops.attention_backward, get_raw=True)
    def backward(_grad_output, _grad_lse, *arguments, out_val=None) -> Count:
        # Of head_dim: the scores again, the gradients of query and key. Of the value's: those of the weights and value.
        call, (_output, _row_softmax, wants_key_value, *_) = taken(arguments)
        return _flops(call, of_head_dim=3, of_value_dim=2) if wants_key_value else _flops(call, 2, 1)

    @register_flop_formula(ops.attention_over_rows, get_raw=True)
    def over_rows(*arguments, out_val=None) -> Count:
        call, (_cache_batch_idx, cache_leftpad, _return_lse) = taken(arguments)
        batch, seqlen_q = call.query.shape[:2]
        ends = _values(call.seqused_k, [call.key.shape[1]] * batch)
        starts = _values(cache_leftpad, [0] * batch)
        pairs = sum(seqlen_q * max(end - start, 0) for start, end in zip(starts, ends))
        return 2 * pairs * call.query.shape[2] * (call.query.shape[3] + call.value.shape[3])


def _flops(call: Call, of_head_dim: int, of_value_dim: int) -> Count:
    lengths_q: List[Count]
    lengths_k: List[Count]
    query, key = call.query, call.key
    if call.cu_seqlens_q is None:
        batch = query.shape[0]
        lengths_q, lengths_k = [query.shape[1]] * batch, [key.shape[1]] * batch
        if call.block_table is not None:
            lengths_k = [call.block_table.shape[1] * key.shape[1]] * batch
    else:
        batch = call.cu_seqlens_q.shape[0] - 1
        lengths_q = _values(call.cu_seqlens_q, [call.max_seqlen_q] * batch, differences=True)
        lengths_k = _values(call.cu_seqlens_k, [call.max_seqlen_k] * batch, differences=True)
    lengths_k = _values(call.seqused_k, lengths_k)
    pairs = sum(queries * max(keys, 0) for queries, keys in zip(lengths_q, lengths_k))
    head_dims = of_head_dim * query.shape[-1] + of_value_dim * call.value.shape[-1]
    return 2 * pairs * query.shape[-2] * head_dims


def _values(tensor: Optional[torch.Tensor], bounds: List[Count], differences: bool = False) -> List[Count]:
    """What the tensor holds, or the differences of it; the bounds where it holds nothing, as while tracing."""
    if tensor is None or isinstance(tensor, (FakeTensor, FunctionalTensor)) or tensor.is_meta:
        return bounds
    return (tensor.diff() if differences else tensor).tolist()
