"""Prefills and gradients on the matrix unit of M5 beside kernels without it: python benchmarks/matrix_unit.py

Prefills: causal, 16 heads, bf16; one of 512 and of 1,024 tokens is counted, and carried over as gradients are.
Predicted ms, TFLOPS of the products that a causal mask leaves, and the share of the unit's peak, for tiles that use the
unit, for those that serve without it, and for the kernels of MLX and PyTorch that use it, unmodified from their wheels
(left out where those cannot be had). Then every tile that uses the unit: estimated live registers and, for each block
of 16 rows and 32 keys, clocks of the unit and of the ALUs, fp16.

MLX's own figures for M5 Max, 8,192 tokens, are 54.1 TFLOPS at head_dim 128 and 56.3 at 64: compare ours with those, for
the prediction of both peers is far below. As clang compiles them here, they load most keys element by element, which
fills L1; a compiler that joins those loads has a quarter of them.

Gradients: fp16, 16 heads; one of 512 and of 1,024 tokens is counted, carried over as in benchmarks/peers_backward.py,
and predicted as if it were one chunk. Of the kernels that use the unit, the queries' and the keys': ms, their share of
the unit's peak, and what bounds them. Then registers of each and, for each block of 16 rows and 32 keys, clocks of the
unit, of the ALUs and of L1, this for one on each of a core's four schedulers, and bytes of memory for a pair.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from typing import Iterator, List, NamedTuple, Optional, Tuple

import kernels
import peers
import peers_backward
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.counters import Profile
from metal_simulator.profiler.report import chip_named

CHIPS = ("M5", "M5 Max")
COUNTED = peers_backward.COUNTED
HEADS, HEAD_DIMS, TOKENS = 16, (64, 96, 128, 256), (1024, 2048, 4096, 8192, 16384)


class Counted(NamedTuple):
    """One head's launch of half of the counted tokens, and of all."""

    half: Profile
    whole: Profile

    def carried(self, tokens: int, heads: int = 1) -> Profile:
        return peers_backward.carried(self.half, self.whole, tokens // COUNTED, heads)


def causal_prefills(head_dim: int) -> Iterator[List[torch.Tensor]]:
    """query, key and value of the counted launches."""
    for tokens in (COUNTED // 2, COUNTED):
        yield [tensor.to(torch.bfloat16) for tensor in peers.inputs(1, 1, tokens, tokens, head_dim)]


def ours(build, head_dim: int, device) -> Counted:
    profiler = peers.Profiler()
    for tensors in causal_prefills(head_dim):
        with build.launchers.use_launcher(profiler, device):
            build.flash_attn_func(*(t.transpose(1, 2) for t in tensors), causal=True)
    return Counted(*profiler.profiles)


def theirs(head_dim: int) -> List[Optional[Counted]]:
    """Of MLX and of PyTorch; None for the one whose kernel is not there."""
    return [
        Counted(*(peers.profiled(dispatch(*t, head_dim**-0.5, True)) for t in causal_prefills(head_dim)))
        if is_there
        else None
        for is_there, dispatch in (
            (peers.mlx_attention.available(), functools.partial(peers.mlx_attention.prefill, matrix_unit=True)),
            (peers.pytorch_attention.available("MppAttention"), peers.pytorch_attention.prefill_unit),
        )
    ]


def described(side: peers.Side, chip: cost_model.Chip, tokens: int, head_dim: int) -> str:
    seconds, longest = side.seconds(chip), side.longest(chip)
    teraflops = 2 * HEADS * head_dim * tokens * (tokens + 1) / seconds / 1e12
    return f" | {seconds * 1e3:8.3f} {teraflops:5.1f} {100 * longest.unit_share:3.0f}% {longest.bound:11}"


def print_prefills(build, head_dim: int, chips, all_tokens) -> None:
    # One core: whatever the tokens, keys are not divided, and tiles are those of many threadgroups.
    mine = [ours(build, head_dim, build.device.Device(10, 1, matrix_unit=has)) for has in (True, False)]
    others = theirs(head_dim)
    for tokens in all_tokens:
        sides = [peers.Side([counted.carried(tokens)]).of_heads(HEADS) for counted in mine]
        sides += [peers.Side([counted.carried(tokens)]).repeated(HEADS) if counted else None for counted in others]
        for chip in chips:
            shown = "".join(described(side, chip, tokens, head_dim) if side else f" | {'':31}" for side in sides)
            print(f"d{head_dim:<4} {tokens:6} tokens {chip.name:8}   {shown}", flush=True)


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


def gradients(build, head_dim: int, causal: bool, device) -> List[Tuple[object, Counted]]:
    """The plan and the launches of the terms', the queries' and the keys' kernel."""
    launches = []
    for tokens in (COUNTED // 2, COUNTED):
        tensors = [t.transpose(1, 2).contiguous() for t in peers.inputs(1, 1, tokens, tokens, head_dim)]
        profiler, _ = peers_backward.profiled(build, device, tensors, causal=causal)
        launches.append(list(zip(profiler.plans, profiler.profiles))[-3:])
    return [(plan, Counted(half, whole)) for (plan, half), (_, whole) in zip(*launches)]


def predicted(launches, chip: cost_model.Chip, tokens: int) -> List[cost_model.Prediction]:
    """Of each of gradients(), for all heads."""
    return [
        cost_model.predict(counted.carried(tokens, HEADS), chip, peers_backward.EFFICIENCY.get(plan.source))
        for plan, counted in launches
    ]


def seconds(predictions: List[cost_model.Prediction]) -> float:
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
    for plan, (_, profile) in with_unit[1:]:
        blocks = COUNTED**2 / 16 / 32
        rows = [profile.rows[index] for index in profile.order]
        alu = sum(cost_model.clocks(row.classes, 10) for row in rows) / blocks
        l1 = cost_model.SCHEDULERS * sum(row.device_clocks + row.threadgroup_clocks for row in rows) / blocks
        print(
            f"      {plan.kernel.removeprefix('attention_backward_'):52} {profile.needs(10).live:6.1f} registers, "
            f"{cost_model.unit_clocks(profile, 10) / blocks:5.0f} of the unit, {alu:4.0f} of the ALUs, "
            f"{l1:5.0f} of L1, {cost_model.dram_bytes(profile) / COUNTED**2:4.1f} bytes",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, action="append", help=f"default: {', '.join(map(str, HEAD_DIMS))}")
    parser.add_argument(
        "--tokens", type=int, action="append", help=f"multiples of {COUNTED}; default: {', '.join(map(str, TOKENS))}"
    )
    options = parser.parse_args()
    head_dims, all_tokens = options.head_dim or HEAD_DIMS, options.tokens or TOKENS
    if any(tokens < COUNTED or tokens % COUNTED for tokens in all_tokens):
        parser.error(f"--tokens is a multiple of {COUNTED}")
    chips = [chip_named(name) for name in CHIPS]
    build = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build")
    print(__doc__.split("\n\n", 1)[1])
    peers.download()
    columns = "".join(f" | {name:>8}  TFLOPS, unit {'':9}" for name in ("unit ms", "without", "MLX ms", "PyTorch"))
    print(f"{'':28}{columns}")
    for head_dim in head_dims:
        print_prefills(build, head_dim, chips, all_tokens)
    print("\nclocks of 16 rows x 32 keys (of slices: together)")
    for tile in dict.fromkeys(tile for tile, _ in build.planning.tiles.UNIT_KERNELS.values()):
        print(describe(build, tile), flush=True)
    print("\ngradients: with the unit and without, and their ratio; of the first, the queries' kernel and the keys'")
    for head_dim in head_dims:
        print_gradients(build, head_dim, chips, all_tokens)


if __name__ == "__main__":
    main()
