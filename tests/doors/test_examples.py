"""The examples of the doors run, and print that the results agree."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers.models import attention_dispatch
from transformers import modeling_flash_attention_utils as flash_attention

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def local(build, monkeypatch):
    """The examples' repository name leads to the build."""
    monkeypatch.setenv("LOCAL_KERNELS", f"org/metal-flash-sdpa={build}")
    monkeypatch.setattr(flash_attention, "_loaded_implementation", None)
    backends = attention_dispatch._AttentionBackendRegistry  # set_attention_backend also sets that of all other models
    monkeypatch.setattr(backends, "_active_backend", backends._active_backend)


def lines_of(name: str, monkeypatch, capsys) -> list[str]:
    """What the example prints, as a command does."""
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.syspath_prepend(EXAMPLES)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "name, bound",
    [("replace_sdpa", 2e-5), ("flash_attn_2", 1e-6), ("diffusers_backend", 0.02), ("varlen_attn", 5e-6)],
)
def test_results_agree(kernel, monkeypatch, capsys, name, bound):
    lines = lines_of(name, monkeypatch, capsys)
    assert 0 <= float(re.match(r"apart (\S+)", lines[-1])[1]) <= bound
    if name == "replace_sdpa":
        assert lines[-2] == "calls {'metal_flash_sdpa': 2}"


@pytest.mark.parametrize("name, count", [("continuous_batching", 3), ("assisted_decoding", 1)])
def test_tokens_agree(kernel, monkeypatch, capsys, name, count):
    found = re.findall(r"\[[\d, ]+\]", "\n".join(lines_of(name, monkeypatch, capsys)))
    assert len(found) == 2 * count and all(ours == alone for ours, alone in zip(found[::2], found[1::2]))


@pytest.mark.parametrize("processes", [2, 4])
def test_ring_attention(build, processes):
    """Forward and gradients of every process."""
    environment = {**os.environ, "LOCAL_KERNELS": f"org/metal-flash-sdpa={build}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, EXAMPLES / "ring_attention.py", "--processes", str(processes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.findall(r"process (\d) (output|grad_\w+?) (\d\.\de-\d\d)", done.stdout)
    assert len({(rank, name) for rank, name, _ in found}) == 4 * processes, done.stdout + done.stderr
    assert max(float(error) for _, _, error in found) <= 1e-5
