"""transformers' classes that list the implementations they accept: each listed name can lead to this kernel."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from transformers import modeling_flash_attention_utils as flash_attention

from . import zoo

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


def bart() -> transformers.BartModel:
    sizes = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = transformers.BartConfig(vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, **sizes)
    return transformers.BartModel(config)


IDS, MASK = torch.arange(3, 13).repeat(2, 1), torch.ones(2, 10, dtype=torch.long)
MASK[1, 6:] = 0
BLOOM = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
IGNORED, WRONG = "ignored", "wrong numbers"
# What docs/models.md says of classes: how to make one, its inputs.
PASSED_OVER = {
    "Bloom": (IGNORED, lambda: transformers.BloomModel(BLOOM), {"input_ids": IDS}),
    "SAM": (IGNORED, lambda: zoo.sam()[0], zoo.sam()[1]),
    "T5": (WRONG, lambda: zoo.t5()[0], zoo.t5()[1]),
    "BART": (WRONG, bart, {"input_ids": IDS, "decoder_input_ids": IDS, "attention_mask": MASK}),
    "BART without padding": (None, bart, {"input_ids": IDS, "decoder_input_ids": IDS}),
}


@pytest.mark.parametrize("name", PASSED_OVER)
def test_classes_that_pass_a_hub_kernel_over(kernel, build, monkeypatch, name):
    """If one of these fails, transformers has changed, and so must docs/models.md."""
    monkeypatch.setenv("LOCAL_KERNELS", f"org/metal-flash-sdpa={build}")
    monkeypatch.setattr(flash_attention, "_loaded_implementation", None)
    calls = []
    for function in ("flash_attn_func", "flash_attn_varlen_func"):
        original = getattr(kernel, function)

        @functools.wraps(original)
        def counted(*arguments, original=original, **named):
            calls.append(original)
            return original(*arguments, **named)

        monkeypatch.setattr(kernel, function, counted)
    what, make, inputs = PASSED_OVER[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        expected = model(**inputs)[0]
        model.set_attn_implementation("org/metal-flash-sdpa", allow_all_kernels=True)
        output = model(**inputs)[0]
    assert bool(calls) == (what != IGNORED)
    assert (float((output - expected).abs().max()) > 1e-3) == (what == WRONG)
