"""Real models, tiny: with torch's function replaced, the same numbers; calls counted; undone without a trace."""

from __future__ import annotations

import pytest
import torch
from simulated_launcher import SimulatedLauncher

from . import zoo

OURS = "metal_flash_sdpa"
# By model: calls of torch's function in one forward.
CALLS = {
    zoo.flux: 2,
    zoo.stable_diffusion_3: 2,
    zoo.wan: 4,
    zoo.qwen_image: 2,
    zoo.unet: 8,
    zoo.pixart: 4,
    zoo.vit: 2,
    zoo.whisper: 3,
    zoo.t5: 6,
    zoo.sam: 2,
}


def forward_and_backward(model: torch.nn.Module, inputs: dict) -> list[torch.Tensor]:
    """The output and the gradients of all weights."""
    model.zero_grad()
    output = zoo.output_of(model, inputs)
    output.square().mean().backward()
    return [output.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)
def test_model(kernel, make):
    """On the CPU implementation with gradients, on the simulated kernels without."""
    model, inputs = zoo.made(make)
    expected = forward_and_backward(model, inputs)
    with kernel.replace_sdpa("cpu") as replacement:
        found = forward_and_backward(model, inputs)
        assert replacement.calls == {OURS: CALLS[make]}
        launcher = SimulatedLauncher()
        with kernel.launchers.use_launcher(launcher), torch.no_grad():
            simulated = zoo.output_of(model, inputs)
    assert replacement.calls == {OURS: 2 * CALLS[make]} and launcher.launches >= CALLS[make]
    assert len(found) == len(expected)
    for ours, theirs in zip((simulated, *found), (expected[0], *expected)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * (1 + float(theirs.abs().max())))
    for again, before in zip(forward_and_backward(model, inputs), expected):
        assert torch.equal(again, before)
    assert replacement.calls == {OURS: 2 * CALLS[make]}


@pytest.mark.parametrize("make", [zoo.unet, zoo.whisper], ids=lambda make: make.__name__)
def test_half_precision_under_autocast(kernel, make):
    model, inputs = zoo.made(make)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = zoo.output_of(model, inputs)
        with kernel.replace_sdpa("cpu") as replacement:
            found = zoo.output_of(model, inputs)
    assert replacement.calls == {OURS: CALLS[make]}
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
