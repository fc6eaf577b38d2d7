"""Loads what a new user would, the build beside this folder and the installed wheel, and calls both on the CPU."""

from __future__ import annotations

from pathlib import Path

import kernels
import metal_flash_sdpa
import torch

kernel = kernels.get_local_kernel(Path(__file__).resolve().parent.parent / "build")
query = torch.randn(2, 33, 4, 64)
expected = torch.nn.functional.scaled_dot_product_attention(*(query.transpose(1, 2),) * 3, is_causal=True).transpose(
    1, 2
)
for name, attention in {"build": kernel, "wheel": metal_flash_sdpa}.items():
    error = (attention.flash_attn_func(query, query, query, causal=True) - expected).abs().max().item()
    print(
        f"[loader] {name}: {attention.__file__}, launchers {list(attention.launchers.available())}, error {error:.1e}"
    )
    assert error < 1e-5
