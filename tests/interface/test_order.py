"""A wrong call gets the same first error whether it is dense or packed. Level: the checks."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import dense

# In the order in which they are found. What both functions take, and one wrong value of each.
WRONG = {
    "q": lambda tensors: {"q": tensors["q"].double()},
    "k": lambda tensors: {"k": tensors["k"].half()},
    "v": lambda tensors: {"v": tensors["v"].half()},
    "softmax_scale": lambda tensors: {"softmax_scale": float("nan")},
    "causal": lambda tensors: {"causal": 3},
    "window_size": lambda tensors: {"window_size": (-2, 0)},
    "softcap": lambda tensors: {"softcap": -1.0},
    "alibi_slopes": lambda tensors: {"alibi_slopes": torch.ones(7)},
    "s_aux": lambda tensors: {"s_aux": torch.ones(7)},
    "dropout_p": lambda tensors: {"dropout_p": 1.5},
    "deterministic": lambda tensors: {"deterministic": 2},
    "return_attn_probs": lambda tensors: {"return_attn_probs": 2},
}


@pytest.mark.parametrize("first, second", list(itertools.combinations(WRONG, 2)))
def test_dense_and_packed_find_the_same_error_first(kernel, first, second):
    errors = []
    for is_packed in (False, True):
        tensors = dict(zip("qkv", dense(1, 5, 9, 4, 2, 32, torch.float32)))
        lengths = {}
        if is_packed:
            tensors = {name: tensor[0] for name, tensor in tensors.items()}
            lengths = {"max_seqlen_q": 5, "max_seqlen_k": 9}
            lengths["cu_seqlens_q"], lengths["cu_seqlens_k"] = (torch.tensor([0, n], dtype=torch.int32) for n in (5, 9))
        function = kernel.flash_attn_varlen_func if is_packed else kernel.flash_attn_func
        with pytest.raises((TypeError, ValueError)) as caught:
            function(**{**tensors, **lengths, **WRONG[first](tensors), **WRONG[second](tensors)})
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1] and errors[0][1].startswith(first)
