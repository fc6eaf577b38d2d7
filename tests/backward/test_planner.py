"""The planner of the backward pass: what it promises of memory, of launches and of itself. Nothing runs here."""

from __future__ import annotations

import importlib
import itertools
import math
import pathlib
import re
import time

import pytest
import torch
from cases import call_of
from simulated_launcher import library

from .problem import planner

KERNELS = pathlib.Path(__file__).resolve().parents[2] / "flash_sdpa"


@pytest.fixture(scope="session")
def tiles(kernel):
    return importlib.import_module(f"{kernel.__name__}.planning.backward_tiles")


def meta(*shape, dtype=torch.float16):
    return torch.empty(*shape, dtype=dtype, device="meta")


def chain_of(
    kernel,
    query_length=4096,
    key_length=None,
    heads=(32, 8),
    head_dim=128,
    value_dim=None,
    *,
    packed=0,
    keys=True,
    cores=8,
    family=7,
    matrix_unit=False,
    dtype=torch.float16,
    **fields,
):
    """The chain of a call; packed: how many sequences lie end to end."""
    key_length, value_dim = key_length or query_length, value_dim or head_dim
    lead = () if packed else (1,)
    query = meta(*lead, query_length, heads[0], head_dim, dtype=dtype)
    key, value = (meta(*lead, key_length, heads[1], size, dtype=dtype) for size in (head_dim, value_dim))
    output = meta(*lead, query_length, heads[0], value_dim, dtype=dtype)
    if packed:
        fields |= dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), meta(packed + 1, dtype=torch.int32))
    call = call_of(kernel, query, key, value, **fields)
    grads = query, key if keys else None, value if keys else None
    device = kernel.device.Device(family, cores, matrix_unit=matrix_unit)
    return planner(kernel).plan_backward(device, call, output, output, None, grads, False)


def chunks_of(kernel, chain):
    """(plan, ChunkParams) of every launch but the terms."""
    params = kernel.planning.plan.ChunkParams
    return [(plan, params(*plan.arguments[0].values())) for plan in list(chain.launches)[1:]]


def test_planned_kernels_are_the_kernels_that_exist(kernel, tiles):
    planned = {f"attention_backward_{name}.metal": set() for name in ("terms", "queries", "keys", "unit")}
    sizes = [*tiles.SHAPES, (8, 8), (256, 8), (8, 256), (160, 160)]
    devices = [{"family": family} for family in kernel.device.FAMILIES] + [{"family": 10, "matrix_unit": True}]
    for dtype, (head_dim, value_dim), device in itertools.product(kernel.call.DTYPES, sizes, devices):
        for plan in chain_of(kernel, 64, None, (1, 1), head_dim, value_dim, dtype=dtype, **device).launches:
            planned[plan.source].add(plan.kernel)
            assert ("unit" in plan.source) == ("unit" in plan.kernel)
    for source, names in planned.items():
        assert names == set(library(KERNELS / source).kernels)


def test_the_matrix_unit_is_for_16_bit_types_where_it_is_usable(kernel):
    for dtype, matrix_unit in itertools.product(kernel.call.DTYPES, (True, False)):
        chain = chain_of(kernel, 64, dtype=dtype, family=10, matrix_unit=matrix_unit)
        uses = {"unit" in plan.source for plan in list(chain.launches)[1:]}
        assert uses == {matrix_unit and dtype != torch.float32}


def test_unit_tiles_are_whole_products(kernel, tiles):
    """Of 16 rows x 32 keys or columns; padded shapes take a larger row, and no other table has one."""
    for queries, keys in tiles.UNIT_16:
        assert queries[:2] == keys[:2] and queries.block_m == keys.tile_rows and keys.tile_rows % keys.block_m == 0
        assert queries.rows == keys.block_m == 16 and queries.block_n == tiles.STORED_KEYS
        columns = {*(size // queries.slices for size in queries[:2]), keys.columns}
        assert not any(column % 32 for column in columns)
        assert max(queries.simdgroups, keys.simdgroups) * 32 <= 1024
        assert planner(kernel).CHUNK_KEYS % keys.block_n == 0
    for row in tiles.TABLES[9][torch.float16]:
        assert any(
            row.queries.head_dim <= own.head_dim and row.queries.value_dim <= own.value_dim for own, _ in tiles.UNIT_16
        )
    assert not any(tile.rows == 16 for tile, _ in tiles.QUERIES_KERNELS.values())


def test_every_table_has_every_shape_and_fits(kernel, tiles):
    for family in tiles.TABLES.values():
        assert set(family) == set(kernel.call.DTYPES)
        for table in family.values():
            assert tuple(row.queries[:2] for row in table) == tiles.SHAPES
            for queries, keys in table:
                assert queries[:2] == keys[:2] and queries.block_m == keys.tile_rows
                assert max(queries.simdgroups, keys.simdgroups) * 32 <= 1024
                assert planner(kernel).CHUNK_KEYS % keys.block_n == 0


def test_no_kernel_for_what_is_larger(kernel):
    with pytest.raises(NotImplementedError, match="head_dim 264 and value head_dim 64 .* up to 256"):
        chain_of(kernel, 64, head_dim=264, value_dim=64)


def test_parameters_are_the_kernels(kernel):
    text = (KERNELS / "params.h").read_text()
    for name in ("BackwardParams", "ChunkParams"):
        [body] = re.findall(rf"struct {name} {{\n(.*?)\n}};", text, re.DOTALL)
        fields = re.findall(r"(\w+)(?=[,;])", re.sub(r"//.*", "", body))
        assert fields == list(getattr(kernel.planning.plan, name)._fields)


def test_constants_of_the_metal_text(kernel, tiles):
    found = {}
    for name in ("kStoredKeys", "kTokens", "kThreads"):
        for file in ("stored_weights.h", "attention_backward_terms.metal"):
            found |= dict(re.findall(rf"constant constexpr int ({name}) = (\d+);", (KERNELS / file).read_text()))
    tokens, threads = planner(kernel).TERMS_TOKENS, planner(kernel).TERMS_THREADS
    assert found == {"kStoredKeys": str(tiles.STORED_KEYS), "kTokens": str(tokens), "kThreads": str(threads)}
    rows = re.search(r"loader == Loader::staged \? kFragment : (\d+);", (KERNELS / "stored_weights.h").read_text())
    assert rows.group(1) == str(tiles.UNIT_16[0].queries.rows)


@pytest.mark.parametrize("cores", [8, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (1000, 0), (9000, 9000)])
@pytest.mark.parametrize("length", [1, 77, 1000, 4096, 20_000, 65_536, 262_144])
@pytest.mark.parametrize("packed", [0, 1, 100])
def test_scratch_is_bounded(kernel, packed, length, window, dtype, cores):
    """Stored weights by SCRATCH_BYTES a core; sums by what the longest sequence has of one key/value head."""
    fields = {"window_left": window[0], "window_right": window[1], "max_seqlen_k": -(-length // max(1, packed))}
    chain = chain_of(kernel, length, packed=packed, cores=cores, dtype=dtype, **fields)
    bytes_of = {scratch.name: 4 * math.prod(scratch.shape) for scratch in chain.scratch}
    assert bytes_of["weights"] <= planner(kernel).SCRATCH_BYTES * cores
    assert bytes_of.get("query_sums", 0) <= planner(kernel).SCRATCH_BYTES * cores / 8
    assert bytes_of.get("key_sums", 0) <= 2 * 4 * 256 * (fields["max_seqlen_k"] + 128)


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("shape", [(4096, 4096), (262_144, 262_144), (77, 500_000), (2_000_000, 77), (1, 1)])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_no_launch_takes_too_long(kernel, shape, head_dim, keys):
    """By the bound of the forward's launches: each threadgroup's pairs, as if no mask hid any."""
    for plan, chunk in chunks_of(kernel, chain_of(kernel, *shape, (8, 2), head_dim, keys=keys)):
        if "queries" in plan.kernel:
            block_m = 8 * int(re.search(r"_g(\d+)x", plan.kernel).group(1))
            keys_of_chunk = min(shape[1], chunk.end_key) - chunk.first_key
            rounds = -(-plan.grid[0] * plan.grid[1] // 8)
            assert rounds * block_m * keys_of_chunk * 3 * head_dim <= kernel.device.LAUNCH_WORK


@pytest.mark.parametrize("packed", [0, 5])
@pytest.mark.parametrize("heads", [(8, 8), (12, 4), (3, 3), (1, 1)])
def test_chunks_meet_everything_once(kernel, packed, heads, monkeypatch):
    backward = planner(kernel)
    monkeypatch.setattr(backward, "CHUNK_KEYS", 256)
    for scratch in (1, 10**6, 10**7, 10**9):
        monkeypatch.setattr(backward, "SCRATCH_BYTES", scratch)
        backward._plan_backward.cache_clear()
        chain = chain_of(kernel, 1000, heads=heads, packed=packed, cores=1, max_seqlen_k=700)
        launches = chunks_of(kernel, chain)
        tiles = max(chunk.first_tile + plan.grid[1] for plan, chunk in launches[::2])
        seen = set()
        for (queries, chunk), (keys, same) in zip(launches[::2], launches[1::2]):
            assert chunk == same and queries.grid[0] == keys.grid[0]
            end = min(chunk.end_tile, tiles)
            assert end - chunk.first_tile == queries.grid[1]
            head = range(chunk.first_head, chunk.first_head + queries.grid[0])
            cells = set(itertools.product(head, range(chunk.first_tile, end), range(chunk.first_key, 768, 256)[:1]))
            assert not cells & seen
            seen |= cells
        assert len(seen) == heads[1] * tiles * 3
        assert {chunk.end_tile for _, chunk in launches} & {2**30} and {c.end_key for _, c in launches} & {2**30}
    backward._plan_backward.cache_clear()


def test_a_long_chain_is_small(kernel):
    chain = chain_of(kernel, 262_144)
    assert chain is chain_of(kernel, 262_144) and len(repr(chain)) < 10_000
    started = time.perf_counter()
    count = sum(1 for _ in chain.launches)
    assert count > 10_000 and chain.launches == chain.launches
    assert (time.perf_counter() - started) / count < 100e-6  # 4 measured
    assert len(list(chain.launches)) == count


def test_what_nobody_wants_is_not_launched(kernel):
    chain = chain_of(kernel, keys=False)
    assert [plan.kernel.split("_f16")[0] for plan in chain.launches] == [
        "attention_backward_terms",
        "attention_backward_queries",
    ]
    assert [scratch.name for scratch in chain.scratch] == ["row_terms"]
