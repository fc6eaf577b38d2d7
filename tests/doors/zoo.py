"""Tiny random models as their libraries build them, and inputs of theirs; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import torch
import transformers
from cases import random_tensor

Model = tuple[torch.nn.Module, dict]


def flux() -> Model:
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(8, 12, 12),
    )
    return model, {
        "hidden_states": random_tensor(1, 2, 16, 4),
        "encoder_hidden_states": random_tensor(2, 2, 7, 32),
        "pooled_projections": random_tensor(3, 2, 32),
        "timestep": torch.tensor([0.5, 0.25]),
        "img_ids": random_tensor(4, 16, 3),
        "txt_ids": random_tensor(5, 7, 3),
    }


def stable_diffusion_3() -> Model:
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    return model, {
        "hidden_states": random_tensor(1, 2, 4, 8, 8),
        "encoder_hidden_states": random_tensor(2, 2, 7, 32),
        "pooled_projections": random_tensor(3, 2, 32),
        "timestep": torch.tensor([5, 7]),
    }


def wan() -> Model:
    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )
    return model, {
        "hidden_states": random_tensor(1, 1, 4, 2, 8, 8),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": random_tensor(2, 1, 9, 16),
    }


def qwen_image() -> Model:
    model = diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 12, 12),
    )
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": random_tensor(1, 2, 16, 16),
        "encoder_hidden_states": random_tensor(2, 2, 7, 16),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.tensor([0.5, 0.25]),
        "img_shapes": [(1, 4, 4)] * 2,
    }


def unet() -> Model:
    model = diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    return model, {
        "sample": random_tensor(1, 2, 4, 8, 8),
        "timestep": torch.tensor(7),
        "encoder_hidden_states": random_tensor(2, 2, 5, 16),
    }


def pixart() -> Model:
    model = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=16,
        in_channels=4,
        cross_attention_dim=32,
        out_channels=4,
    )
    mask = torch.ones(2, 7)
    mask[1, 4:] = 0
    return model, {
        "hidden_states": random_tensor(1, 2, 4, 8, 8),
        "timestep": torch.tensor([5, 7]),
        "encoder_hidden_states": random_tensor(2, 2, 7, 16),
        "encoder_attention_mask": mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def vit() -> Model:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4
    )
    return transformers.ViTModel(config), {"pixel_values": random_tensor(1, 2, 3, 16, 16)}


def whisper() -> Model:
    config = transformers.WhisperConfig(
        vocab_size=32,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    tokens = torch.tensor([[1, 5, 9, 3], [1, 7, 2, 4]])
    return transformers.WhisperModel(config), {
        "input_features": random_tensor(1, 2, 8, 40),
        "decoder_input_ids": tokens,
    }


def t5() -> Model:
    """Its position bias is a mask that learns."""
    config = transformers.T5Config(
        vocab_size=32, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    tokens = torch.tensor([[3, 5, 9, 3, 1], [3, 7, 2, 0, 0]])
    return transformers.T5Model(config), {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": tokens}


def sam() -> Model:
    """Windows, with relative positions as a bias of each query and key."""
    config = transformers.SamVisionConfig(
        hidden_size=32,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
        window_size=3,
        global_attn_indexes=[1],
        mlp_dim=32,
    )
    return transformers.SamVisionModel(config), {"pixel_values": random_tensor(1, 2, 3, 32, 32)}


def made(make: Callable[[], Model], dtype: torch.dtype = torch.float32) -> Model:
    """The model without dropout, and its inputs, of that dtype."""
    torch.manual_seed(0)
    model, inputs = make()
    inputs = {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    return model.to(dtype).eval(), inputs


def output_of(model: torch.nn.Module, inputs: dict) -> torch.Tensor:
    return model(**inputs)[0]
