"""The static budget of every kernel, and the counters behind the tile tables: python benchmarks/tiles.py

For each tile of planning/tiles.py, in fp16 and fp32 (bf16 has fp16's tiles): threadgroup memory, estimated live
registers, instructions of the optimised code, and, for a prefill of 512 x 512 (decode tiles: 8 rows, 1024 keys) on
Apple7 and Apple9, clocks, the share of matrix products in them and the SIMD groups that a core holds. With --head-dim
also the tiles that the tables leave out, for that size: blocks of 8 to 128 keys and 1 to 4 slices.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import shutil
import sys
import tempfile

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "simulator")]

from metal_simulator import CompileError, Library  # noqa: E402
from metal_simulator.profiler import cost_model  # noqa: E402
from metal_simulator.profiler.report import chip_named  # noqa: E402

CHIPS = tuple(map(chip_named, ("M1 Max", "M3 Max")))  # Apple7, Apple9
BYTES_PER_INSTRUCTION = 8  # a guess: instructions of Apple GPUs have 2 to 14
METAL = {torch.float16: "half", torch.bfloat16: "bfloat", torch.float32: "float"}


def with_row(tile, dtype: torch.dtype, names: dict, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the kernels with one row in their table."""
    shutil.copytree(ROOT / "flash_sdpa", folder, ignore=shutil.ignore_patterns("*.mm"))
    source = folder / "attention_forward.metal"
    loader = "staged" if tile.is_staged else "direct"
    lines = [line for line in source.read_text().splitlines() if not line.startswith("INSTANTIATE(")]
    row = f"INSTANTIATE({names[dtype]}, {METAL[dtype]}, {', '.join(map(str, tile[:-1]))}, {loader})"
    source.write_text("\n".join([*lines, row, ""]))
    return source


def describe(build, tile, dtype: torch.dtype, source: pathlib.Path):
    """One line on a tile, and its budget. Raises CompileError for one that no threadgroup can hold."""
    profiles, budgets = [], []

    def launcher(plan, tensors):
        kernel = Library(source.parent / plan.source, include=[source.parent]).kernel(plan.kernel, dict(plan.constants))
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        profiles.append(kernel.profile(buffers, plan.grid, plan.threads))
        budgets.append(kernel.budget())

    tokens, keys = (8, 1024) if tile.block_m == 8 else (512, 512)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, tokens, 1, tile.head_dim), (1, keys, 1, tile.head_dim), (1, keys, 1, tile.value_dim)]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    device = build.device.SMALLEST._replace(preferred=tile)
    with build.launchers.use_launcher(launcher, device):
        build.flash_attn_with_kvcache(query, key, value, num_splits=1)
    (profile,), (budget,) = profiles, budgets
    line = f"{tile.kernel(dtype)[18:]:38} {budget.threadgroup_bytes:6} {budget.registers:6.1f} {budget.instructions:6}"
    for chip in CHIPS:
        prediction = cost_model.predict(profile, chip)
        clocks = sum(cost_model.clocks(profile.rows[index].classes, chip.family) for index in profile.order)
        held = prediction.occupancy
        line += f" | {clocks / 1e6:8.3f} {100 * prediction.matrix_share:5.1f}% {held.simdgroups:3} {held.rate:5.2f}"
    return line, budget


def try_tile(build, tile, dtype: torch.dtype) -> str:
    """One line on a tile that the kernels are not instantiated for."""
    with tempfile.TemporaryDirectory() as folder:
        source = with_row(tile, dtype, build.call.DTYPES, pathlib.Path(folder) / "flash_sdpa")
        try:
            return describe(build, tile, dtype, source)[0]
        except CompileError as error:
            return f"{tile.kernel(dtype)[18:]:38} {error}"


def left_out(tiles, head_dim: int, dtype: torch.dtype):
    """Tiles of this head_dim that no table has."""
    known = {tile for table in (tiles.LARGE, tiles.SMALL, tiles.DIRECT, tiles.DECODE) for tile in table[dtype.itemsize]}
    sizes = next((t.head_dim, t.value_dim) for t in tiles.LARGE[dtype.itemsize] if head_dim <= t.head_dim)
    for is_staged, block_n, slices in itertools.product((True, False), (8, 16, 32, 64, 128), (1, 2, 4)):
        for row_groups, key_groups in ((8 // slices, 1), (4, 1), (1, 1 if slices > 1 else 4)):
            tile = tiles.Tile(*sizes, 8, block_n, row_groups, slices, key_groups, is_staged)
            fits = tile.simdgroups <= 16 and sizes[0] % (8 * slices) == sizes[1] % (8 * slices) == 0
            if fits and tile not in known and not (is_staged and key_groups > 1):
                known.add(tile)
                yield tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, help="also the tiles that the tables leave out for this head_dim")
    options = parser.parse_args()
    build = kernels.get_local_kernel(ROOT / "build")
    tiles, source = build.planning.tiles, ROOT / "flash_sdpa" / "attention_forward.metal"
    print(__doc__.split("\n\n", 1)[1])
    columns = "".join(f" | {chip.name:>8} share held  rate" for chip in CHIPS)
    header = f"{'bytes':>6} {'regs':>6} {'instr':>6}{columns}    Mclocks, share of products, SIMD groups, rate"
    instructions = {}
    for name in ("LARGE", "SMALL", "DIRECT", "DECODE"):
        print(f"{name:38} {header}")
        for dtype in (torch.float16, torch.float32):
            for tile in getattr(tiles, name)[dtype.itemsize]:
                line, budget = describe(build, tile, dtype, source)
                instructions[tile, dtype] = budget.instructions * (1 + (dtype == torch.float16))  # bf16 beside fp16
                print(line, flush=True)
    if options.head_dim:
        print(f"{'left out':38} {header}")
        for dtype in (torch.float16, torch.float32):
            for tile in left_out(tiles, options.head_dim, dtype):
                print(try_tile(build, tile, dtype), flush=True)
    number, size = len(Library(source, [source.parent]).kernels), sum(instructions.values()) * BYTES_PER_INSTRUCTION
    print(f"\n{number} kernels of about {size / 2**20:.1f} MiB together, specialised without features")


if __name__ == "__main__":
    main()
