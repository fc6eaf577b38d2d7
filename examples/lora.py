"""LoRA: train small adapters of a causal language model, with this kernel as its attention.

    python examples/lora.py                                          # a tiny random model, on this file
    python examples/lora.py --model Qwen/Qwen3-0.6B --text notes.txt

Needs torch, kernels, transformers and peft. Runs on `mps` where there is an Apple GPU, else on the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Iterator

import torch
from loading import load
from peft import LoraConfig, get_peft_model


def with_adapters(model: torch.nn.Module) -> torch.nn.Module:
    """Only the adapters train: of the projections into attention and out of it."""
    projections = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=projections, task_type="CAUSAL_LM"))


def train(
    model: torch.nn.Module, tokens: torch.Tensor, steps: int, batch: int = 4, length: int = 48
) -> Iterator[float]:
    """Yields the loss of each step, on random pieces of the tokens `[count]`."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(tokens) - length, (batch,), generator=generator)
        inputs = torch.stack([tokens[start : start + length] for start in starts]).to(model.device)
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train LoRA adapters of a causal language model.")
    parser.add_argument("--model", help="name of a model of the hub; default: a tiny random one")
    parser.add_argument("--text", type=Path, default=Path(__file__), help="what to train on; default: this file")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    model, encode = load(options.model)
    tokens = torch.tensor(encode(options.text.read_text(encoding="utf-8")))
    model = with_adapters(model)
    for step, loss in enumerate(train(model, tokens, options.steps)):
        print(f"step {step:3}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
