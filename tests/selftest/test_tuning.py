"""Tuned tiles: measured, stored for one machine, and believed only when they are what the tile table lists."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import warnings

import pytest
import torch
from cases import call_of

# Each test has a GPU of its own: what was read of a GPU's tiles, and planned for it, is kept.
CORES = itertools.count(1001)


@pytest.fixture
def device(kernel):
    return kernel.device.Device(7, next(CORES))


@pytest.fixture
def tiles(kernel, monkeypatch, tmp_path):
    """The table of tiles, with an empty cache folder."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return kernel.planning.tiles


@pytest.fixture
def tune(kernel, tiles):
    return importlib.import_module(f"{kernel.__name__}.selftest.tuning").tune


def planned(kernel, device, dtype, head_dim=64, value_dim=64):
    """The kernel that a prefill is planned with."""
    query = torch.empty(1, 100, 1, head_dim, dtype=dtype, device="meta")
    value = query.new_empty(1, 100, 1, value_dim)
    launches = kernel.planner.plan_forward(device, value, None, call_of(kernel, query, query, value)).launches
    return launches[0].kernel


def last_wins(kernel, tiles, device):
    """A measurement by which the last candidate is the fastest, of what plans are made with meanwhile."""

    def measure(trial, dtype, head_dim, value_dim):
        candidates = tiles.candidates(device, dtype, head_dim, value_dim)
        index = candidates.index(trial.preferred)
        assert planned(kernel, trial, dtype, head_dim, value_dim) == candidates[index].kernel(dtype)
        return float(len(candidates) - index)

    return measure


def test_the_winners_are_kept_and_planned_with(kernel, tiles, tune, device, tmp_path) -> None:
    lines, other = [], kernel.device.Device(7, next(CORES))
    found = tune(lines.append, device, last_wins(kernel, tiles, device))
    assert len(found) == 3 * len(tiles.SHAPES) and len(lines) == len(found) + 1
    for dtype, name in kernel.call.DTYPES.items():
        for shape in tiles.SHAPES:
            assert found[(name, *shape)] == tiles.candidates(device, dtype, *shape)[-1]
            assert planned(kernel, device, dtype, *shape) == found[(name, *shape)].kernel(dtype)  # from the file
    assert [file.name for file in (tmp_path / "metal-flash-sdpa").iterdir()] == ["tiles.json"]
    times = ", ".join(f"{n}.000" for n in range(len(tiles.candidates(device, torch.float16, 64, 64)), 0, -1))
    assert f"  f16  head_dim  64 and  64: {times} ms; kept {found['f16', 64, 64].kernel(torch.float16)}" in lines
    with pytest.warns(UserWarning, match="of the GPU"):
        assert planned(kernel, other, torch.float16) != found["f16", 64, 64].kernel(torch.float16)


def test_plans_before_and_after_a_trial_are_the_same(kernel, tiles, tune, device) -> None:
    before = planned(kernel, device, torch.float16)
    tune(lambda line: None, device, last_wins(kernel, tiles, device))
    assert planned(kernel, device, torch.float16) == before


def test_without_a_file_there_is_no_warning(kernel, tiles, device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned(kernel, device, torch.float16)


def change(contents: dict, **changes) -> str:
    return json.dumps({**contents, **changes})


DAMAGES = {
    "empty": (lambda contents: "", "Expecting value"),
    "cut off": (lambda contents: json.dumps(contents)[:-20], "ignored"),
    "not ASCII": (lambda contents: "\xff", "ascii"),
    "a list": (lambda contents: "[]", "not a file of this version"),
    "another version": (lambda contents: change(contents, format=1), "not a file of this version"),
    "no device": (lambda contents: json.dumps({"format": 3, "tiles": []}), "device"),
    "another GPU": (lambda contents: change(contents, device=[9, 8]), r"of the GPU \[9, 8\], this one is \[7, 1"),
    "a number": (lambda contents: change(contents, device=7), "of the GPU 7"),
    "no tiles": (lambda contents: change(contents, tiles=None), "NoneType"),
    "a tile of another table": (
        lambda contents: change(contents, tiles=[["f16", 64, 64, [64, 64, 48, 8, 1, 1, "staged"]]]),
        "no tile of the table",
    ),
    "an unknown loader": (
        lambda contents: change(contents, tiles=[["f16", 64, 64, [64, 64, 32, 8, 1, 1, "matrix"]]]),
        "no tile of the table",
    ),
    "a tile that is no list": (lambda contents: change(contents, tiles=[["f16", 64, 64, 3]]), "no tile of the table"),
    "another dtype": (lambda contents: change(contents, tiles=[["f64", 64, 64, []]]), "no shape that is tuned"),
    "another shape": (lambda contents: change(contents, tiles=[["f16", 63, 64, []]]), "no shape that is tuned"),
    "a shape of lists": (lambda contents: change(contents, tiles=[["f16", [], 64, []]]), "no shape that is tuned"),
    "a dtype of lists": (lambda contents: change(contents, tiles=[[[], 64, 64, []]]), "no shape that is tuned"),
    "a short row": (lambda contents: change(contents, tiles=[["f16"]]), "ignored"),
    "an empty row": (lambda contents: change(contents, tiles=[[]]), "ignored"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_ignored(kernel, tiles, tune, device, damage: str) -> None:
    untuned = planned(kernel, kernel.device.Device(7, next(CORES)), torch.float16)
    tune(lambda line: None, device, last_wins(kernel, tiles, device))
    damaged, message = DAMAGES[damage]
    file = tiles.tuned.path()
    file.write_text(damaged(json.loads(file.read_text())), encoding="latin-1")
    with pytest.warns(UserWarning, match=message) as caught:
        assert planned(kernel, device, torch.float16) == untuned
    assert str(file) in str(caught[0].message) and "tune again, or remove it" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planned(kernel, device, torch.float16, 72)  # read, and said, once


def test_an_unreadable_file_is_ignored(kernel, tiles, device) -> None:
    tiles.tuned.path().mkdir(parents=True)
    with pytest.warns(UserWarning, match="directory"):
        planned(kernel, device, torch.float16)


def test_a_tile_that_the_gpu_refuses_does_not_win(tiles, tune, device) -> None:
    def measure(trial, dtype, head_dim, value_dim):
        if trial.preferred != tiles.candidates(device, dtype, head_dim, value_dim)[1]:
            raise RuntimeError("too many registers")
        return 1.0

    found = tune(lambda line: None, device, measure)
    assert found["f16", 64, 64] == tiles.candidates(device, torch.float16, 64, 64)[1]


def test_without_a_gpu(tune, device) -> None:
    with pytest.raises(RuntimeError, match="no Apple GPU here: tiles can be timed on a Mac only"):
        tune(print, device)


def test_the_folder_on_a_mac(tiles, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tiles.tuned.path().parts[-4:] == ("Library", "Caches", "metal-flash-sdpa", "tiles.json")
