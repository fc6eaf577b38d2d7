"""The measurement of the simulator on public files counts what it says, and names what was lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import public_kernels
import pytest

HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"
CONSTANT = '#include "in/one.h"\nconstant float c [[function_constant(0)]];\n'
FIVE = [f"k{number}" for number in range(5)]
KERNEL = "kernel void {name}(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ x[i] = {value}; }}\n"


def kernel(name: str, value: str = "1") -> str:
    return KERNEL.format(name=name, value=value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "first/common/two.h": "#define TWO 2\n",
        "first/five/five.metal": HEAD + '#include "common/two.h"\n' + "".join(map(kernel, FIVE)),
        "first/include/in/one.h": "",
        "first/constant.metal": HEAD + CONSTANT + kernel("needs", "c"),
        "second/wrong.metal": HEAD + kernel("right") + kernel("wrong", "nothing"),
        "second/missing.metal": '#include "missing.h"\n' + HEAD + kernel("unknown"),
        "second/notes.txt": kernel("text"),
    }
    for name, text in files.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "files"


def command(*arguments) -> subprocess.CompletedProcess:
    tool = Path(public_kernels.__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": str(tool.parents[1] / "simulator")}
    words = [sys.executable, str(tool), *map(str, arguments)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_it_counts_and_compares(folder: Path, tmp_path: Path) -> None:
    better = {"second/wrong.metal": {"errors": [], "kernels": 0, "compiled": [], "refused": {}}}
    (tmp_path / "before.json").write_text(json.dumps(better))
    files = "--json", tmp_path / "now.json", "--before", tmp_path / "before.json"
    result = command(folder, "--kernels", 2, *files)
    lines = result.stdout.splitlines()
    rows = [line.split()[:-1] for line in lines[:4]]
    assert rows[0] == ["project", "files", "accepted", "kernels", "tried", "compiled"], result.stderr
    assert rows[1] == ["first", "2", "2", "6", "3", "3"]  # a constant without a value has compiled all the same
    assert rows[2][:3] == ["second", "2", "0"] and rows[3][:3] == ["all", "4", "2"]
    assert result.returncode == 1 and len(lines) == 5 and lines[4].startswith("second/wrong.metal: ")
    found = json.loads((tmp_path / "now.json").read_text())
    assert found["first/five/five.metal"]["compiled"] == ["k0", "k3"]
    assert "missing.h" in found["second/missing.metal"]["errors"][0]


def test_whatever_is_lost_is_named() -> None:
    good = {"errors": [], "kernels": 2, "compiled": ["a", "b"], "refused": {}}
    after = {
        "same": good,
        "refused": {**good, "errors": ["no"]},
        "fewer": {**good, "kernels": 1, "compiled": ["a"]},
        "broken": {**good, "compiled": ["a"], "refused": {"b": "CompileError: no"}},
        "new": good,
    }
    before = dict.fromkeys(("same", "refused", "fewer", "broken", "gone"), good)
    assert public_kernels.lost(before, after) == [
        "refused: no",
        "fewer: 1 kernels, 2 before",
        "fewer: b: not tried",
        "broken: b: CompileError: no",
        "gone: not measured",
    ]
    assert public_kernels.lost({"x": {**good, "errors": ["no"]}}, {"x": good}) == []


@pytest.mark.parametrize("arguments", [("--kernels", "0"), ("--kernels", "1")])
def test_nothing_to_measure_is_no_result(tmp_path: Path, arguments) -> None:
    (tmp_path / "empty").mkdir()
    result = command(tmp_path, *arguments)
    assert result.returncode == 2 and "need a positive number of kernels and .metal files" in result.stderr
