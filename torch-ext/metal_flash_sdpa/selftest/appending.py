"""A cache that grows by new tokens, rotated by their positions: on a device, beside the CPU implementation."""

from __future__ import annotations

import contextvars
import math
from typing import Any, Dict

import torch

from .. import interface
from . import reference

_TOKENS, _HEADS, _HEADS_KV, _HEAD_DIM, _PAGE_SIZE = 2, 4, 2, 64, 16
_LENGTHS = (0, 17, 46)  # of the sequences before the call; the last one then fills the cache
_PAGES = 3  # of a sequence


def error(dtype: torch.dtype, is_paged: bool, device: torch.device) -> float:
    """The largest error of the output and of the cache, as a part of what is allowed: twice a rounding of rotated keys,
    none of values, and twice the bound of gradients for the output, as both sides are rounded."""
    given, result = (_arguments(dtype, is_paged, place) for place in (torch.device("cpu"), device))
    without_launcher = contextvars.Context()
    expected: Any = without_launcher.run(interface.flash_attn_with_kvcache, **given)
    output: Any = interface.flash_attn_with_kvcache(**result)
    keys, values = (result[name].cpu() for name in ("k_cache", "v_cache"))
    if not torch.equal(values, given["v_cache"]):
        return math.inf
    rounding = 2 * torch.finfo(dtype).eps * given["k_cache"].abs().amax().item()
    moved = (keys.double() - given["k_cache"].double()).abs().amax().item() / rounding
    return reference.largest([moved, reference.gradient_error(output.cpu(), expected.double()) / 2])


def _arguments(dtype: torch.dtype, is_paged: bool, device: torch.device) -> Dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    places = (len(_LENGTHS) * _PAGES, _PAGE_SIZE) if is_paged else (len(_LENGTHS), _PAGES * _PAGE_SIZE)
    angles = torch.rand(_PAGES * _PAGE_SIZE, _HEAD_DIM // 2, generator=generator) * 6
    arguments = {
        "q": normal(len(_LENGTHS), _TOKENS, _HEADS, _HEAD_DIM),
        **{name: normal(*places, _HEADS_KV, _HEAD_DIM) for name in ("k_cache", "v_cache")},
        **{name: normal(len(_LENGTHS), _TOKENS, _HEADS_KV, _HEAD_DIM) for name in ("k", "v")},
        "rotary_cos": angles.cos().to(device, dtype),
        "rotary_sin": angles.sin().to(device, dtype),
        "cache_seqlens": torch.tensor(_LENGTHS, dtype=torch.int32, device=device),
        "causal": True,
    }
    if is_paged:
        pages = torch.randperm(places[0], generator=generator).view(len(_LENGTHS), _PAGES)
        arguments["block_table"] = pages.to(device, torch.int32)
    return arguments
