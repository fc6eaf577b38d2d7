"""torch.nn.attention.varlen.varlen_attn, which torch itself has for CUDA alone, on this kernel.

    python examples/varlen_attn.py

Needs torch 2.13 or newer and kernels.
"""

from __future__ import annotations

import torch
from kernels import get_kernel
from torch.nn.attention.varlen import varlen_attn

DEVICE = "mps" if torch.backends.mps.is_available() else "cpu"


def main() -> None:
    attention = get_kernel("org/metal-flash-sdpa", version=1, trust_remote_code=True)
    lengths = [5, 1, 12]
    cu_seqlens = torch.tensor([0, 5, 6, 18], dtype=torch.int32, device=DEVICE)
    torch.manual_seed(0)
    query, key, value = (torch.randn(18, 4, 32).to(DEVICE).requires_grad_() for _ in "qkv")
    with attention.activate_varlen_attn(devices=DEVICE):  # without `with`: for good
        output = varlen_attn(query, key, value, cu_seqlens, cu_seqlens, 12, 12, window_size=(-1, 0))
        output.sum().backward()
    apart = 0.0
    for found, *sequence in zip(*(tensor.split(lengths) for tensor in (output, query, key, value))):
        heads = (tensor.transpose(0, 1) for tensor in sequence)
        expected = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(0, 1)
        apart = max(apart, float((found - expected).detach().abs().max()))
    print(f"apart {apart:.1e}")


if __name__ == "__main__":
    main()
