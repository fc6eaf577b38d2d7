"""Continuous batching in transformers: prompts and decoding of many requests share each call of the kernel.

    python examples/continuous_batching.py                            # a tiny random model
    python examples/continuous_batching.py --model Qwen/Qwen3-0.6B

Prints the tokens of each request; they are those that the request gets alone. Needs torch, kernels and transformers.
"""

from __future__ import annotations

import argparse

import torch
from loading import load
from transformers import ContinuousBatchingConfig, GenerationConfig

PROMPTS = ["The sea is", "One, two, three", "A"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer several prompts at once.")
    parser.add_argument("--model", help="name of a model of the hub; default: a tiny random one")
    options = parser.parse_args()
    model, encode = load(options.model)
    model.eval()
    prompts = [list(encode(prompt)) for prompt in PROMPTS]
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(page_size=16, num_blocks=64, max_batch_tokens=64)
    outputs = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=batching)
    for prompt, output in zip(prompts, outputs.values()):
        ids = torch.tensor([prompt], device=model.device)
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0, len(prompt) :]
        print(f"together {output.generated_tokens} alone {alone.tolist()}")


if __name__ == "__main__":
    main()
