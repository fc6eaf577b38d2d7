"""Prefills on the matrix unit of M5 beside kernels without it and MLX's with it: python benchmarks/matrix_unit.py

Causal, 16 heads, bf16; one head is simulated and counted as often. Predicted milliseconds, TFLOPS of the products that
a causal mask leaves, and the share of the unit's peak, for tiles that use the unit, for those that serve without it,
and for MLX's kernel, unmodified from its wheel (left out where that cannot be had). Then, of the unit's tiles, the
ALUs' clocks for each block of 16 rows and 32 keys: of simple instructions and of others.

MLX's own figures for M5 Max, 8,192 tokens, are 54.1 TFLOPS at head_dim 128 and 56.3 at 64: compare ours with those, for
the prediction of MLX's is far below. As clang compiles it here, it loads most keys element by element, which fills L1;
a compiler that joins those loads has a quarter of them.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Optional

import kernels
import peers
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.report import chip_named

CHIPS = ("M5", "M5 Max")
HEADS, HEAD_DIMS, TOKENS = 16, (64, 96, 128, 256), (1024, 2048, 4096, 8192, 16384)


def ours(build, tensors, device) -> peers.Side:
    profiler = peers.Profiler()
    with build.launchers.use_launcher(profiler, device):
        build.flash_attn_with_kvcache(*(t.transpose(1, 2) for t in tensors), causal=True, num_splits=1)
    return peers.Side(profiler.profiles)


def theirs(tensors) -> Optional[peers.Side]:
    if not peers.mlx_attention.available():
        return None
    launch = peers.mlx_attention.prefill(*tensors, tensors[0].shape[-1] ** -0.5, True, matrix_unit=True)
    kernel = launch.library.kernel(launch.host_name, launch.constants)
    return peers.Side([kernel.profile(launch.buffers, launch.grid, launch.threads)])


def described(side: peers.Side, chip: cost_model.Chip, tokens: int, head_dim: int) -> str:
    side = side.repeated(HEADS)
    seconds, longest = side.seconds(chip), side.longest(chip)
    teraflops = 2 * HEADS * head_dim * tokens * (tokens + 1) / seconds / 1e12
    return f" | {seconds * 1e3:8.3f} {teraflops:5.1f} {100 * longest.unit_share:3.0f}% {longest.bound:11}"


def of_a_block(side: peers.Side, head_dim: int) -> str:
    """Clocks of the ALUs for 16 rows x 32 keys, of which the unit does a product for each 16 columns of Q K and P V."""
    blocks = side.total("matrix_unit") / (2 * head_dim / 16)
    table = cost_model.CLOCKS[10]
    classes = {name: side.total(name) * clocks / blocks for name, clocks in table.items()}
    return f"{classes['simple']:.0f} simple, {sum(classes.values()) - classes['simple']:.0f} other, of those " + (
        f"{classes['wide_add']:.0f} for {classes['wide_add'] / table['wide_add']:.0f} 64-bit additions, "
        f"{classes['exponential']:.0f} for exponentials"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, action="append", help=f"default: {', '.join(map(str, HEAD_DIMS))}")
    parser.add_argument("--tokens", type=int, action="append", help=f"default: {', '.join(map(str, TOKENS))}")
    options = parser.parse_args()
    chips = [chip_named(name) for name in CHIPS]
    build = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build")
    print(__doc__.split("\n\n", 1)[1])
    columns = "".join(f" | {name:>8}  TFLOPS, unit {'':9}" for name in ("unit ms", "without", "MLX ms"))
    print(f"{'':28}{columns}")
    for head_dim in options.head_dim or HEAD_DIMS:
        blocks = ""
        for tokens in options.tokens or TOKENS:
            tensors = [t.to(torch.bfloat16) for t in peers.inputs(1, 1, tokens, tokens, head_dim)]
            by_unit = {has: ours(build, tensors, build.device.Device(10, 10, matrix_unit=has)) for has in (True, False)}
            mlx = theirs(tensors)
            for chip in chips:
                line = f"d{head_dim:<4} {tokens:6} tokens {chip.name:8}   "
                for side in (by_unit[True], by_unit[False], mlx):
                    line += described(side, chip, tokens, head_dim) if side else ""
                print(line, flush=True)
            blocks = of_a_block(by_unit[True], head_dim)
        print(f"d{head_dim:<4} clocks of 16 x 32: {blocks}", flush=True)


if __name__ == "__main__":
    main()
