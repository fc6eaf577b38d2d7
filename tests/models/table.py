"""The table: which model meets which situation, what is different there, and how a cell is run and judged."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from .instrument import Instrument
from .situations import DENSE, PACKED, PAGED, SITUATIONS, Result, Situation, packed_by_position_ids
from .zoo import LAYERS, MODELS, Model, create, eager

TOLERANCE = 1e-4  # of the largest magnitude of the result that eager attention gives

# "x" is a cell; a letter says why there is none, or, in capitals, what is different in it.
TABLE = """
                        Llama Qwen3 Mistral Gemma2 Gemma3 Gemma4 gpt-oss DeepSeek BERT ModernBERT Whisper
prefill                 x     x     x       x      x      x      x       x        x    x          x
mask of ones            x     x     x       x      x      x      x       x        x    x          x
left padding            x     x     x       x      x      x      x       x        x    x          x
right padding           x     x     x       x      x      x      x       x        x    x          x
packed by position_ids  x     x     x       x      x      x      x       x        x    P          a
packed by cu_seqlens    x     x     x       x      x      x      x       x        x    x          a
dynamic cache           x     x     x       x      x      x      x       x        g    g          x
static cache            x     x     x       x      x      x      x       x        g    g          x
padded prompts          x     x     x       x      x      x      x       x        g    g          x
chunked prefill         x     x     x       x      x      x      x       x        g    g          x
continuous batching     x     x     x       x      x      l      x       h        g    g          b
paged decode            x     x     w       w      w      l      w       h        g    g          b
training step           x     x     x       x      x      x      x       x        x    x          x
packed training step    x     x     x       x      x      x      x       x        x    x          a
"""
REASONS = {
    "a": "every packed sequence would need its own audio, and the encoder's output is not packed",
    "b": "transformers batches decoders only",
    "g": "an encoder does not generate",
    "h": "transformers' paged cache takes one head_dim for keys and values; the heads of latent attention differ",
    "l": "transformers' paged cache takes one head_dim and number of heads for all layers; those of Gemma4 differ",
    "w": "transformers keeps the cache of a layer with a window without pages: as continuous batching",
    "P": "transformers gives position_ids to the rotary embedding only: to eager attention, too, it is one sequence",
}


@dataclass(frozen=True)
class Cell:
    model: Model
    situation: Situation
    mark: str

    def __str__(self) -> str:
        return f"{self.model.name}, {self.situation.name}"


def marks() -> dict[tuple[str, str], str]:
    """The table by (model, situation)."""
    header, *rows = [line.split() for line in TABLE.strip().splitlines()]
    return {
        (model, " ".join(row[: -len(header)])): mark for row in rows for model, mark in zip(header, row[-len(header) :])
    }


def cells() -> list[Cell]:
    """Those that exist."""
    return [
        Cell(MODELS[model], SITUATIONS[situation], mark)
        for (model, situation), mark in marks().items()
        if mark == "x" or mark.isupper()
    ]


@functools.lru_cache(maxsize=None)
def expected(cell: Cell) -> Result:
    """What eager attention gives."""
    if cell.mark == "P":
        return packed_by_position_ids(cell.model, eager(cell.model))
    return cell.situation.expected(cell.model, eager(cell.model))


@functools.lru_cache(maxsize=None)
def with_kernel(model: Model) -> PreTrainedModel:
    """The model that takes the kernel by its repository's name."""
    return create(model, model.repository)


def error(cell: Cell) -> float:
    """The largest error of the cell's results, relative to the largest magnitude; infinite for other tokens."""
    ours, eager = cell.situation.run(cell.model, with_kernel(cell.model)), expected(cell)
    if ours.keys() != eager.keys():
        return math.inf
    return max(difference(ours[name], eager[name]) for name in eager)


def difference(ours: torch.Tensor, eager: torch.Tensor) -> float:
    """Relative, of numbers; of tokens and shapes, 0 or infinity. NaN counts as infinity."""
    if ours.shape != eager.shape:
        return math.inf
    if not eager.is_floating_point():
        return 0.0 if torch.equal(ours, eager) else math.inf
    relative = float((ours - eager).abs().max() / eager.abs().max())
    return math.inf if math.isnan(relative) else relative


def check_calls(cell: Cell, instrument: Instrument) -> None:
    """The kernel's functions were called, and as often as the situation says."""
    if cell.mark == "P":
        assert instrument.calls == {DENSE: LAYERS}
    elif cell.situation.forwards is not None:
        assert instrument.calls == cell.situation.calls(cell.model)
    else:
        paged = cell.situation.name == "paged decode" and PAGED in instrument.functions
        assert set(instrument.calls) == ({PACKED, PAGED} if paged else {PACKED})
