"""The models that the examples train: one of the hub's, or a tiny random one, with this kernel as its attention."""

from __future__ import annotations

from typing import Callable, List, Optional, Tuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

ATTENTION = "org/metal-flash-sdpa"
DEVICE = "mps" if torch.backends.mps.is_available() else "cpu"


def load(name: Optional[str] = None) -> Tuple[torch.nn.Module, Callable[[str], List[int]]]:
    """A causal language model, and what makes tokens of a text. Without a name a tiny one, whose tokens are bytes."""
    if name is not None:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.bfloat16, attn_implementation=ATTENTION, allow_all_kernels=True
        )
        return model.to(DEVICE), AutoTokenizer.from_pretrained(name).encode
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation(ATTENTION, allow_all_kernels=True)
    return model.to(DEVICE), lambda text: list(text.encode())
