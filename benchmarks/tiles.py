"""The static budget of every kernel, and the counters behind the tile tables: python benchmarks/tiles.py

For each tile of planning/tiles.py, in fp16, bf16 and fp32: threadgroup memory, instructions of the optimised code, and,
on Apple7 and Apple9, estimated live registers with nothing moved out of loops and with what LLVM moves out of them,
and, for a prefill of 512 x 512 (decode tiles: 8 rows, 1024 keys), clocks, the share of matrix products in them and the
SIMD groups that a core holds. Last, how many kernels there are, and the estimated bytes of their code. With
--head-dim also the tiles that the tables leave out, for that size: blocks of 8 to 128 keys and 1 to 4 slices.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import shutil
import statistics
import sys
import tempfile

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "simulator")]

from metal_simulator import CompileError, Library  # noqa: E402
from metal_simulator.profiler import cost_model, registers  # noqa: E402
from metal_simulator.profiler.report import chip_named  # noqa: E402

CHIPS = tuple(map(chip_named, ("M1 Max", "M3 Max")))  # Apple7, Apple9
SOURCE = ROOT / "flash_sdpa" / "attention_forward.metal"


def with_one(tile, dtype: torch.dtype, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the kernels with one instance."""
    shutil.copytree(SOURCE.parent, folder, ignore=shutil.ignore_patterns("*.mm"))
    (folder / "instances.h").write_text(tile.instance(dtype))
    return folder / SOURCE.name


def attend(build, launcher, tile, dtype: torch.dtype) -> None:
    """A call that is planned for a tile: of 512 rows and keys, or 8 rows and 1024 keys for a tile that has no more."""
    tokens, keys = (8, 1024) if tile.block_m == 8 else (512, 512)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, tokens, 1, tile.head_dim), (1, keys, 1, tile.head_dim), (1, keys, 1, tile.value_dim)]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    with build.launchers.use_launcher(launcher, build.device.SMALLEST._replace(preferred=tile)):
        build.flash_attn_with_kvcache(query, key, value, num_splits=1)


def budget(build, library: Library, tile, dtype: torch.dtype, **features: bool):
    """The simulator's Budget of a kernel, without features but these function constants."""
    found = []

    def launcher(plan, tensors):
        found.append(library.kernel(plan.kernel, {**dict(plan.constants), **features}, build="count").budget())

    attend(build, launcher, tile, dtype)
    return found[0]


def library_bytes(build, step: int = 1) -> float:
    """Of the native code of all kernels, without features: an estimate, from the instructions of each step-th one."""
    library, every = Library(SOURCE, include=[SOURCE.parent]), list(build.planning.tiles.KERNELS.values())
    instructions = [budget(build, library, *kernel).instructions for kernel in every[::step]]
    return cost_model.code_bytes(statistics.mean(instructions) * len(every))


def describe(build, tile, dtype: torch.dtype, source: pathlib.Path = SOURCE) -> str:
    """One line on a tile. Raises CompileError for one that no threadgroup can hold."""
    found = []

    def launcher(plan, tensors):
        kernel = Library(source.parent / plan.source, include=[source.parent]).kernel(
            plan.kernel, dict(plan.constants), build="count"
        )
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        found.append((kernel.profile(buffers, plan.grid, plan.threads), kernel.budget()))

    attend(build, launcher, tile, dtype)
    [(profile, budget)] = found
    line = f"{tile.kernel(dtype)[18:]:38} {budget.threadgroup_bytes:6} {budget.instructions:6}"
    for chip in CHIPS:
        live, hoisted = registers.of_family(budget.registers_by_family, chip.family)
        prediction = cost_model.predict(profile, chip)
        clocks = sum(cost_model.clocks(profile.rows[index].classes, chip.family) for index in profile.order)
        held = prediction.occupancy
        line += f" | {live:6.1f} {hoisted:6.1f}"
        line += f" {clocks / 1e6:8.3f} {100 * prediction.matrix_share:5.1f}% {held.simdgroups:3} {held.rate:5.2f}"
    return line


def try_tile(build, tile, dtype: torch.dtype) -> str:
    """One line on a tile that the kernels are not instantiated for."""
    with tempfile.TemporaryDirectory() as folder:
        source = with_one(tile, dtype, pathlib.Path(folder) / "flash_sdpa")
        try:
            return describe(build, tile, dtype, source)
        except CompileError as error:
            return f"{tile.kernel(dtype)[18:]:38} {error}"


def own_tables(tiles):
    """(title, dtype, tiles) of each table and dtype, with the first family of GPUs that it is for."""
    seen = []
    for family, by_dtype in tiles.TABLES.items():
        for dtype, tables in by_dtype.items():
            for name, table in zip(tables._fields, tables):
                if table and not any(dtype == other[0] and table is other[1] for other in seen):
                    seen.append((dtype, table))
                    yield f"Apple{family} {name} {tiles.DTYPES[dtype]}", dtype, table


def left_out(tiles, head_dim: int, dtype: torch.dtype):
    """Tiles of this head_dim that no table has."""
    known = {tile for tile, its_dtype in tiles.KERNELS.values() if its_dtype == dtype}
    sizes = next(shape for shape in tiles.SHAPES if head_dim <= shape[0])
    for loader, block_n, slices in itertools.product((tiles.STAGED, tiles.DIRECT), (8, 16, 32, 64, 128), (1, 2, 4)):
        for row_groups, key_groups in ((8 // slices, 1), (4, 1), (1, 1 if slices > 1 else 4)):
            tile = tiles.Tile(*sizes, block_n, row_groups, slices, key_groups, loader)
            fits = tile.simdgroups <= 16 and sizes[0] % (8 * slices) == sizes[1] % (8 * slices) == 0
            if fits and tile not in known and not (loader == tiles.STAGED and key_groups > 1):
                known.add(tile)
                yield tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, help="also the tiles that the tables leave out for this head_dim")
    options = parser.parse_args()
    build = kernels.get_local_kernel(ROOT / "build")
    tiles = build.planning.tiles
    print(__doc__.split("\n\n", 1)[1])
    columns = "".join(f" |   regs  moved {chip.name:>8} share held  rate" for chip in CHIPS)
    header = f"{'bytes':>6} {'instr':>6}{columns}    registers, Mclocks, products, SIMD groups, rate"
    for title, dtype, table in own_tables(tiles):
        print(f"{title:38} {header}")
        for tile in table:
            print(describe(build, tile, dtype), flush=True)
    if options.head_dim:
        print(f"{'left out':38} {header}")
        for dtype in tiles.DTYPES:
            for tile in left_out(tiles, options.head_dim, dtype):
                print(try_tile(build, tile, dtype), flush=True)
    size = f"{library_bytes(build) / 2**20:.2f} MiB of native code without features"
    print(f"\n{len(tiles.KERNELS)} kernels, about {size}")


if __name__ == "__main__":
    main()
