"""Random calls of torch's scaled_dot_product_attention, and what they must give."""

from __future__ import annotations

import random
from typing import NamedTuple

import reference
import torch
from cases import DTYPES, random_tensor


class Problem(NamedTuple):
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    arguments: dict


def random_problem(seed: int) -> Problem:
    """Any rank from 2, strides as callers have them, grouped heads, another value head_dim, masks of all kinds."""
    rng = random.Random(seed)
    dtype = rng.choice([*DTYPES, torch.float32, torch.float32])
    rank = rng.choice([2, 3, 4, 4, 4, 4, 5])
    batch = [rng.randint(1, 3) for _ in range(max(0, rank - 3))]
    heads_kv = rng.randint(1, 3)
    heads = heads_kv * rng.choice([1, 1, 1, 2, 3])
    rows, keys = rng.choice([1, 2, 7, 16, 33, 40]), rng.choice([1, 3, 8, 16, 31, 45])
    if rng.random() < 0.3:
        keys = rows
    head_dim = rng.choice([8, 16, 32, 32, 40, 64])
    value_dim = head_dim if rng.random() < 0.8 else rng.choice([8, 24, 64])

    def tensor(number: int, heads: int, tokens: int, columns: int) -> torch.Tensor:
        shape = [*batch, *([heads] if rank > 2 else []), tokens, columns]
        found = random_tensor(seed + number, *shape, dtype=dtype)
        if rank > 2 and rng.random() < 0.5:  # a projection, seen as heads
            found = found.transpose(-3, -2).contiguous().transpose(-3, -2)
        return found

    query = tensor(1, heads, rows, head_dim)
    key, value = tensor(2, heads_kv, keys, head_dim), tensor(3, heads_kv, keys, value_dim)
    arguments: dict = {}
    if heads != heads_kv and rank > 2:
        arguments["enable_gqa"] = True
    if rng.random() < 0.4:
        arguments["scale"] = rng.choice([0.05, 0.3, 1.0, -0.2, 1e-4, 0.0])
    kind = rng.choice(["none", "causal", "bool", "float", "bool", "float"])
    if kind == "causal":
        arguments["is_causal"] = True
    elif kind != "none":
        arguments["attn_mask"] = _mask(rng, seed, kind, query.shape, keys)
    return Problem((query, key, value), arguments)


def _mask(rng: random.Random, seed: int, kind: str, query: torch.Size, keys: int) -> torch.Tensor:
    """Of a shape that broadcasts to that of the scores, also by strides of 0; whole rows may be hidden."""
    shape = [*query[:-1], keys]
    smaller = [size if rng.random() < 0.6 else 1 for size in shape]
    dropped = rng.randint(0, len(shape) - 2)
    if all(size == 1 for size in smaller[:dropped]):
        smaller = smaller[dropped:]
    found = random_tensor(seed + 4, *smaller)
    if kind == "bool":
        found = found > rng.choice([-0.5, 0.5, -10.0])
    else:
        found = found.masked_fill(random_tensor(seed + 5, *smaller) > rng.choice([0.7, 10.0]), -torch.inf)
    if rng.random() < 0.4:
        found = found.expand(shape)
    if rng.random() < 0.3:
        found = found.mT.contiguous().mT
    return found


def exact(tensors, arguments: dict) -> torch.Tensor:
    """torch's math backend in float64."""
    named = {name: value for name, value in arguments.items() if name != "attn_mask"}
    mask = arguments.get("attn_mask")
    if mask is not None:
        mask = mask.double() if mask.is_floating_point() else torch.where(mask, 0.0, -torch.inf).double()
    tensors = [tensor.double() for tensor in tensors]
    return torch.ops.aten._scaled_dot_product_attention_math(*tensors, mask, **named)[0]


def assert_exact(output: torch.Tensor, problem: Problem) -> None:
    reference.assert_output(output, exact(*problem), problem.tensors[2])
