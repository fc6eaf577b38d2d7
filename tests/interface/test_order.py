"""A wrong call gets the same first error whether it is dense or packed. Level: the checks."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import dense

# In the order in which they are found. What the functions take, and one wrong value of each.
WRONG = {
    "kv": lambda tensor: tensor.half(),  # the layout of stacked tensors is checked first, their dtype beside q
    "q": torch.Tensor.double,
    "k": torch.Tensor.half,
    "v": torch.Tensor.half,
    "softmax_scale": lambda _: float("nan"),
    "causal": lambda _: 3,
    "window_size": lambda _: (-2, 0),
    "softcap": lambda _: -1.0,
    "alibi_slopes": lambda _: torch.ones(7),
    "s_aux": lambda _: torch.ones(7),
    "dropout_p": lambda _: 1.5,
    "deterministic": lambda _: 2,
    "return_attn_probs": lambda _: 2,
}
SEPARATE = [name for name in WRONG if name != "kv"]
STACKED = ["q", *(name for name in WRONG if name not in ("q", "k", "v", "s_aux"))]


def first_error(kernel, is_stacked: bool, is_packed: bool, wrong) -> tuple:
    arguments = dict(zip("qkv", dense(1, 5, 9, 4, 2, 32, torch.float32)))
    if is_packed:
        arguments = {name: tensor[0] for name, tensor in arguments.items()}
    if is_stacked:
        arguments["kv"] = torch.stack((arguments.pop("k"), arguments.pop("v")), dim=-3)
    arguments |= {name: WRONG[name](arguments.get(name)) for name in wrong}
    if is_packed:
        arguments |= {"max_seqlen_q": 5, "max_seqlen_k": 9}
        for name, length in (("cu_seqlens_q", 5), ("cu_seqlens_k", 9)):
            arguments[name] = torch.tensor([0, length], dtype=torch.int32)
    name = f"flash_attn_{'varlen_' * is_packed}{'kvpacked_' * is_stacked}func"
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(kernel, name)(**arguments)
    return caught.type, str(caught.value).replace("kv[:, :, ", "kv[:, ")  # a part of the stacked tensor


@pytest.mark.parametrize(
    "is_stacked, first, second",
    [
        (is_stacked, *pair)
        for is_stacked, names in ((False, SEPARATE), (True, STACKED))
        for pair in itertools.combinations(names, 2)
    ],
)
def test_dense_and_packed_find_the_same_error_first(kernel, is_stacked, first, second):
    error = first_error(kernel, is_stacked, False, (first, second))
    assert error == first_error(kernel, is_stacked, True, (first, second)) and error[1].startswith(first)
