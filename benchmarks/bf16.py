"""bf16 beside fp16 on GPUs that have no bfloat operands (M1, M2): python benchmarks/bf16.py

Prefill of 32 heads, not causal, and decode of 32 query heads on 8 key/value heads, each planned for each chip; of a
prefill one tile of rows is simulated and counted as often as there are. time: predicted microseconds of fp16 and bf16,
and bf16's over fp16's. clocks: bf16's over fp16's of those that instructions are issued for; of which, in fp16's, the
missing operands cost by themselves (widening): conversions between bfloat and float, and products of floats where fp16
has products of halves. The rest is what bf16's tile costs.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import functools
import pathlib

import kernels
import peers  # puts the simulator on the path
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.report import chip_named

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHIPS = tuple(map(chip_named, ("M1", "M1 Max", "M2 Max")))
HEADS, HEADS_KV = 32, 8
PREFILL, DECODE = (1024, 2048, 4096, 8192), (1024, 8192, 32768)


@functools.lru_cache(maxsize=None)
def profiles(build, device, dtype: torch.dtype, query: tuple, key: tuple, num_splits: int):
    """Of the launches of a call on tensors of these shapes."""
    profiler = peers.Profiler()
    with build.launchers.use_launcher(profiler, device):
        build.flash_attn_with_kvcache(*(torch.randn(s).to(dtype) for s in (query, key, key)), num_splits=num_splits)
    return profiler.profiles


def prefill(build, device, dtype: torch.dtype, length: int, head_dim: int) -> peers.Side:
    def threadgroups(block_m: int) -> int:
        return HEADS * length // block_m

    tile = build.planning.tiles.choose(device, dtype, head_dim, head_dim, 0, threadgroups, False)
    preferring = build.device.SMALLEST._replace(preferred=tile)
    shapes = (1, tile.block_m, 1, head_dim), (1, length, 1, head_dim)
    [one] = profiles(build, preferring, dtype, *shapes, 1)
    return peers.Side([one._replace(order=one.order * (length // tile.block_m)).repeated(HEADS)])


def decode(build, device, dtype: torch.dtype, length: int, head_dim: int) -> peers.Side:
    return peers.Side(profiles(build, device, dtype, (1, 1, HEADS, head_dim), (1, length, HEADS_KV, head_dim), 0))


def by_class(side: peers.Side, *prefixes: str) -> float:
    """Clocks of some classes of instructions, summed over all SIMD groups."""
    table, classes = cost_model.CLOCKS[7], cost_model.CLASSES
    return sum(side.total(name) * table[name] for name in classes if name in table and name.startswith(prefixes))


def line(build, chip, call, length: int, head_dim: int) -> str:
    device = build.device.Device(chip.family, chip.cores)
    half, bf16 = (call(build, device, dtype, length, head_dim) for dtype in (torch.float16, torch.bfloat16))
    times = [side.seconds(chip) for side in (half, bf16)]
    issued = half.clocks(chip)
    widening = by_class(bf16, "mma", "bfloat") - by_class(half, "mma", "bfloat")
    limits = "".join(f" {side.longest(chip).bound:18}" for side in (half, bf16))
    return (
        f"{call.__name__:8} {length:6} d{head_dim:<4} {chip.name:7} {times[0] * 1e6:10.1f} {times[1] * 1e6:10.1f}"
        f" {times[1] / times[0]:6.3f} {bf16.clocks(chip) / issued:8.3f} {widening / issued:9.3f}{limits}"
    )


def main() -> None:
    build = kernels.get_local_kernel(ROOT / "build")
    print(__doc__.split("\n\n", 1)[1])
    print(f"{'':29} {'fp16':>10} {'bf16':>10}  ratio   clocks  widening bound")
    for call, lengths in ((prefill, PREFILL), (decode, DECODE)):
        for head_dim in (64, 128):
            for length in lengths:
                for chip in CHIPS:
                    print(line(build, chip, call, length, head_dim), flush=True)


if __name__ == "__main__":
    main()
