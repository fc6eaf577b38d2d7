"""The hashes that tell whether two commits compute the same bits."""

from __future__ import annotations

import pathlib
import subprocess
import sys

SUPPORT = pathlib.Path(__file__).parent / "support"
TEST = """
import types, torch
from simulated_launcher import SimulatedLauncher
import simulated_launcher

def test_launches(monkeypatch):
    monkeypatch.setattr(simulated_launcher, "_compiled", lambda *_: types.SimpleNamespace(
        launch=lambda *_, **__: types.SimpleNamespace(findings=[])))
    plan = types.SimpleNamespace(source="s", kernel="k", constants=(), grid=(1,), threads=(1,), buffers=lambda _: [])
    for number, dtype in enumerate((torch.float32, torch.bfloat16)):
        plan.arguments = ("query", None, "output", "lse")
        output = torch.full((4, 6), 1.5, dtype=dtype)[:, ::2]
        tensors = {"query": torch.empty(1), "output": output, "lse": torch.zeros(3)}
        output[3, number] += OFFSET
        SimulatedLauncher()(plan, tensors)
"""


def hashes(folder: pathlib.Path, name: str, offset: float, *options: str) -> pathlib.Path:
    (folder / "test_it.py").write_text(f"OFFSET = {offset}\n{TEST}")
    found = folder / f"{name}.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "output_hashes", "--output-hashes", str(found), *options]
    path = ":".join((*sys.path, str(SUPPORT)))
    subprocess.run([*command, "test_it.py"], cwd=folder, check=True, env={"PYTHONPATH": path}, capture_output=True)
    return found


def compared(old: pathlib.Path, new: pathlib.Path) -> tuple:
    command = [sys.executable, str(SUPPORT / "output_hashes.py"), str(old), str(new)]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.returncode, run.stdout.splitlines()


def test_equal_and_different_bits(tmp_path):
    one, in_workers = hashes(tmp_path, "one", 0), hashes(tmp_path, "in_workers", 0, "-n", "1")
    assert compared(one, in_workers) == (0, ["2 launches are equal, 0 not"])
    (tmp_path / "none.json").write_text("{}")
    for other in (hashes(tmp_path, "other", 0.5), tmp_path / "none.json"):
        status, [first, second, last] = compared(one, other)
        assert status == 1 and last == "0 launches are equal, 2 not"
        assert first.startswith("test_it.py::test_launches 0: ") and second.startswith("test_it.py::test_launches 1: ")
        assert first.endswith(", None") == (other.name == "none.json")
