"""The shader headers, verb by verb. Level: simulation, with the checker on."""

from __future__ import annotations

import itertools
import pathlib
import struct

import numpy as np
import pytest
import torch
from metal_simulator import Library

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def library():
    return Library(HERE / "primitives.metal", include=[HERE.parents[1] / "flash_sdpa"])


def run(library, name, buffers, grid=(1, 1, 1), threads=(32, 1, 1), aligned=True, padded=False):
    constants = {"is_aligned": aligned, "is_padded": padded}
    constants |= dict.fromkeys(["is_packed", "is_paged", "has_seqused_k"], False)
    report = library.kernel(name, constants, build="check").launch(buffers, grid=grid, threads=threads, check=True)
    assert not report.findings, "\n".join(map(str, report.findings))


def packed(value):
    return struct.pack("<f" if isinstance(value, float) else "<i", value)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("loader", ["staged", "direct"])
@pytest.mark.parametrize("kernel, size", [("tile_products", 40), ("slice_products", 80)])
@pytest.mark.parametrize("missing, aligned", [(0, True), (0, False), (16, True), (3, False), (39, False)])
@pytest.mark.parametrize("count_a, count_b, sign", [(16, 24, 1.0), (11, 24, -1.0), (16, 17, 0.0), (1, 1, 1.0)])
@pytest.mark.parametrize("name, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_products(library, name, dtype, count_a, count_b, sign, missing, aligned, kernel, size, loader):
    columns = size - missing
    a, b = torch.randn(count_a, columns).to(dtype), torch.randn(count_b, columns).to(dtype)
    products, weighted = torch.full((count_a, 24), torch.nan), torch.full((count_a, columns), torch.nan)
    buffers = [a, b, products, weighted, packed(count_a), packed(count_b), packed(sign), packed(columns)]
    threads = (size // 40 * 32, 1, 1)
    run(library, f"{kernel}_{name}_{loader}", buffers, threads=threads, aligned=aligned, padded=missing > 0)
    expected = sign * a.double() @ b.double().T
    torch.testing.assert_close(products[:, :count_b].double(), expected, rtol=1e-5, atol=1e-5)
    if count_b == 24 or loader == "staged":  # rows of b that do not exist count as 0; direct loads repeat another,
        assert not products[:, count_b:].any()  # which is masked before the second product
        torch.testing.assert_close(weighted.double(), expected @ b.double(), rtol=1e-4, atol=1e-4)


HIDDEN = -3.40282347e38  # mask.h: kMaskedScore


@pytest.mark.parametrize("key_groups", [1, 2, 4])
@pytest.mark.parametrize("blocks", [1, 3, 8])
def test_groups_of_keys_are_merged(library, key_groups, blocks):
    rng = np.random.default_rng(blocks)
    scores = rng.normal(0, 20, (blocks, 8, 16)).astype(np.float32)
    scores[blocks // 2, 3] = HIDDEN  # hidden keys
    values = rng.normal(0, 1, (blocks, 8, 16)).astype(np.float32)
    output, lse = np.full((8, 16), np.nan, np.float32), np.full(8, np.nan, np.float32)
    buffers = [scores, values, output, lse, packed(blocks)]
    run(library, f"merged_groups_{key_groups}", buffers, threads=(32 * key_groups, 1, 1))
    exact = np.exp2(scores.astype(np.float64))
    total = exact.sum(axis=(0, 2))
    seen = total > 0
    expected = (exact * values).sum(axis=0) / np.where(seen, total, 1)[:, None]
    np.testing.assert_allclose(output, expected, atol=2e-6)
    np.testing.assert_allclose(lse[seen], np.log(total[seen]), rtol=2e-6)


def visible_keys(query_length, key_length, left, right, token):
    position = token + key_length - query_length
    return [key for key in range(key_length) if position - left <= key <= position + right]


def test_key_blocks_by_brute_force(library):
    cases = []
    for query_length, key_length in itertools.product(range(1, 10), range(12)):
        for left, right in itertools.product([0, 1, 4, 2**30], [0, 2, 2**30]):
            for first in range(query_length):
                for last in {first, query_length - 1}:
                    for block in (2, 8):
                        cases.append((query_length, key_length, left, right, first, last, block, 0, 1))
    results = np.full((len(cases), 6), -7, np.int32)
    run(library, "find_key_blocks", [np.array(cases, np.int32), results], grid=(len(cases), 1, 1), threads=(1, 1, 1))
    for case, (begin, end, full_begin, full_end, *part) in zip(cases, results.tolist()):
        *mask, first, last, block, _, _ = case
        seen = [set(visible_keys(*mask, token)) for token in range(first, last + 1)]
        blocks = range(begin, end, block)
        assert list(range(*part, block)) == list(blocks)
        assert begin % block == 0
        assert set().union(*seen) <= {key for key0 in blocks for key in range(key0, key0 + block)}, case
        edges = [key for keys in seen for key in keys]
        if edges:  # no block that nobody sees, at either end
            assert begin + block > min(edges) and end == max(edges) + 1, case
        for key0 in blocks:
            full = key0 >= full_begin and key0 + block <= full_end
            assert full == all(set(range(key0, key0 + block)) <= keys for keys in seen), case


@pytest.mark.parametrize("num_splits", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("key_length, left", [(100, 2**30), (100, 30), (1, 2**30), (0, 2**30)])
def test_splits_share_the_blocks(library, key_length, left, num_splits):
    """Each block of a tile falls to one split, and none has two blocks more than another but the last."""
    cases = [(9, key_length, left, 0, 2, 6, 8, split, num_splits) for split in range(num_splits)]
    results = np.full((num_splits, 6), -7, np.int32)
    run(library, "find_key_blocks", [np.array(cases, np.int32), results], grid=(num_splits, 1, 1), threads=(1, 1, 1))
    shares = [list(range(begin, end, 8)) for *_, begin, end in results.tolist()]
    begin, end = results[0, :2]
    assert sum(shares, []) == list(range(begin, end, 8))
    assert max(map(len, shares)) == -(-len(range(begin, end, 8)) // num_splits)


@pytest.mark.parametrize("heads_per_kv", [1, 3, 8])
@pytest.mark.parametrize("start, tail", [(0, 0), (5, 0), (70, 41)])
def test_packed_tiles_cover_every_row_once(library, heads_per_kv, start, tail):
    lengths_q, lengths_k = [0, 1, 33, 0, 0, 64, 31, 100, 0], [3, 0, 40, 0, 7, 64, 1, 20, 0]
    bounds_q = np.array([*itertools.accumulate(lengths_q, initial=start)], np.int32)
    bounds_k = np.array([*itertools.accumulate(lengths_k, initial=2)], np.int32)
    total_q, batch = int(bounds_q[-1]) + tail, len(lengths_q)
    tiles = total_q * heads_per_kv // 32 + batch + 2
    params = struct.pack("<29q", *[0] * 14, batch, total_q, int(bounds_k[-1]) + 9, 0, 0, heads_per_kv, *[0] * 9)
    results = np.full((tiles, 5), -7, np.int32)
    run(library, "find_packed_tiles", [params, bounds_q, bounds_k, results], grid=(tiles, 1, 1), threads=(1, 1, 1))
    keys = {int(q): (int(k0), int(k1 - k0)) for q, k0, k1 in zip(bounds_q, bounds_k, bounds_k[1:])}
    owner = np.zeros(total_q * heads_per_kv, int)
    surplus = 0
    for query_start, query_length, key_start, key_length, row0 in results.tolist():
        rows = range(row0, min(row0 + 32, query_length * heads_per_kv))
        surplus += not rows
        for row in rows:
            owner[query_start * heads_per_kv + row] += 1
        if rows and start <= query_start < bounds_q[-1]:
            assert (key_start, key_length) == keys[query_start]
        elif rows:  # tokens of no sequence
            assert key_length == 0
    assert (owner == 1).all()
    assert surplus <= batch + 2


def test_softmax_block_by_block(library):
    rng = np.random.default_rng(0)
    blocks, scale_log2 = 4, 0.3
    scores = rng.normal(0, 20, (blocks, 8, 16)).astype(np.float32)
    scores[1:3, 2] = HIDDEN  # hidden blocks
    scores[:, 5] = HIDDEN  # a row that sees nothing
    weights, rescales = np.full_like(scores, np.nan), np.full((blocks, 8), np.nan, np.float32)
    inverse, lse = np.full(8, np.nan, np.float32), np.full(8, np.nan, np.float32)
    run(library, "softmax_rows", [scores, weights, rescales, inverse, lse, packed(blocks), packed(scale_log2)])
    later = np.cumprod(rescales[::-1].astype(np.float64), axis=0)[::-1]  # factor from block b - 1 to the end
    factor = np.vstack([later[1:], np.ones((1, 8))])
    normalised = weights * (factor * inverse)[:, :, None]
    exact = np.exp2(scores.astype(np.float64) * scale_log2)
    total = exact.sum(axis=(0, 2))
    seen = total > 0
    np.testing.assert_allclose(normalised[:, seen], (exact / np.where(seen, total, 1)[:, None])[:, seen], atol=2e-6)
    np.testing.assert_allclose(lse[seen], np.log(total[seen]), rtol=2e-6)
    assert not seen[5] and inverse[5] == 0 and lse[5] == -np.inf and not normalised[:, 5].any()
