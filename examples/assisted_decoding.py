"""Assisted decoding in transformers: a small model drafts tokens, and the large one checks several in one call.

    python examples/assisted_decoding.py                              # tiny random models
    python examples/assisted_decoding.py --model Qwen/Qwen3-1.7B --assistant Qwen/Qwen3-0.6B

Prints both results; they are the same, but for ties. Needs torch, kernels and transformers.
"""

from __future__ import annotations

import argparse

import torch
from loading import load


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate with an assistant, and without.")
    parser.add_argument("--model", help="name of a model of the hub; default: a tiny random one")
    parser.add_argument("--assistant", help="name of a smaller one with the same tokens")
    options = parser.parse_args()
    (model, encode), (assistant, _) = load(options.model), load(options.assistant)
    ids = torch.tensor([list(encode("The answer is"))], device=model.device)
    settings = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    for name, helper in (("alone", None), ("assisted", assistant)):
        output = model.eval().generate(ids, assistant_model=helper and helper.eval(), **settings)
        print(f"{name} {output[0, ids.shape[1] :].tolist()}")


if __name__ == "__main__":
    main()
