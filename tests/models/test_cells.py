"""Which cells the table has, and that what it says of the others is so."""

from __future__ import annotations

import itertools

import pytest

from .instrument import Instrument
from .situations import PACKED, SITUATIONS, batched_continuously, decoded_in_pages, one_by_one
from .table import REASONS, TOLERANCE, cells, difference, expected, marks, with_kernel
from .zoo import DECODER, ENCODER, MODELS, SEQ2SEQ, Model, create, eager

PACKING = {"packed by position_ids", "packed by cu_seqlens", "packed training step"}
BATCHING = {"continuous batching", "paged decode"}
GENERATION = BATCHING | {"dynamic cache", "static cache", "padded prompts", "chunked prefill"}


def of(kind: str) -> list[Model]:
    return [model for model in MODELS.values() if model.kind == kind]


def test_every_combination_is_listed() -> None:
    assert set(marks()) == set(itertools.product(MODELS, SITUATIONS))


def test_every_mark_has_a_reason() -> None:
    assert set(marks().values()) == {"x", *REASONS}


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_situations_of(model: Model) -> None:
    missing = {ENCODER: GENERATION, SEQ2SEQ: PACKING | BATCHING, DECODER: set()}[model.kind]
    if model.name in ("DeepSeek", "Gemma4"):
        missing = BATCHING
    elif model.kind == DECODER and model.windows:
        missing = {"paged decode"}
    assert {cell.situation.name for cell in cells() if cell.model == model} == set(SITUATIONS) - missing


@pytest.mark.parametrize("model", of(ENCODER), ids=lambda model: model.name)
def test_an_encoder_does_not_generate(model: Model) -> None:
    assert not eager(model).can_generate()


@pytest.mark.parametrize("name", ["DeepSeek", "Whisper"])
def test_continuous_batching_fails_with_eager_attention_too(name: str) -> None:
    """No tokens, as the table's missing cells say: transformers reports errors in its log only."""
    result = batched_continuously(MODELS[name], eager(MODELS[name]))
    assert all(tokens.numel() == 0 for tokens in result.values())


def test_continuous_batching_refuses_layers_that_differ() -> None:
    """On a model of its own, which transformers leaves with paged attention."""
    with pytest.raises(RuntimeError, match="'num_key_value_heads' is a per-layer attribute"):
        batched_continuously(MODELS["Gemma4"], create(MODELS["Gemma4"], "eager"))


@pytest.mark.parametrize("name", ["Mistral", "gpt-oss"])
def test_a_model_with_windows_decodes_without_pages(name: str, instrument: Instrument) -> None:
    decoded_in_pages(MODELS[name], with_kernel(MODELS[name]))
    assert set(instrument.calls) == {PACKED}


def test_modernbert_takes_a_packed_row_for_one_sequence() -> None:
    cell = next(cell for cell in cells() if cell.mark == "P")
    separate = one_by_one(cell.model, eager(cell.model))
    assert difference(expected(cell)["output"], separate["output"]) > 100 * TOLERANCE
