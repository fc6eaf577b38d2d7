"""What a bias of every score costs: python benchmarks/bias.py

Clocks of a dense prefill of 512 x 512 at head_dim 64 (not causal, one head) in fp16, with the tiles for many rows of
Apple7 and Apple9, without a bias, with one of the queries' dtype or of fp32, with a mask that shows keys at random, and
with one that shows each token those before it, half of all; that many more clocks than without, and the estimated live
registers, with nothing moved out of loops and with what LLVM moves out of them.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import pathlib
import sys

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "simulator")]

from metal_simulator import Library  # noqa: E402
from metal_simulator.profiler import cost_model, registers  # noqa: E402

LENGTH, HEAD_DIM = 512, 64
SOURCE = ROOT / "flash_sdpa" / "attention_forward.metal"


def biases():
    """attn_bias by name: as wide as the scores."""
    values = torch.randn(1, 1, LENGTH, LENGTH, generator=torch.Generator().manual_seed(0))
    half = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return {"none": None, "fp16": values.half(), "fp32": values, "mask": values > -1, "half": half[None, None]}


def count(build, family: int, tile, bias):
    """(clocks, live registers, those with what LLVM moves) of a call that is planned for a tile."""
    found = []

    def launcher(plan, tensors):
        kernel = Library(SOURCE, include=[SOURCE.parent]).kernel(plan.kernel, dict(plan.constants), build="count")
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        profile = kernel.profile(buffers, plan.grid, plan.threads)
        clocks = sum(cost_model.clocks(profile.rows[index].classes, family) for index in profile.order)
        found.append((clocks, *registers.of_family(kernel.budget().registers_by_family, family)))

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, LENGTH, 1, HEAD_DIM, generator=generator).half() for _ in range(3))
    with build.launchers.use_launcher(launcher, build.device.SMALLEST._replace(family=family, preferred=tile)):
        build.flash_attn_with_kvcache(query, key, value, num_splits=1, attn_bias=bias)
    return found[0]


def main() -> None:
    build = kernels.get_local_kernel(ROOT / "build")
    tiles = build.planning.tiles
    print(__doc__.split("\n\n", 1)[1])
    print(f"{'':38} {'bias':5} {'Mclocks':>8} {'more':>6} {'regs':>6} {'moved':>6}")
    for family in (7, 9):
        large = tiles.TABLES[family][torch.float16].large
        tile = next(tile for tile in large if HEAD_DIM <= tile.head_dim)
        plain, _, _ = count(build, family, tile, None)
        for name, bias in biases().items():
            clocks, live, moved = count(build, family, tile, bias)
            print(
                f"Apple{family} {tile.kernel(torch.float16)[18:]:31} {name:5} {clocks / 1e6:8.3f}"
                f" {100 * (clocks / plain - 1):5.1f}% {live:6.1f} {moved:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
