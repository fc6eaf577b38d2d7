"""All features together, at random, on the CPU implementation and on the simulated kernels, in poisoned surroundings.

Levels: CPU implementation; simulation; for some of the cases the checker. 200 problems, or as many times more as
--shards says.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from cases import DTYPES, call_of, packed, poisoned, random_tensor
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from instantiate import tiles
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher

LENGTH = st.integers(0, 90) | st.sampled_from([1, 31, 32, 33, 63, 64, 65, 130])


@st.composite
def problems(draw, widest=576):
    """Keyword arguments of one call, as plain numbers."""
    num_heads_kv = draw(st.integers(1, 3))
    head_dims = [head_dim for head_dim in (*(sizes[0] for sizes in tiles().SHAPES), 320, 384) if head_dim <= widest]
    head_dim = draw(st.sampled_from(head_dims) | st.integers(1, 256))
    value_dim = min(head_dim, 512)
    return {
        "dtype": draw(st.sampled_from(DTYPES)),
        "lengths": draw(st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=4)),
        "layout": draw(st.sampled_from(["packed", "dense", "packed paged", "dense paged"])),
        "num_heads": num_heads_kv * draw(st.sampled_from([1, 2, 3, 8])),
        "num_heads_kv": num_heads_kv,
        "head_dim": head_dim,
        "value_dim": draw(st.just(value_dim) | st.integers(1, 256)),
        "page_size": draw(st.sampled_from([16, 32, 48, 256])),
        "seqused_k": draw(st.booleans()),
        "window": draw(st.sampled_from([(-1, -1), (-1, 0), (0, 0), (20, 0), (5, 9), (-1, 3), (64, -1)])),
        "softcap": draw(st.sampled_from([0.0, 0.0, 1.0, 5.0, 30.0, 50.0])),
        "scale": draw(st.sampled_from([1.0, 1.0, 2.0, -1.5, 0.0])),  # times the usual one: fp32 errors grow with it
        "alibi": draw(st.sampled_from([None, None, "heads", "batch and heads"])),
        "sinks": draw(st.booleans()),
        "num_splits": draw(st.sampled_from([0, 0, 1, 2, 5, 33])),
        "device": draw(st.sampled_from([(7, 1), (7, 8), (7, 64), (9, 10), (9, 40), (10, 40)])),
        "seed": draw(st.integers(0, 2**20)),
    }


def paged_cache(sequences, page_size, seed):
    """(cache, block_table) of key or value sequences [length, heads, head_dim]; free places in the pages are NaN."""
    max_pages = max(-(-len(sequence) // page_size) for sequence in sequences) + 1
    num_pages = max_pages * len(sequences) + 2
    cache = sequences[0].new_full((num_pages, page_size, *sequences[0].shape[1:]), math.nan)
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(seed)).to(torch.int32)
    table = order[: max_pages * len(sequences)].view(len(sequences), max_pages)
    for sequence, pages in zip(sequences, table.tolist()):
        for begin in range(0, len(sequence), page_size):
            page = sequence[begin : begin + page_size]
            cache[pages[begin // page_size], : len(page)] = page
    return cache, table


def arguments(problem):
    """(query, key, value, the other fields of a call, keyword arguments of the reference)."""
    lengths, dtype, seed = problem["lengths"], problem["dtype"], problem["seed"]
    if "dense" in problem["layout"]:
        lengths = [lengths[0]] * len(lengths)
    heads = problem["num_heads"], problem["num_heads_kv"]
    query, key, _, cu_q, cu_k = packed(lengths, *heads, problem["head_dim"], dtype, seed)
    value = random_tensor(seed + 2, len(key), heads[1], problem["value_dim"], dtype=dtype)
    batch = len(lengths)
    used = torch.tensor([min(k, (k * 2 + b) // 3) for b, (_, k) in enumerate(lengths)], dtype=torch.int32)
    seqused_k = used if problem["seqused_k"] or problem["layout"] == "dense paged" else None
    table = None
    if "paged" in problem["layout"]:
        bounds = list(zip(cu_k.tolist(), cu_k.tolist()[1:]))
        key, table = paged_cache([key[a:b] for a, b in bounds], problem["page_size"], seed)
        value, _ = paged_cache([value[a:b] for a, b in bounds], problem["page_size"], seed)
    elif "dense" in problem["layout"]:
        key, value = key.view(batch, lengths[0][1], *key.shape[1:]), value.view(batch, lengths[0][1], *value.shape[1:])
    if "dense" in problem["layout"]:
        query, cu_q, cu_k = query.view(batch, lengths[0][0], *query.shape[1:]), None, None
    slopes = None
    if problem["alibi"]:
        shape = (heads[0],) if problem["alibi"] == "heads" else (batch, heads[0])
        slopes = random_tensor(seed + 3, *shape).abs() / 4
    sinks = random_tensor(seed + 4, heads[0]) * 3 if problem["sinks"] else None
    bias = None
    if problem.get("bias"):
        bias_lengths = lengths if seqused_k is None else [(q, int(k)) for (q, _), k in zip(lengths, used)]
        bias = problem["bias"].tensor(bias_lengths, heads[0], dtype, cu_q is not None, seed + 5)
    scale = problem["scale"] * problem["head_dim"] ** -0.5
    features = {"softcap": problem["softcap"], "alibi_slopes": slopes, "sinks": sinks}
    features |= {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "seqused_k": seqused_k, "block_table": table}
    features |= {"attn_bias": bias, "aligns_first": problem.get("aligns_first", False)}
    fields = {**features, "softmax_scale": scale, "num_splits": problem["num_splits"]}
    for side, name in enumerate("qk"):
        fields[f"max_seqlen_{name}"] = max(pair[side] for pair in lengths)
    fields["window_left"], fields["window_right"] = problem["window"]
    keywords = {**features, "softmax_scale": scale, "window": problem["window"]}
    return query, key, value, fields, keywords


def compare(kernel, problem, launcher, also_without_lse=True):
    query, key, value, fields, keywords = arguments(problem)
    expected, expected_lse = attention(query, key, value, **keywords)
    call = call_of(kernel, *map(poisoned, (query, key, value)), **fields)
    device = kernel.device.Device(*problem["device"])
    with kernel.launchers.use_launcher(launcher, device) if launcher else contextlib.nullcontext():
        output, lse, _ = kernel.operators.attention_forward(*call, True, False)
        outputs = [output]
        if also_without_lse:
            outputs.append(kernel.operators.attention_forward(*call, False, False)[0])
    for output in outputs:
        assert_output(output, expected, torch.nan_to_num(value))
    assert_lse(lse, expected_lse)


def search(shard, examples, check):
    """`check` on random problems; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems())
    def each(problem):
        check(problem)

    each()


def test_cpu(kernel, shard):
    search(shard, 200, lambda problem: compare(kernel, problem, None))


def test_simulated(kernel, shard):
    search(shard, 150, lambda problem: compare(kernel, problem, SimulatedLauncher()))


def test_checked(kernel, shard):
    search(shard, 50, lambda problem: compare(kernel, problem, SimulatedLauncher(check=True, order=problem["seed"])))


EMULATED = sorted({tile for table in tiles().TABLES[7][torch.bfloat16] for tile in table}, reverse=True)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("tile", EMULATED, ids=lambda tile: tile.kernel(torch.bfloat16))
def test_checked_without_bfloat_operands(kernel, shard, tile):
    """Every tile that serves bf16 on GPUs without bfloat operands, with rows of any number."""

    def check(problem):
        sizes = {name: min(problem[name], getattr(tile, name)) for name in ("head_dim", "value_dim")}
        sizes |= {"lengths": problem["lengths"][:2]}  # test_checked has longer batches
        problem = {**problem, **sizes, "dtype": torch.bfloat16, "device": (7, problem["device"][1], tile)}
        compare(kernel, problem, SimulatedLauncher(check=True, order=problem["seed"]))

    search(shard * len(EMULATED) + EMULATED.index(tile), 2, check)


def test_fast_math(kernel, shard):
    search(shard, 15, lambda problem: compare(kernel, problem, SimulatedLauncher(fast_math=True)))
