"""diffusers' own switch of attention, on this kernel: here a transformer of Flux.

    python examples/diffusers_backend.py

Needs torch, kernels and diffusers.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from kernels import get_kernel

DEVICE = "mps" if torch.backends.mps.is_available() else "cpu"


def made() -> tuple:
    """A tiny random model, and inputs."""
    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    )
    inputs = {
        "hidden_states": torch.randn(1, 64, 4),
        "encoder_hidden_states": torch.randn(1, 9, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(64, 3),
        "txt_ids": torch.randn(9, 3),
    }
    half = {name: tensor.to(DEVICE, torch.bfloat16) for name, tensor in inputs.items()}
    return model.to(DEVICE, torch.bfloat16), half


def main() -> None:
    attention = get_kernel("org/metal-flash-sdpa", version=1, trust_remote_code=True)
    model, inputs = made()
    with torch.no_grad(), attention.register_diffusers():  # without `with`: for good
        theirs = model(**inputs).sample
        model.set_attention_backend("flash_hub")  # "flash_varlen_hub" for models with masks of keys
        ours = model(**inputs).sample
        model.reset_attention_backend()
    print(f"apart {float((ours - theirs).abs().max()):.1e} of {float(theirs.abs().max()):.1e}")


if __name__ == "__main__":
    main()
