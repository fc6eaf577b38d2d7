"""transformers' classes that list the implementations they accept: each listed name can lead to this kernel."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import modeling_flash_attention_utils as flash_attention

# What transformers loads for a name that is no repository.
REPOSITORIES = {"flash_attention_4": "kernels-community/flash-attn4"}
COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
# By class: its settings beside the common ones. docs/models.md has this list.
CLASSES = {
    "GptOss": {**EXPERTS, "head_dim": 8, "sliding_window": 6},
    "OpenAIPrivacyFilter": {**EXPERTS, "head_dim": 8},
    "GraniteSWA": {},
    "GraniteMoeSWA": EXPERTS,
    "Flint": {"head_dim": 8},
    "MiMoV2Flash": {
        "head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 16, "n_routed_experts": 2, "num_experts_per_tok": 1
    },
}  # fmt: skip
ELSEWHERE = {"MiniMaxAI/msa"}  # kernels of other functions
NAMES = [
    (name, listed)
    for name in CLASSES
    for listed in getattr(transformers, f"{name}Model")._compatible_flash_implementations
]


def made(name: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **CLASSES[name])
    return getattr(transformers, f"{name}Model")(config).eval()


@pytest.mark.parametrize("name, listed", NAMES, ids=[f"{name}-{listed}" for name, listed in NAMES])
def test_a_listed_name_leads_to_this_kernel(kernel, build, monkeypatch, name, listed):
    repository = REPOSITORIES.get(listed, listed)
    monkeypatch.setenv("LOCAL_KERNELS", f"{repository}={build}")
    monkeypatch.setattr(flash_attention, "_loaded_implementation", None)
    calls, function = [], kernel.flash_attn_func
    monkeypatch.setattr(kernel, "flash_attn_func", lambda *a, **k: calls.append(k) or function(*a, **k))
    model, ids = made(name), torch.arange(2, 22)[None]
    with torch.no_grad():
        expected = model(ids)[0]
        model.set_attn_implementation(listed, allow_all_kernels=True)
        output = model(ids)[0]
    assert model.config._attn_implementation == repository and len(calls) == 2
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_the_list_is_complete():
    """Of the classes of this transformers, by their source."""
    import re
    from pathlib import Path

    folder = Path(transformers.__file__).parent / "models"
    found = set()
    for path in folder.glob("*/modeling_*.py"):
        for listed in re.findall(r"_compatible_flash_implementations = \[([^\]]*)\]", path.read_text(encoding="utf-8")):
            names = set(re.findall(r'"([^"]+)"', listed))
            if not names <= ELSEWHERE:
                found.add(path.parent.name.replace("_", ""))
    assert found == {name.lower() for name in CLASSES}
