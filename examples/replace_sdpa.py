"""A model that calls torch's scaled_dot_product_attention, on this kernel: here a transformer of Stable Diffusion 3.

    python examples/replace_sdpa.py

Prints who computes which call, and how far the two results are apart. Needs torch, kernels and diffusers.
"""

from __future__ import annotations

import torch
from diffusers import SD3Transformer2DModel
from kernels import get_kernel

DEVICE = "mps" if torch.backends.mps.is_available() else "cpu"


def made() -> tuple:
    """A tiny random model, and inputs."""
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=16,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=32,
        in_channels=4,
        out_channels=4,
        pos_embed_max_size=16,
    )
    inputs = {
        "hidden_states": torch.randn(1, 4, 16, 16),
        "encoder_hidden_states": torch.randn(1, 9, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([10]),
    }
    return model.to(DEVICE), {name: tensor.to(DEVICE) for name, tensor in inputs.items()}


def main() -> None:
    attention = get_kernel("org/metal-flash-sdpa", version=1, trust_remote_code=True)
    model, inputs = made()
    with torch.no_grad():
        theirs = model(**inputs).sample
        with attention.replace_sdpa(devices=DEVICE, explain=True) as replacement:  # without `with`: for good
            ours = model(**inputs).sample
    print(f"calls {dict(replacement.calls)}")
    print(f"apart {float((ours - theirs).abs().max()):.1e}")


if __name__ == "__main__":
    main()
