"""Generation after long prompts on the simulated kernels: the keys of a step are divided among threadgroups."""

from __future__ import annotations

import pytest
import torch
from simulated_launcher import SimulatedLauncher
from transformers import PreTrainedModel

from .instrument import Instrument
from .situations import tokens
from .table import TOLERANCE, difference, with_kernel
from .zoo import LAYERS, MODELS, eager

PROMPT = 2500  # enough keys for several threadgroups
STEPS = 3


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "gpt-oss", "DeepSeek"])
def test_keys_are_divided(name: str, instrument: Instrument) -> None:
    """The prompt goes through the CPU implementation, the steps after it through the kernels."""
    prompt, steps = tokens(1, PROMPT + STEPS).split((PROMPT, STEPS), 1)
    launcher = SimulatedLauncher(check=True)

    def decode(model: PreTrainedModel) -> torch.Tensor:
        instrument.launcher = None
        cache = model(prompt, logits_to_keep=1).past_key_values
        instrument.reset()
        instrument.launcher = launcher
        return torch.cat([model(step, past_key_values=cache).logits for step in steps.split(1, 1)], 1)

    with torch.inference_mode():
        expected = decode(eager(MODELS[name]))
        ours = decode(with_kernel(MODELS[name]))
    assert instrument.calls.total() == STEPS * LAYERS
    assert launcher.launches > instrument.calls.total()
    assert difference(ours, expected) <= TOLERANCE
