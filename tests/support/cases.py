"""Inputs for the numeric tests."""

from __future__ import annotations

import importlib
import math
from itertools import accumulate

import torch
from instantiate import tiles

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
HEAD_DIMS = tiles().HEAD_DIMS  # with a kernel of their own

# (query length, key length), chosen by the edges they hit: one token, inside, at and over a tile of 32 rows and blocks
# of 8..64 keys, short and long sides, nothing on either side.
LENGTHS = [
    (1, 1), (7, 7), (31, 31), (32, 32), (33, 33), (40, 40), (75, 75), (130, 130),
    (1, 130), (7, 33), (32, 75), (40, 130),  # fewer queries than keys
    (33, 7), (75, 31), (130, 40),  # more queries than keys: causal rows that see nothing
    (0, 0), (0, 5), (5, 0), (40, 0),
]  # fmt: skip


def random_tensor(seed: int, *shape: int, dtype=torch.float32) -> torch.Tensor:
    """Standard normal values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def packed(lengths, num_heads, num_heads_kv, head_dim, dtype, seed=0):
    """(query, key, value, cu_seqlens_q, cu_seqlens_k) of sequences end to end."""
    cu_q = torch.tensor([0, *accumulate(q for q, _ in lengths)], dtype=torch.int32)
    cu_k = torch.tensor([0, *accumulate(k for _, k in lengths)], dtype=torch.int32)
    total_q, total_k = int(cu_q[-1]), int(cu_k[-1])
    query = random_tensor(seed, total_q, num_heads, head_dim, dtype=dtype)
    key = random_tensor(seed + 1, total_k, num_heads_kv, head_dim, dtype=dtype)
    value = random_tensor(seed + 2, total_k, num_heads_kv, head_dim, dtype=dtype)
    return query, key, value, cu_q, cu_k


def dense(batch, length_q, length_k, num_heads, num_heads_kv, head_dim, dtype, seed=0):
    """(query, key, value), [batch, seqlen, heads, head_dim]."""
    return (
        random_tensor(seed, batch, length_q, num_heads, head_dim, dtype=dtype),
        random_tensor(seed + 1, batch, length_k, num_heads_kv, head_dim, dtype=dtype),
        random_tensor(seed + 2, batch, length_k, num_heads_kv, head_dim, dtype=dtype),
    )


def call_of(kernel, query, key, value, **fields):
    """What the operators and the planner take, by name; a field that is not given is absent, unbounded or as the shapes
    have it."""
    call = importlib.import_module(f"{kernel.__name__}.call")  # of a package loaded twice, no attribute of the second
    usual = {**dict.fromkeys(call.TENSORS), "query": query, "key": key, "value": value}
    usual |= {"max_seqlen_q": query.shape[-3], "max_seqlen_k": key.shape[-3], "softmax_scale": query.shape[-1] ** -0.5}
    usual |= {"window_left": -1, "window_right": -1, "softcap": 0.0, "num_splits": 0, "aligns_first": False}
    return call.Call(**{**usual, **fields})


def max_lengths(cu_q, cu_k):
    return int(cu_q.diff().max()), int(cu_k.diff().max())


def poisoned(tensor):
    """The same values as a view in NaN: around the outermost axis, after every inner one, between heads and rows."""
    storage = torch.full([tensor.shape[0] + 8, *(size + 3 for size in tensor.shape[1:])], math.nan, dtype=tensor.dtype)
    view = storage[(slice(3, 3 + tensor.shape[0]), *(slice(size) for size in tensor.shape[1:]))]
    return view.copy_(tensor)
