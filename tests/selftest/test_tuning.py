"""Tuned tiles: measured, stored for one machine, and believed only when they are what the tile table lists."""

from __future__ import annotations

import importlib
import json
import sys
import types
import warnings
from typing import NamedTuple

import pytest

CHIP = (9, 40)


class Tile(NamedTuple):
    head_dim: int
    value_dim: int
    block_m: int
    block_n: int
    simdgroups: int
    loader: str = "staged"


@pytest.fixture
def tuning(kernel, monkeypatch, tmp_path):
    """The module, with a tile table of its own and an empty cache folder."""

    def candidates(device, dtype, head_dim, value_dim):
        assert device == CHIP and str(dtype).startswith("torch.")
        return tuple(Tile(head_dim, value_dim, 32, block_n, 4) for block_n in (16, 32, 64))

    table = types.ModuleType("tiles")
    table.candidates = candidates
    monkeypatch.setitem(sys.modules, f"{kernel.__name__}.tiles", table)
    monkeypatch.setattr(kernel, "tiles", table, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    module = importlib.import_module(f"{kernel.__name__}.tuning")
    module._stored.cache_clear()
    yield module
    module._stored.cache_clear()


@pytest.fixture
def device(kernel):
    return kernel.launchers.Device(*CHIP)


def tuned(tuning, device):
    """Winners: blocks of 32 keys for f16, of 64 for others."""
    lines = []

    def measure(dtype, head_dim, value_dim):
        [(key, tile)] = tuning.winners(device).items()  # what the planner sees meanwhile
        assert key == (dtype, head_dim, value_dim)
        return abs(tile.block_n - (32 if dtype == "f16" else 64)) + 1.0

    found = tuning.tune(lines.append, device, measure)
    return found, lines


def test_the_winners_are_kept(tuning, device, tmp_path) -> None:
    assert tuning.winners(device) == {}
    found, lines = tuned(tuning, device)
    assert found["f16", 64, 64] == Tile(64, 64, 32, 32, 4) and found["bf16", 192, 128] == Tile(192, 128, 32, 64, 4)
    assert tuning.winners(device) == found and len(found) == 24
    tuning._stored.cache_clear()
    assert tuning.winners(device) == found  # from the file
    assert all(isinstance(tile, Tile) for tile in tuning.winners(device).values())
    assert [file.name for file in (tmp_path / "metal-flash-sdpa").iterdir()] == ["tiles.json"]
    assert "f16  head_dim  64 and  64: 17.000, 1.000, 33.000 ms; kept (64, 64, 32, 32, 4, 'staged')" in lines[1]


def test_without_a_file_there_is_no_warning(tuning, device) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuning.winners(device) == {}


def change(contents: dict, **changes) -> str:
    return json.dumps({**contents, **changes})


DAMAGES = {
    "empty": (lambda contents: "", "Expecting value"),
    "cut off": (lambda contents: json.dumps(contents)[:-20], "ignored"),
    "not ASCII": (lambda contents: "\xff", "ascii"),
    "a list": (lambda contents: "[]", "not a file of this version"),
    "another version": (lambda contents: change(contents, format=2), "not a file of this version"),
    "no device": (lambda contents: json.dumps({"format": 1, "tiles": []}), "device"),
    "another GPU": (lambda contents: change(contents, device=[7, 8]), r"of the GPU \[7, 8\], this one is \[9, 40\]"),
    "no tiles": (lambda contents: change(contents, tiles=None), "NoneType"),
    "a tile of another table": (
        lambda contents: change(contents, tiles=[["f16", 64, 64, [64, 64, 32, 48, 4, "staged"]]]),
        "no tile of the table",
    ),
    "another dtype": (lambda contents: change(contents, tiles=[["f64", 64, 64, []]]), "no shape that is tuned"),
    "another shape": (lambda contents: change(contents, tiles=[["f16", 63, 64, []]]), "no shape that is tuned"),
    "a shape of lists": (lambda contents: change(contents, tiles=[["f16", [], 64, []]]), "no shape that is tuned"),
    "a short row": (lambda contents: change(contents, tiles=[["f16"]]), "ignored"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_ignored(tuning, device, damage: str) -> None:
    tuned(tuning, device)
    damaged, message = DAMAGES[damage]
    file = tuning.path()
    file.write_text(damaged(json.loads(file.read_text())), encoding="latin-1")
    tuning._stored.cache_clear()
    with pytest.warns(UserWarning, match=message) as caught:
        assert tuning.winners(device) == {}
    assert str(file) in str(caught[0].message) and "tune again, or remove it" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuning.winners(device) == {}  # read, and said, once


def test_an_unreadable_file_is_ignored(tuning, device) -> None:
    tuning.path().mkdir(parents=True)
    with pytest.warns(UserWarning, match="directory"):
        assert tuning.winners(device) == {}


def test_plans_are_made_anew_while_tiles_are_tried(kernel, tuning, device) -> None:
    made = []
    planner = importlib.import_module(f"{kernel.__name__}.planner")
    tuning.tune(lambda line: None, device, lambda *key: made.append(planner._plan_forward.cache_info().currsize) or 1.0)
    assert set(made) == {0}


def test_a_tile_that_the_gpu_refuses_does_not_win(tuning, device) -> None:
    def measure(*key):
        [tile] = tuning.winners(device).values()
        if tile.block_n < 64:
            raise RuntimeError("too many registers")
        return 1.0

    found = tuning.tune(lambda line: None, device, measure)
    assert {tile.block_n for tile in found.values()} == {64}


def test_without_a_gpu(tuning, device) -> None:
    with pytest.raises(RuntimeError, match="no Apple GPU here: tiles can be timed on a Mac only"):
        tuning.tune(print, device)


def test_the_folder_on_a_mac(tuning, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert tuning.path().parts[-4:] == ("Library", "Caches", "metal-flash-sdpa", "tiles.json")
