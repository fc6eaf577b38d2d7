"""dropout.h: the generator's published answers, and which weights are kept. Level: simulation, with the checker on."""

from __future__ import annotations

import pathlib
import struct

import philox
import pytest
import torch
from metal_simulator import Library

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def library():
    return Library(HERE / "dropout.metal", include=[HERE.parents[1] / "flash_sdpa"])


def run(library, name, buffers, **sizes):
    constants = dict.fromkeys(("is_aligned", "is_padded", "is_packed", "is_paged", "has_seqused_k"), False)
    report = library.kernel(name, constants, build="check").launch(buffers, check=True, **sizes)
    assert not report.findings, "\n".join(map(str, report.findings))


@pytest.mark.parametrize("rounds", [7, 10])
def test_known_answers(library, rounds):
    cases = [case[1:] for case in philox.KNOWN_ANSWERS if case[0] == rounds]
    assert len(cases) == 3 and [philox.philox(rounds, *case[:2]) for case in cases] == [case[2] for case in cases]
    counters, keys, expected = (torch.tensor(column).to(torch.uint32) for column in zip(*cases))
    result = torch.zeros_like(expected)
    run(library, f"numbers_{rounds}", [counters, keys, result], grid=(1, 1, 1), threads=(3, 1, 1))
    assert torch.equal(result, expected)


@pytest.mark.parametrize("keys", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.99999])
@pytest.mark.parametrize("seed", [0, 2**63 - 1, -(2**40) - 7])
def test_kept_weights(library, keys, dropout_p, seed):
    """Of the rows 4 to 19 of 18, three query heads a token; every block of 256 keys."""
    sequence, first_head, heads_per_kv, rows, row0 = 3, 6, 3, 18, 4
    result = torch.full((256 // keys, 16, keys), torch.nan)
    params = struct.pack("<2q", seed, philox.threshold(dropout_p))
    place = struct.pack("<4i", sequence, first_head, heads_per_kv, rows)
    buffers = [params, place, struct.pack("<i", row0), result]
    run(library, f"kept_{keys}", buffers, grid=(256 // keys, 1, 1), threads=(32, 1, 1))
    kept = philox.kept(dropout_p, seed, sequence, 6, 9, 256)[:, first_head:].reshape(rows, 256)[row0:]
    found = result.transpose(0, 1).reshape(16, 256)
    assert torch.equal(found[: rows - row0], kept * torch.tensor(philox.factor(dropout_p)))
