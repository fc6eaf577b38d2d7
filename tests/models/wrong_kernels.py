"""Kernels that are wrong in one thing each, and which cells of the table ought to notice.

A wrong kernel is the right one, given arguments as the wrong one misunderstands them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .instrument import Arguments
from .situations import DENSE, PACKED
from .table import Cell

Spoil = Callable[[str, Arguments], Arguments]  # of the function's name and its arguments


@dataclass(frozen=True)
class WrongKernel:
    """`ought_to_notice` is what we expect of a cell, from what its model asks and its situation passes."""

    name: str
    spoil: Spoil
    ought_to_notice: Callable[[Cell], bool]


def without(argument: str) -> Spoil:
    return lambda name, arguments: {key: value for key, value in arguments.items() if key != argument}


def wider_window(name: str, arguments: Arguments) -> Arguments:
    if "window_size" not in arguments:
        return arguments
    return {**arguments, "window_size": tuple(side + 1 for side in arguments["window_size"])}


def window_to_the_right(name: str, arguments: Arguments) -> Arguments:
    """The window's right side holds although the call is causal."""
    return {**arguments, "causal": False} if "window_size" in arguments else arguments


def top_left(name: str, arguments: Arguments) -> Arguments:
    """The first query lines up with the first key: as if a sequence had no more keys than queries."""
    if not arguments["causal"] or name not in (DENSE, PACKED):
        return arguments
    k, v = arguments["k"], arguments["v"]
    if name == DENSE:
        length = arguments["q"].shape[1]
        return {**arguments, "k": k[:, :length], "v": v[:, :length]}
    queries = arguments["cu_seqlens_q"].diff().tolist()
    starts, keys = arguments["cu_seqlens_k"].tolist(), arguments["cu_seqlens_k"].diff().tolist()
    lengths = [min(pair) for pair in zip(queries, keys)]
    rows = torch.cat([torch.arange(start, start + length) for start, length in zip(starts, lengths)])
    bounds = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    return {**arguments, "k": k[rows], "v": v[rows], "cu_seqlens_k": bounds}


def heads_in_turn(name: str, arguments: Arguments) -> Arguments:
    """Query head h takes key/value head h % num_heads_kv."""
    if name not in (DENSE, PACKED):
        return arguments
    group = arguments["q"].shape[-2] // arguments["k"].shape[-2]
    return {**arguments, **{x: torch.cat([arguments[x]] * group, dim=-2) for x in "kv"}}


def as_contiguous(name: str, arguments: Arguments) -> Arguments:
    """Strides are those of a contiguous tensor, whatever they are."""
    return {**arguments, **{x: _as_contiguous(arguments[x]) for x in "qkv"}}


def _as_contiguous(tensor: torch.Tensor) -> torch.Tensor:
    strides = torch.empty(tensor.shape, device="meta").stride()
    return tensor.as_strided(tensor.shape, strides)


def has(*features: str) -> Callable[[Cell], bool]:
    return lambda cell: cell.model.features.issuperset(features)


def has_more_keys(cell: Cell) -> bool:
    """Causal, with fewer queries than keys."""
    return "causal" in cell.model.features and cell.situation.name in (
        "dynamic cache", "static cache", "padded prompts", "chunked prefill", "continuous batching", "paged decode",
    )  # fmt: skip


def is_strided(cell: Cell) -> bool:
    """Tokens that nothing gathered: those of dense calls, but BERT's, and those of ready cu_seqlens. In continuous
    batching the cache gathers keys and values; of the models here, only gpt-oss then has head-major queries."""
    if cell.model.name == "BERT":
        return False
    if cell.situation.forwards is None:
        return cell.model.name == "gpt-oss"
    if cell.situation.name in ("packed by cu_seqlens", "packed training step"):
        return True
    return DENSE in cell.situation.calls(cell.model) or cell.mark == "P"


WRONG_KERNELS = (
    WrongKernel("window ignored", without("window_size"), has("window")),
    WrongKernel("window off by one", wider_window, has("window")),
    WrongKernel("right side not capped by causal", window_to_the_right, has("window", "causal")),
    WrongKernel("softcap ignored", without("softcap"), has("softcap")),
    WrongKernel("sinks ignored", without("s_aux"), has("sinks")),
    WrongKernel("top-left causal", top_left, has_more_keys),
    WrongKernel("wrong order of grouped heads", heads_in_turn, has("groups")),
    WrongKernel("scale ignored", without("softmax_scale"), has("scale")),
    WrongKernel("contiguity assumed", as_contiguous, is_strided),
)
