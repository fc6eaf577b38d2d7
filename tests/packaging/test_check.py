"""`make check` fails on a shader that Metal would reject."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from check import SHADERS, check


def test_the_shaders_are_accepted(capsys: pytest.CaptureFixture) -> None:
    count = check(SHADERS)
    printed = capsys.readouterr().out
    assert count == 0, printed
    assert "[front end] attention_forward.metal: no diagnostics\n" in printed


def test_a_mistake_in_a_header_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "flash_sdpa"
    others = shutil.ignore_patterns("attention_*.metal")  # one shader that includes it is enough
    shutil.copytree(SHADERS, folder, ignore=others)
    lines = (folder / "tile.h").read_text().splitlines()
    (folder / "tile.h").write_text(
        "\n".join([*lines, "inline float read(float* unknown_space) { return nothing; }", ""])
    )
    assert check(folder) > 0
    assert f"tile.h:{len(lines) + 1}:" in capsys.readouterr().out


def test_an_empty_folder_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.metal file"):
        check(tmp_path)
