"""The examples train: the same losses on the CPU implementation and with attention on the simulated kernels."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from simulated_launcher import SimulatedLauncher
from transformers import modeling_flash_attention_utils as flash_attention

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20


@pytest.fixture
def loaded(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The examples' repository name leads to the build; they are run beside their models, as commands are."""
    monkeypatch.setenv("LOCAL_KERNELS", f"org/metal-flash-sdpa={Path(kernel.__file__).parent.parent}")
    monkeypatch.setattr(flash_attention, "_loaded_implementation", None)
    monkeypatch.syspath_prepend(ROOT / "examples")
    return kernel


def lora() -> list[float]:
    example = runpy.run_path(str(ROOT / "examples" / "lora.py"))
    model, _ = example["load"]()
    model = example["with_adapters"](model)
    tokens = torch.tensor(list((ROOT / "examples" / "lora.py").read_bytes()))
    return list(example["train"](model, tokens, STEPS))


def packed_sft() -> list[float]:
    example = runpy.run_path(str(ROOT / "examples" / "packed_sft.py"))
    model, encode = example["load"]()
    conversations = example["conversations"](encode, 64)
    return list(example["train"](model, conversations, STEPS))


@pytest.mark.parametrize("losses_of", [lora, packed_sft])
def test_simulated_losses_are_those_of_the_cpu(loaded: ModuleType, losses_of) -> None:
    expected = losses_of()
    assert len(expected) == STEPS and expected[-1] < expected[0] - 0.1
    launcher = SimulatedLauncher()
    with loaded.launchers.use_launcher(launcher):
        losses = losses_of()
    assert launcher.launches > 2 * 2 * STEPS  # two layers, forward and backward
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lora", "packed_sft"])
def test_as_a_command(kernel: ModuleType, name: str) -> None:
    build = Path(kernel.__file__).parent.parent
    environment = {**os.environ, "LOCAL_KERNELS": f"org/metal-flash-sdpa={build}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--steps", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["step", "0"], ["step", "1"]]
