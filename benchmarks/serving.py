"""Batches as a server makes them, one prompt beside many sequences that decode: python benchmarks/serving.py

Predicted time of one call of flash_attn_varlen_func on a paged cache, over the sum of two calls: the prompts alone, and
the decoding sequences alone. Llama 3's heads of 128, 32 with 8 of keys and values; lengths drawn as servers see them
(logarithms normally distributed, seed 0). fp16, pages of 16. One head of keys and values is simulated and counted eight
times.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import math
import pathlib
from typing import List, NamedTuple, Sequence, Tuple

import kernels
import peers
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.report import chip_named

CHIPS = ("M1", "M1 Max", "M3 Max", "M4 Max", "M5 Max")
HEADS_KV, GROUP, HEAD_DIM, PAGE = 8, 4, 128, 16
GOAL = 1.05  # times the sum of the parts
BATCHES = (  # (tokens of the prompt and keys before them) of each, decoding sequences, median keys of those
    (((512, 0),), 15, 1024),
    (((512, 0),), 31, 2048),
    (((512, 3584),), 31, 2048),
    (((2048, 0),), 31, 2048),
    (((256, 0), (256, 1024)), 62, 1024),
)
Lengths = List[Tuple[int, int]]  # (query tokens, keys) of each sequence


class Batch(NamedTuple):
    prompts: Lengths
    decodes: Lengths


def batches() -> Sequence[Batch]:
    generator = torch.Generator().manual_seed(0)
    for prompts, number, median in BATCHES:
        drawn = torch.randn(number, generator=generator) * 0.7 + math.log(median)
        keys = drawn.exp().clamp(16, 8 * median).int().tolist()
        yield Batch([(tokens, tokens + before) for tokens, before in prompts], [(1, length) for length in keys])


def arguments(lengths: Lengths) -> dict:
    """Of flash_attn_varlen_func; all heads of keys and values lie in one place, which a plan does not see."""
    generator = torch.Generator().manual_seed(0)
    tokens, keys = sum(t for t, _ in lengths), [length for _, length in lengths]
    pages = -(-max(keys) // PAGE)
    key, value = (torch.randn(pages * len(keys), PAGE, 1, HEAD_DIM, generator=generator).half() for _ in range(2))
    query = torch.randn(tokens, 1, HEAD_DIM, generator=generator).half()
    return {
        "q": query.expand(tokens, GROUP * HEADS_KV, HEAD_DIM),
        "k": key.expand(-1, PAGE, HEADS_KV, HEAD_DIM),
        "v": value.expand(-1, PAGE, HEADS_KV, HEAD_DIM),
        "cu_seqlens_q": torch.tensor([0, *(t for t, _ in lengths)]).cumsum(0).int(),
        "cu_seqlens_k": torch.tensor([0, *keys]).cumsum(0).int(),
        "max_seqlen_q": max(t for t, _ in lengths),
        "max_seqlen_k": max(keys),
        "seqused_k": torch.tensor(keys).int(),
        "block_table": torch.randperm(pages * len(keys), generator=generator).int().view(len(keys), pages),
        "causal": True,
    }


def predict(build, lengths: Lengths, chip: cost_model.Chip) -> Tuple[float, str]:
    """Seconds, and how the call was planned."""
    profiler = peers.Profiler(HEADS_KV)
    with build.launchers.use_launcher(profiler, peers.device(build, chip)):
        build.flash_attn_varlen_func(**arguments(lengths))
    plan, side = profiler.plans[0], peers.Side(profiler.profiles).of_heads(HEADS_KV)
    return side.seconds(
        chip
    ), f"{plan.grid[2]} part(s) of r{plan.kernel.partition('_r')[2]}, {side.longest(chip).bound}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", action="append", type=chip_named, help=f"default: {', '.join(CHIPS)}")
    chips = parser.parse_args().chip or [chip_named(name) for name in CHIPS]
    build = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build")
    print(__doc__.split("\n\n", 1)[1])
    for batch in batches():
        prompts = " and ".join(f"{tokens} tokens on {keys} keys" for tokens, keys in batch.prompts)
        keys = sum(length for _, length in batch.decodes)
        print(f"{prompts}; {len(batch.decodes)} sequences that decode, {keys} keys in all")
        for chip in chips:
            (together, how), *parts = (
                predict(build, lengths, chip) for lengths in (batch.prompts + batch.decodes, *batch)
            )
            ratio = together / sum(seconds for seconds, _ in parts)
            times = " + ".join(f"{seconds * 1e6:.0f} ({how})" for seconds, how in parts)
            missed = "" if ratio <= GOAL else f"  above {GOAL}"
            print(f"  {chip.name:7} {ratio:5.2f}: {together * 1e6:.0f} us ({how}); apart {times}{missed}", flush=True)


if __name__ == "__main__":
    main()
