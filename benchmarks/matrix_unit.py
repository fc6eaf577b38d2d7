"""Prefills and gradients on the matrix unit of M5 beside kernels without it: python benchmarks/matrix_unit.py

Prefills: causal, 16 heads, bf16; one is simulated and counted as often. Predicted ms, TFLOPS of the products that a
causal mask leaves, and the share of the unit's peak, for tiles that use the unit, for those that serve without it,
and for MLX's kernel, unmodified from its wheel (left out where that cannot be had). Then every tile that uses the unit:
estimated live registers and, for each block of 16 rows and 32 keys, clocks of the unit and of the ALUs, fp16.

MLX's own figures for M5 Max, 8,192 tokens, are 54.1 TFLOPS at head_dim 128 and 56.3 at 64: compare ours with those, for
the prediction of MLX's is far below. As clang compiles it here, it loads most keys element by element, which fills L1;
a compiler that joins those loads has a quarter of them.

Gradients: fp16, 16 heads; one of 512 and of 1,024 tokens is counted, carried over as in benchmarks/peers_backward.py,
and predicted as if it were one chunk. Of the kernels that use the unit, the queries' and the keys': ms, their share of
the unit's peak, and what bounds them. Then registers of each and, for each block of 16 rows and 32 keys, clocks of the
unit, of the ALUs and of L1, this for one on each of a core's four schedulers, and bytes of memory for a pair.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Optional

import kernels
import peers
import peers_backward
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.report import chip_named

CHIPS = ("M5", "M5 Max")
HEADS, HEAD_DIMS, TOKENS = 16, (64, 96, 128, 256), (1024, 2048, 4096, 8192, 16384)


def ours(build, tensors, device) -> peers.Side:
    profiler = peers.Profiler()
    with build.launchers.use_launcher(profiler, device):
        build.flash_attn_with_kvcache(*(t.transpose(1, 2) for t in tensors), causal=True, num_splits=1)
    return peers.Side(profiler.profiles).of_heads(HEADS)


def theirs(tensors) -> Optional[peers.Side]:
    if not peers.mlx_attention.available():
        return None
    launch = peers.mlx_attention.prefill(*tensors, tensors[0].shape[-1] ** -0.5, True, matrix_unit=True)
    kernel = launch.library.kernel(launch.host_name, launch.constants)
    return peers.Side([kernel.profile(launch.buffers, launch.grid, launch.threads)]).repeated(HEADS)


def described(side: peers.Side, chip: cost_model.Chip, tokens: int, head_dim: int) -> str:
    seconds, longest = side.seconds(chip), side.longest(chip)
    teraflops = 2 * HEADS * head_dim * tokens * (tokens + 1) / seconds / 1e12
    return f" | {seconds * 1e3:8.3f} {teraflops:5.1f} {100 * longest.unit_share:3.0f}% {longest.bound:11}"


def describe(build, tile) -> str:
    """One line on a tile: what 512 more keys take, for 64 rows."""
    device = build.device.Device(10, 10, preferred=tile, matrix_unit=True)
    profilers = [peers.Profiler(), peers.Profiler()]
    for profiler, keys in zip(profilers, (512, 1024)):
        query, key, value = (
            torch.zeros(1, rows, 1, width, dtype=torch.float16)
            for rows, width in ((64, tile.head_dim), (keys, tile.head_dim), (keys, tile.value_dim))
        )
        with build.launchers.use_launcher(profiler, device):
            build.flash_attn_with_kvcache(query, key, value, num_splits=1)
    few, many = (profiler.profiles[0] for profiler in profilers)
    blocks = 64 / 16 * 512 / 32
    clocks = {
        n: (many.classes.get(n, 0) - few.classes.get(n, 0)) / blocks * c for n, c in cost_model.CLOCKS[10].items()
    }
    unit = (many.classes["matrix_unit"] - few.classes["matrix_unit"]) / blocks * cost_model.UNIT_CLOCKS / tile.slices
    others = sum(clocks.values()) - clocks["simple"]
    return (
        f"{tile.kernel(torch.float16).removeprefix('attention_forward_f16_'):40} {few.needs(10).live:6.1f} registers, "
        f"{unit:5.0f} of the unit, {clocks['simple']:4.0f} simple, {others:4.0f} other, of those "
        f"{clocks['wide_add']:3.0f} of 64-bit additions, {clocks['exponential']:3.0f} of exponentials"
    )


def gradients(build, head_dim: int, causal: bool, device) -> list[tuple]:
    """(plan, its profile for half of the counted tokens, for all) of the terms', the queries' and the keys' kernel."""
    launches = []
    for tokens in (peers_backward.COUNTED // 2, peers_backward.COUNTED):
        tensors = [t.transpose(1, 2).contiguous() for t in peers.inputs(1, 1, tokens, tokens, head_dim)]
        profiler, _ = peers_backward.profiled(build, device, tensors, causal=causal)
        launches.append(list(zip(profiler.plans, profiler.profiles))[-3:])
    return [(plan, half, whole) for (plan, half), (_, whole) in zip(*launches)]


def predicted(launches: list[tuple], chip: cost_model.Chip, tokens: int) -> list[cost_model.Prediction]:
    """Of each of gradients(), for all heads."""
    return [
        cost_model.predict(
            peers_backward.carried(half, whole, tokens // peers_backward.COUNTED, HEADS),
            chip,
            peers_backward.EFFICIENCY.get(plan.source),
        )
        for plan, half, whole in launches
    ]


def seconds(predictions: list[cost_model.Prediction]) -> float:
    return sum(each.seconds for each in predictions) - (len(predictions) - 1) * cost_model.LAUNCH_SECONDS


def print_gradients(build, head_dim: int, chips, all_tokens) -> None:
    for causal in (True, False):
        with_unit, without = (
            gradients(build, head_dim, causal, build.device.Device(10, 10, matrix_unit=has)) for has in (True, False)
        )
        for tokens in all_tokens:
            for chip in chips:
                ours, staged = (predicted(launches, chip, tokens) for launches in (with_unit, without))
                line = f"d{head_dim:<4} {'causal' if causal else 'full':6} {tokens:6} tokens {chip.name:8}"
                times = seconds(ours), seconds(staged)
                line += f" | {times[0] * 1e3:9.3f} ms, {times[1] * 1e3:9.3f} without, {times[1] / times[0]:4.2f}"
                for each in ours[1:]:
                    line += f" | {each.seconds * 1e3:9.3f} {100 * each.unit_share:3.0f}% {each.bound:11}"
                print(line, flush=True)
    for plan, _, profile in with_unit[1:]:
        blocks = peers_backward.COUNTED**2 / 16 / 32
        rows = [profile.rows[index] for index in profile.order]
        alu = sum(cost_model.clocks(row.classes, 10) for row in rows) / blocks
        l1 = cost_model.SCHEDULERS * sum(row.device_clocks + row.threadgroup_clocks for row in rows) / blocks
        print(
            f"      {plan.kernel.removeprefix('attention_backward_'):52} {profile.needs(10).live:6.1f} registers, "
            f"{cost_model.unit_clocks(profile, 10) / blocks:5.0f} of the unit, {alu:4.0f} of the ALUs, "
            f"{l1:5.0f} of L1, {cost_model.dram_bytes(profile) / peers_backward.COUNTED**2:4.1f} bytes",
            flush=True,
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
        for tokens in options.tokens or TOKENS:
            tensors = [t.to(torch.bfloat16) for t in peers.inputs(1, 1, tokens, tokens, head_dim)]
            by_unit = {has: ours(build, tensors, build.device.Device(10, 10, matrix_unit=has)) for has in (True, False)}
            mlx = theirs(tensors)
            for chip in chips:
                line = f"d{head_dim:<4} {tokens:6} tokens {chip.name:8}   "
                for side in (by_unit[True], by_unit[False], mlx):
                    line += described(side, chip, tokens, head_dim) if side else ""
                print(line, flush=True)
    print("\nclocks of 16 rows x 32 keys (of slices: together)")
    for tile in dict.fromkeys(tile for tile, _ in build.planning.tiles.UNIT_KERNELS.values()):
        print(describe(build, tile), flush=True)
    print("\ngradients: with the unit and without, and their ratio; of the first, the queries' kernel and the keys'")
    for head_dim in options.head_dim or HEAD_DIMS:
        print_gradients(
            build, head_dim, chips, [n for n in options.tokens or TOKENS if n % peers_backward.COUNTED == 0]
        )


if __name__ == "__main__":
    main()
