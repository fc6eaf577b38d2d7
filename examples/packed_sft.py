"""Supervised fine-tuning on packed conversations: sequences of any lengths end to end, no padding, one call.

    python examples/packed_sft.py                            # a tiny random model, on made-up sums
    python examples/packed_sft.py --model Qwen/Qwen3-0.6B

transformers sends the collator's cu_seqlens to the kernel's flash_attn_varlen_func: no conversation sees another one.
Needs torch, kernels and transformers. Runs on `mps` where there is an Apple GPU, else on the CPU.
"""

from __future__ import annotations

import argparse
from typing import Callable, Dict, Iterator, List

import torch
from loading import load
from transformers import DataCollatorWithFlattening

IGNORED = -100  # label of a token that is not learned


def conversations(encode: Callable[[str], List[int]], count: int) -> List[Dict[str, List[int]]]:
    """Questions and answers of different lengths; the answers are learned."""
    numbers = torch.randint(10_000, (count, 2), generator=torch.Generator().manual_seed(0)).tolist()
    found = []
    for first, second in numbers:
        first %= 10 ** (1 + second % 4)
        question, answer = encode(f"What is {first} + {second}?\n"), encode(f"{first + second}\n")
        found.append({"input_ids": question + answer, "labels": [IGNORED] * len(question) + answer})
    return found


def train(model: torch.nn.Module, examples: List[Dict[str, List[int]]], steps: int, batch: int = 8) -> Iterator[float]:
    """Yields the loss of each step, on `batch` conversations packed into one row."""
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        chosen = [examples[(step * batch + number) % len(examples)] for number in range(batch)]
        inputs = collate(chosen)
        inputs = {name: x.to(model.device) if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
        loss = model(**inputs, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tune a causal language model on packed conversations.")
    parser.add_argument("--model", help="name of a model of the hub; default: a tiny random one")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    model, encode = load(options.model)
    for step, loss in enumerate(train(model, conversations(encode, 256), options.steps)):
        print(f"step {step:3}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
