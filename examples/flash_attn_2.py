"""A model file that was written for CUDA and imports flash_attn, on this kernel.

    python examples/flash_attn_2.py

Needs torch and kernels; no flash-attn.
"""

from __future__ import annotations

import torch
from kernels import get_kernel

DEVICE = "mps" if torch.backends.mps.is_available() else "cpu"
MODEL_FILE = """
import torch
from flash_attn import flash_attn_varlen_qkvpacked_func
from flash_attn.bert_padding import pad_input, unpad_input
from flash_attn.layers.rotary import apply_rotary_emb


class Attention(torch.nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv = heads, torch.nn.Linear(width, 3 * width)

    def forward(self, hidden, mask, cos, sin):
        qkv = self.qkv(hidden).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(2)
        qkv = torch.stack((apply_rotary_emb(q, cos, sin), apply_rotary_emb(k, cos, sin), v), dim=2)
        packed, indices, cu_seqlens, longest, _ = unpad_input(qkv, mask)
        output = flash_attn_varlen_qkvpacked_func(packed, cu_seqlens, longest, 0.0, None, True)
        return pad_input(output, indices, *mask.shape).flatten(-2)
"""


def main() -> None:
    attention = get_kernel("org/metal-flash-sdpa", version=1, trust_remote_code=True)
    with attention.install_flash_attn():  # without `with`: for good
        names: dict = {}
        exec(MODEL_FILE, names)
        torch.manual_seed(0)
        model = names["Attention"](64, 2).to(DEVICE)
    hidden, angles = torch.randn(2, 7, 64).to(DEVICE), torch.outer(torch.arange(7.0), torch.rand(16)).to(DEVICE)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3], device=DEVICE)
    output = model(hidden, mask, angles.cos(), angles.sin())
    alone = model(hidden[1:, :4], mask[1:, :4], angles.cos(), angles.sin())
    output.sum().backward()
    print(f"shape {tuple(output.shape)}")
    print(f"apart {float((output[1:, :4] - alone).detach().abs().max()):.1e}")


if __name__ == "__main__":
    main()
