"""FLOP formulas for torch.utils.flop_counter, by its conventions for attention: multiplications and additions of the
matrix products, of every query with every key of its sequence, whatever the mask hides."""

from __future__ import annotations

from typing import List, Optional, Union

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils.flop_counter import register_flop_formula


def register(ops, num_inputs: int) -> None:
    """For the operators of this build; `num_inputs` of attention_forward stand for the problem."""

    @register_flop_formula(ops.attention_forward, get_raw=True)
    def forward(*inputs, out_val=None, **_dropout) -> int:
        return _flops(inputs[:num_inputs], of_head_dim=1, of_value_dim=1)

    @register_flop_formula(ops.attention_forward_out, get_raw=True)
    def forward_out(_output, *inputs, out_val=None) -> int:
        return _flops(inputs, of_head_dim=1, of_value_dim=1)

    @register_flop_formula(ops.attention_backward, get_raw=True)
    def backward(_grad_output, _grad_lse, *inputs, out_val=None, **_dropout) -> int:
        # Of head_dim: the scores again, the gradients of query and key. Of the value's: those of the weights and value.
        return _flops(inputs[:num_inputs], of_head_dim=3, of_value_dim=2)

    @register_flop_formula(ops.attention_over_rows, get_raw=True)
    def over_rows(query, keys, values, lengths, _rows, leftpad, *_inputs, out_val=None) -> int:
        ends = _values(lengths, [keys.shape[1]] * query.shape[0])
        starts = _values(leftpad, [0] * query.shape[0])
        pairs = sum(query.shape[1] * max(end - start, 0) for start, end in zip(starts, ends))
        return 2 * pairs * query.shape[2] * (query.shape[3] + values.shape[3])


def _flops(inputs: tuple, of_head_dim: int, of_value_dim: int) -> int:
    query, key, value, cu_seqlens_q, cu_seqlens_k, seqused_k, block_table = inputs[:7]
    max_seqlen_q, max_seqlen_k = inputs[9:11]
    if cu_seqlens_q is None:
        batch = query.shape[0]
        lengths_q, lengths_k = [query.shape[1]] * batch, [key.shape[1]] * batch
        if block_table is not None:
            lengths_k = [block_table.shape[1] * key.shape[1]] * batch
    else:
        batch = cu_seqlens_q.shape[0] - 1
        lengths_q = _values(cu_seqlens_q, [max_seqlen_q] * batch, differences=True)
        lengths_k = _values(cu_seqlens_k, [max_seqlen_k] * batch, differences=True)
    lengths_k = _values(seqused_k, lengths_k)
    pairs = sum(queries * max(keys, 0) for queries, keys in zip(lengths_q, lengths_k))
    head_dims = of_head_dim * query.shape[-1] + of_value_dim * value.shape[-1]
    return 2 * pairs * query.shape[-2] * head_dims


def _values(
    tensor: Optional[torch.Tensor], bounds: List[Union[int, torch.SymInt]], differences: bool = False
) -> List[Union[int, torch.SymInt]]:
    """What the tensor holds, or the differences of it; the bounds where it holds nothing, as while tracing."""
    if tensor is None or isinstance(tensor, (FakeTensor, FunctionalTensor)) or tensor.is_meta:
        return bounds
    return (tensor.diff() if differences else tensor).tolist()
