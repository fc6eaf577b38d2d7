"""diffusers' attention dispatcher, whose entries of hub kernels have none for `mps`."""

from __future__ import annotations

import importlib
from dataclasses import replace

from ..interface import flash_attn_func
from . import flash_attn_interface as functions
from .door import Undo


def register_diffusers() -> Undo:
    """Makes `set_attention_backend("flash_hub")` and `"flash_varlen_hub"` of diffusers run on this kernel.

    Those that diffusers calls for context parallelism are among its functions. "flash_varlen_hub" also takes masks of
    keys. fp16 and bf16 alone, and only models whose attention asks diffusers' dispatcher: for others, see
    `replace_sdpa`. Nothing is downloaded.

    Returns:
        What undoes it: by `undo()`, or at the end of a `with` block.

    Raises:
        ModuleNotFoundError: diffusers is not installed.
        RuntimeError: its version has no such entries.
    """
    dispatch = importlib.import_module("diffusers.models.attention_dispatch")
    try:
        registry, names = dispatch._HUB_KERNELS_REGISTRY, dispatch.AttentionBackendName
        before = {name: registry[name] for name in (names.FLASH_HUB, names.FLASH_VARLEN_HUB)}
    except (AttributeError, KeyError):
        version = importlib.import_module("diffusers").__version__
        raise RuntimeError(f"diffusers {version} has no entries of hub kernels: 0.42 is known to have them") from None
    dense = replace(
        before[names.FLASH_HUB],
        kernel_fn=flash_attn_func,
        wrapped_forward_fn=functions._flash_attn_forward,
        wrapped_backward_fn=functions._flash_attn_backward,
    )
    packed = replace(
        before[names.FLASH_VARLEN_HUB],
        kernel_fn=functions.flash_attn_varlen_func,
        wrapped_forward_fn=functions._flash_attn_varlen_forward,
        wrapped_backward_fn=functions._flash_attn_varlen_backward,
    )
    registry.update({names.FLASH_HUB: dense, names.FLASH_VARLEN_HUB: packed})

    def undo() -> None:
        for name, ours in ((names.FLASH_HUB, dense), (names.FLASH_VARLEN_HUB, packed)):
            if registry[name] is ours:
                registry[name] = before[name]

    return Undo(undo)
