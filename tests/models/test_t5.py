"""T5, whose relative positions are a bias of every score, through attn_bias, beside eager attention.

transformers gives the bias to eager attention only: an adapter registered there hands it to flash_attn_func, with what
a padding mask hides as -inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, T5Config, T5ForConditionalGeneration
from transformers.masking_utils import sdpa_mask

from .situations import LENGTHS, NEW_TOKENS, padding_mask, tokens
from .table import TOLERANCE, difference
from .zoo import LAYERS, VOCABULARY

ADAPTER = "position_bias_as_attn_bias"  # a name with "flash" would be looked up among kernels


@pytest.fixture
def calls(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Puts the adapter in its place: the biases that it passed, in order."""
    biases: list[torch.Tensor] = []

    def attend(module, query, key, value, attention_mask, scaling, position_bias, dropout=0.0, **_):
        if attention_mask is not None:
            position_bias = position_bias.masked_fill(~attention_mask, -math.inf)
        biases.append(position_bias)
        states = (tensor.transpose(1, 2) for tensor in (query, key, value))
        causal = module.is_causal and attention_mask is None
        output = kernel.flash_attn_func(
            *states, dropout_p=dropout, softmax_scale=scaling, causal=causal, attn_bias=position_bias
        )
        return output, None

    monkeypatch.setitem(AttentionInterface._global_mapping, ADAPTER, attend)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, ADAPTER, sdpa_mask)
    return biases


def create(attention: str) -> T5ForConditionalGeneration:
    """With the same weights for each, and position biases of several units."""
    config = T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=32, d_ff=96, num_layers=LAYERS, num_heads=4, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, pad_token_id=0, eos_token_id=None,
        decoder_start_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    for name, parameter in model.named_parameters():
        if "relative_attention_bias" in name:
            parameter.data.normal_(std=2.0)
        elif name.endswith("weight") and parameter.dim() == 2:
            parameter.data.normal_(std=0.2)
    return model


def inputs(side: str | None) -> dict[str, torch.Tensor]:
    """Of an encoder with padding on a side or none, and a decoder without."""
    ids = tokens(len(LENGTHS), max(LENGTHS))
    masks = {} if side is None else {"attention_mask": padding_mask(LENGTHS, side)}
    return {"input_ids": ids, "decoder_input_ids": ids[:, :13].flip(0), **masks}


def results(model: T5ForConditionalGeneration, side: str | None) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        outputs = model(**inputs(side))
    hidden = outputs.encoder_last_hidden_state
    return {"encoder": hidden if side is None else hidden[padding_mask(LENGTHS, side).bool()], "logits": outputs.logits}


def largest_difference(ours: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == expected.keys()
    return max(difference(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("side", [None, "left", "right"])
def test_forward(calls: list[torch.Tensor], launcher: str, side: str | None) -> None:
    assert largest_difference(results(create(ADAPTER), side), results(create("eager"), side)) <= TOLERANCE
    assert len(calls) == 3 * LAYERS  # of the encoder, of the decoder, and of the decoder to the encoder
    assert all(bias.is_floating_point() for bias in calls)


def test_generation(calls: list[torch.Tensor], launcher: str) -> None:
    """The bias of a step is that of one row, for all the keys in the cache."""

    def generate(model: T5ForConditionalGeneration) -> torch.Tensor:
        mask = padding_mask(LENGTHS, "left")
        return model.generate(tokens(*mask.shape), attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False)

    assert torch.equal(generate(create(ADAPTER)), generate(create("eager")))
    assert calls[-2].shape == (1, 4, 1, NEW_TOKENS)


@pytest.mark.parametrize(
    "spoil",
    [torch.zeros_like, lambda bias: bias.roll(1, dims=1), lambda bias: bias.roll(1, dims=3)],
    ids=["no bias", "the bias of another head", "the bias of the key before"],
)
def test_a_wrong_bias_is_noticed(calls: list[torch.Tensor], spoil: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = AttentionInterface._global_mapping[ADAPTER]

    def wrong(*arguments, position_bias, **keywords):
        return attend(*arguments, position_bias=spoil(position_bias), **keywords)

    monkeypatch.setitem(AttentionInterface._global_mapping, ADAPTER, wrong)
    assert largest_difference(results(create(ADAPTER), "left"), results(create("eager"), "left")) > 10 * TOLERANCE


def test_gradients(calls: list[torch.Tensor]) -> None:
    """Those of the position biases, which all layers share, above all; on the CPU."""

    def gradients(model: T5ForConditionalGeneration) -> dict[str, torch.Tensor]:
        ids = tokens(len(LENGTHS), 13) % 50
        model.train()(**inputs("left"), labels=ids).loss.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    ours, expected = gradients(create(ADAPTER)), gradients(create("eager"))
    assert sum("relative_attention_bias" in name for name in expected) == 2
    assert all(gradient.any() for name, gradient in expected.items() if "relative_attention_bias" in name)
    assert largest_difference(ours, expected) <= TOLERANCE
