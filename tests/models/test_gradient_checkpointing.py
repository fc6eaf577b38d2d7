"""Models train with gradient checkpointing as transformers turns it on: the same gradients as without."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from .zoo import MODELS, VOCABULARY, create


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "gpt-oss"])
def test_the_gradients_of_a_model(loaded: ModuleType, name: str, reentrant: bool | None) -> None:
    inputs = torch.randint(VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(0))

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = create(MODELS[name], MODELS[name].repository).train()
        if checkpointing:
            model.gradient_checkpointing_enable(None if reentrant is None else {"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        model(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    ours, expected = gradients(True), gradients(False)
    assert len(ours) == len(expected) > 10
    torch.testing.assert_close(ours, expected)
