"""Dropout on the CPU implementation and on the simulated kernels: one mask, bit for bit, wherever it is computed.

The mask is read off the results: with a query of zeros no weight is small, and with columns of the identity as values
the output is the weights, 0 where dropped. Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import contextlib

import philox
import pytest
import torch
from cases import call_of, dense, packed, random_tensor
from chunks import chunk_sizes
from reference import assert_lse, attention, weight_rounding
from simulated_launcher import SimulatedLauncher
from test_features import paged_cache
from torch.utils.checkpoint import checkpoint

SEED = torch.tensor([2**62 + 2**33 + 12345])
# GPU, dtype, head_dim: both loaders, blocks of 8, 16, 32 and 64 keys, slices; few rows also divide the keys
TILES = {
    "blocks of 64": ((7, 8), torch.float16, 32),
    "blocks of 32": ((7, 8), torch.float16, 64),
    "slices, blocks of 16": ((7, 8), torch.bfloat16, 256),
    "slices, blocks of 8": ((7, 8), torch.float32, 256),
    "direct, blocks of 32": ((9, 10), torch.float16, 64),
    "direct, blocks of 8": ((9, 10), torch.float16, 192),
}


def run(kernel, device, call, dropout_p, seed=SEED, **options):
    """(output, lse, row_softmax) on a GPU (family, cores), or on the CPU if it is None."""
    launcher = SimulatedLauncher(**options)
    target = kernel.launchers.use_launcher(launcher, kernel.device.Device(*device)) if device else None
    with target or contextlib.nullcontext():
        return kernel.operators.attention_forward(*call, True, True, dropout_p, seed if dropout_p else None)


def weights_in(attend, value: torch.Tensor) -> torch.Tensor:
    """[..., queries, heads, keys] of an `attend` that takes values like this one, [..., keys, heads_kv, value_dim]."""
    keys, width = value.shape[-3], value.shape[-1]
    identity = torch.eye(keys, -(-keys // width) * width, dtype=value.dtype)
    columns = (part.unsqueeze(1).expand(value.shape) for part in identity.split(width, dim=1))
    return torch.cat([attend(part) for part in columns], dim=-1)[..., :keys]


def visible(rows: int, keys: int, window) -> torch.Tensor:
    """bool [rows, 1, keys]"""
    distance = torch.arange(keys) - (torch.arange(rows).unsqueeze(1) + keys - rows)
    sees = (distance >= -window[0]) | (window[0] < 0)
    return (sees & ((distance <= window[1]) | (window[1] < 0))).unsqueeze(1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rows, num_splits", [(3, 1), (3, 3), (25, 1)])
@pytest.mark.parametrize("device, dtype, head_dim", [(None, torch.float32, 64), *TILES.values()], ids=["cpu", *TILES])
def test_dense(kernel, monkeypatch, device, dtype, head_dim, rows, num_splits):
    """Two sequences, grouped heads, a window whose first keys are inside of a block."""
    chunk_sizes(kernel, monkeypatch, 1000, 4)
    query, key, value = dense(2, rows, 150, 6, 2, head_dim, dtype)
    value = value[..., :128]
    fields = {"window_left": 100, "window_right": 1, "num_splits": num_splits}

    def attend(value):
        return run(kernel, device, call_of(kernel, query * 0, key, value, **fields), 0.4)[0]

    expected = torch.stack([philox.kept(0.4, int(SEED), b, rows, 6, 150) for b in range(2)])
    assert torch.equal(weights_in(attend, value) != 0, expected & visible(rows, 150, (100, 1)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("device", [None, (7, 8), (9, 10)], ids=["cpu", "staged", "direct"])
@pytest.mark.parametrize("layout", ["packed", "paged", "used", "used of dense"])
@pytest.mark.parametrize("num_splits", [1, 2])
def test_layouts(kernel, device, layout, num_splits):
    """Sequences keep the mask that they have in a dense batch, wherever they lie."""
    lengths = [(3, 70), (0, 5), (11, 40), (5, 0), (9, 9)] if layout != "used of dense" else [(9, 70)] * 3
    query, key, value, cu_q, cu_k = packed(lengths, 4, 2, 32, torch.float32)
    used = torch.tensor([max(0, keys - 2 - b) for b, (_, keys) in enumerate(lengths)], dtype=torch.int32)
    fields = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "num_splits": num_splits}
    if "used" in layout:
        fields["seqused_k"] = used
    if layout == "used of dense":
        fields["cu_seqlens_q"] = fields["cu_seqlens_k"] = None
        query, key, value = (tensor.unflatten(0, (3, -1)) for tensor in (query, key, value))
    for b, (rows, keys) in enumerate(lengths):
        keys = int(used[b]) if "used" in layout else keys

        def attend(own, b=b, keys=keys):
            values = torch.zeros_like(value)
            where = (b, slice(0, keys)) if values.dim() == 4 else slice(int(cu_k[b]), int(cu_k[b]) + keys)
            values[where] = own
            tensors, more = (key, values), {}
            if layout == "paged":
                sequences = [[t[i:j] for i, j in cu_k.unfold(0, 2, 1).tolist()] for t in (key, values)]
                (keys_, table), (values_, _) = (paged_cache(sequence, 16, 1) for sequence in sequences)
                tensors, more = (keys_, values_.nan_to_num()), {"block_table": table}
            output, _, _ = run(kernel, device, call_of(kernel, query * 0, *tensors, **fields, **more), 0.4)
            return output[b] if output.dim() == 4 else output[int(cu_q[b]) : int(cu_q[b + 1])]

        if rows and keys:
            found = weights_in(attend, torch.empty(keys, 2, 32))
            assert torch.equal(found != 0, philox.kept(0.4, int(SEED), b, rows, 4, keys)), b


@pytest.mark.sampled(3)
@pytest.mark.fast_math
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout_p", [0.1, 0.9])
@pytest.mark.parametrize("num_splits", [1, 3])
def test_numbers(kernel, launcher, num_splits, dropout_p, dtype):
    """Every feature; log-sum-exp and row_softmax are those without dropout."""
    query, key, value = dense(2, 11, 90, 4, 2, 64, dtype)
    fields = {"softcap": 8.0, "alibi_slopes": random_tensor(5, 2, 4).abs() / 20, "sinks": random_tensor(6, 4)}
    call = call_of(kernel, query, key, value, window_right=0, num_splits=num_splits, **fields)
    output, lse, row_softmax = kernel.operators.attention_forward(*call, True, True, dropout_p, SEED)
    _, without, same_softmax = kernel.operators.attention_forward(*call, True, True)
    assert torch.equal(lse, without) and torch.equal(row_softmax, same_softmax)
    identity = torch.eye(90).unsqueeze(1).expand(2, 90, 2, 90)
    weights, expected_lse = attention(query, key, identity, window=(-1, 0), **fields)
    kept = torch.stack([philox.kept(dropout_p, int(SEED), b, 11, 4, 90) for b in range(2)])
    weights = weights * kept * philox.factor(dropout_p)
    expected = torch.einsum("bqhk,bkhd->bqhd", weights, value.double().repeat_interleave(2, dim=2))
    rounding = (expected.to(dtype).double() - expected).abs().max()
    relative = 5e-6 + (weight_rounding() if dtype != torch.float32 else 0)
    bound = 1.1 * float(rounding) + relative * float(value.abs().max()) * philox.factor(dropout_p)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=bound)
    assert_lse(lse, expected_lse)


def test_probabilities_at_the_ends(kernel, launcher):
    """The least drops nothing; the most keeps one weight of 65536, and no row of 90 is likely to have one."""
    query, key, value = dense(1, 5, 90, 2, 2, 32, torch.float32)
    torch.manual_seed(3)
    plain = kernel.flash_attn_func(query, key, value, return_attn_probs=True)[0]
    torch.testing.assert_close(kernel.flash_attn_func(query, key, value, 5e-324), plain, rtol=0, atol=2e-6)
    torch.testing.assert_close(kernel.flash_attn_func(query, key, value, 1e-9), plain, rtol=0, atol=2e-6)
    for dropout_p in (0.99999, 1 - 1e-16):
        output, lse, _ = kernel.flash_attn_func(query, key, value, dropout_p, return_attn_probs=True)
        assert not output.any() and lse.isfinite().all()
    for dropout_p in (1.0, -1e-9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"dropout_p must be 0\.0 or more and less than 1\.0, got"):
            kernel.flash_attn_func(query, key, value, dropout_p)


@pytest.mark.fast_math
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("dropout_p", [0.5, 0.99])
def test_large_values(kernel, launcher, dropout_p, num_splits, dtype):
    """Their sums overflow in the first pass; a part's own mean, times the factor, may exceed fp32 where the whole does
    not. The second pass drops the same weights."""
    query, key, value = dense(1, 3, 600, 2, 1, 64, dtype)
    value = torch.full_like(value, 1.5e38)
    call = call_of(kernel, query * 0, key, value, num_splits=num_splits)
    output, _, _ = kernel.operators.attention_forward(*call, False, False, dropout_p, SEED)
    kept = philox.kept(dropout_p, int(SEED), 0, 3, 2, 600).double()
    expected = (kept.mean(dim=2) * philox.factor(dropout_p) * value[0, 0, 0, 0].double()).unsqueeze(-1)
    expected = expected.expand(3, 2, 64)
    assert (expected < torch.finfo(dtype).max).all()
    torch.testing.assert_close(output[0].double(), expected, rtol=5e-6 if dtype == torch.float32 else 4.1e-3, atol=0)


def test_nan_reaches_its_row_alone(kernel, launcher):
    query, key, value = dense(1, 5, 40, 2, 2, 32, torch.float32)
    query[0, 3, 1] = torch.nan
    output = kernel.flash_attn_func(query, key, value, 0.5)
    assert output[0, 3, 1].isnan().all() and output.isnan().sum() == 32


def test_the_seed_is_no_part_of_a_plan(kernel):
    seen, structs = [], []

    def launcher(plan, given):
        seen.append(plan)
        structs.append(given["dropout"])

    call = call_of(kernel, *dense(1, 5, 1000, 2, 2, 32, torch.float32), num_splits=2)
    with kernel.launchers.use_launcher(launcher):
        for dropout_p, seed in [(0.5, 1), (0.25, -(2**63))]:
            kernel.operators.attention_forward(*call, False, False, dropout_p, torch.tensor([seed]))
    assert seen[0] is seen[2] and seen[1] is seen[3]
    assert [params.values() for params in structs] == [(1, 32768)] * 2 + [(-(2**63), 49152)] * 2


def test_the_generator_decides(kernel, launcher):
    query, key, value = dense(1, 5, 90, 2, 2, 32, torch.float32)

    def seeded(*dropout_p):
        torch.manual_seed(5)
        return kernel.flash_attn_func(query, key, value, *dropout_p)

    assert torch.equal(seeded(0.5), seeded(0.5))
    assert not torch.equal(seeded(0.5), kernel.flash_attn_func(query, key, value, 0.5))
    state = torch.get_rng_state()
    kernel.flash_attn_func(query, key, value, 0.0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoints_draw_the_same_again(kernel, use_reentrant):
    """The forward that a checkpoint repeats before the backward has the first one's seed."""
    query, key, value = dense(1, 5, 90, 2, 2, 32, torch.float32)
    seeds = []

    def launcher(plan, given):
        if "dropout" in plan.arguments:
            seeds.append(given["dropout"].values())

    with kernel.launchers.use_launcher(launcher):
        output = checkpoint(
            lambda query: kernel.flash_attn_func(query, key, value, 0.5).square(),  # whose backward is first
            query.requires_grad_(),
            use_reentrant=use_reentrant,
        )
        torch.rand(1)  # moves the generator on
        output.sum().backward()
    assert len(seeds) >= 2 and len(set(seeds)) == 1
