"""The one table of tiles, which attention_forward.metal and attention_forward_unit.metal are instantiated for, and the
choice among them for a call.

A row here is a kernel: `make build` writes flash_sdpa/instances.h and instances_unit.h from the tables
(tools/instantiate.py), the run-time launcher takes single rows, and the head dims that there are kernels for are those
of the rows.

The figures beside each row are counters of the simulator (python benchmarks/tiles.py prints them, for the rows and for
others): estimated live registers of a lane, and the share of matrix products in the clocks of a 512 x 512 prefill, on
Apple7 unless said otherwise. Up to 104 registers leave a core 16 SIMD groups, and so its full rate; head_dim 256 and
more, and from 128 on in fp32, gets there by dividing the columns of a row among SIMD groups. Within that the fewest
clocks win.

From 512 on staged keys and values take turns in threadgroup memory, which does not hold both. With 8 SIMD groups to a
threadgroup another one fits the core beside it, to work while it waits; fp32 takes 16, as what 8 of them load for 8
rows would be more than the L2 cache gives.
"""

from __future__ import annotations

from typing import Callable, Mapping, Tuple

import torch

from ..call import DTYPES
from . import tuned
from .device import SMALLEST, Device
from .tile import DECODE_ROWS, DIRECT, STAGED, UNIT_ROWS, Loader, Table, Tables, Tile
from .unit_tiles import UNIT_16, UNIT_FEW_16, UNIT_TRIALS_16

__all__ = ["DIRECT", "STAGED", "Loader", "Tile", "candidates", "choose"]  # of tile.py, and the choice

SIMDGROUPS_PER_CORE = 16  # at full rate, by published measurements of M1 and M2
MAX_SPLITS = 64  # parts of the keys; attention_combine.metal: kMaxSplits

# fmt: off

# Many rows on Apple7 and 8: 8 SIMD groups share what they stage, which saves 1 to 2 % of the clocks beside 4.
LARGE_F16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      64,          8,      1,          1, STAGED),  # 58.5 registers, 79 %
    Tile(      64,        64,      32,          8,      1,          1, STAGED),  # 62.5, 86 %; blocks of 64: 69.5, 88 %
    Tile(      72,        72,      32,          8,      1,          1, STAGED),  # 64.5, 87 %
    Tile(      80,        80,      32,          8,      1,          1, STAGED),  # 67.5, 88 %
    Tile(      96,        96,      32,          8,      1,          1, STAGED),  # 73.5, 90 %
    Tile(     128,       128,      32,          8,      1,          1, STAGED),  # 85.5, 92 %; two slices: 59.5, 84 %
    Tile(     192,       128,      32,          8,      1,          1, STAGED),  # 93.5, 93 %
    Tile(     256,       256,      16,          4,      2,          1, STAGED),  # 83, 88 %; undivided: 134, rate 0.78
    Tile(     512,       512,      16,          2,      4,          1, STAGED),  # 87.5, 86 %; 4 row groups save 2 %
    Tile(     576,       512,      16,          2,      4,          1, STAGED),  # 89.5, 86 %
)
LARGE_F32 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      64,          8,      1,          1, STAGED),  # 65.5, 79 %
    Tile(      64,        64,      32,          8,      1,          1, STAGED),  # 73.5, 85 %
    Tile(      72,        72,      32,          8,      1,          1, STAGED),  # 77.5, 86 %
    Tile(      80,        80,      32,          8,      1,          1, STAGED),  # 81.5, 87 %
    Tile(      96,        96,      32,          8,      1,          1, STAGED),  # 90, 89 %
    Tile(     128,       128,      16,          4,      2,          1, STAGED),  # 71.5, 80 %; undivided: 106, rate 0.78
    Tile(     192,       128,      16,          4,      2,          1, STAGED),  # 80.5, 82 %
    Tile(     256,       256,       8,          2,      4,          1, STAGED),  # 71.5, 71 %; two slices: 104, 84 %
    Tile(     512,       512,       8,          2,      8,          1, STAGED),  # 72.5, 69 %; four slices: 104.5
    Tile(     576,       512,       8,          2,      8,          1, STAGED),  # 76, 70 %
)

# bf16 on Apple7 and 8, which have no bfloat operands: the query and what is staged are fp32. 8 row groups of two slices
# would save 3 % of the clocks, but no other threadgroup would fit the core beside them, to work while they wait.
LARGE_BF16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      64,          8,      1,          1, STAGED),  # 64.5, 78 %
    Tile(      64,        64,      32,          8,      1,          1, STAGED),  # 72.5, 84 %; blocks of 48: 76.5, 85 %
    Tile(      72,        72,      32,          8,      1,          1, STAGED),  # 77.5, 85 %
    Tile(      80,        80,      32,          8,      1,          1, STAGED),  # 81.5, 86 %
    Tile(      96,        96,      32,          8,      1,          1, STAGED),  # 90, 87 %
    Tile(     128,       128,      16,          8,      1,          1, STAGED),  # 103.5, 88 %; 24: 105, rate 0.52
    Tile(     192,       128,      16,          4,      2,          1, STAGED),  # 80.5, 80 %; undivided: 120.5
    Tile(     256,       256,       8,          4,      2,          1, STAGED),  # 102.5, 82 %; blocks of 16: 37 KB
    Tile(     512,       512,       8,          2,      8,          1, STAGED),  # 72.5, 66 %; four slices: 104.5
    Tile(     576,       512,       8,          2,      8,          1, STAGED),  # 75.5, 67 %
)

# Half the rows, for work that would leave cores idle in tiles of 64. 4 SIMD groups must find room for their blocks four
# times a core.
SMALL_F16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      64,          4,      1,          1, STAGED),  # 57.5 registers, 79 %
    Tile(      64,        64,      32,          4,      1,          1, STAGED),  # 61.5, 85 %
    Tile(      72,        72,      32,          4,      1,          1, STAGED),  # 65, 86 %
    Tile(      80,        80,      32,          4,      1,          1, STAGED),  # 68, 87 %
    Tile(      96,        96,      32,          4,      1,          1, STAGED),  # 74.5, 89 %
    Tile(     128,       128,      16,          4,      1,          1, STAGED),  # 85, 89 %
    Tile(     192,       128,      16,          4,      1,          1, STAGED),  # 93, 90 %
    *LARGE_F16[7:],  # from 256 on
)
SMALL_F32 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          4,      1,          1, STAGED),  # 57.5, 75 %
    Tile(      64,        64,      16,          4,      1,          1, STAGED),  # 72.5, 81 %
    Tile(      72,        72,      16,          4,      1,          1, STAGED),  # 77.5, 82 %
    Tile(      80,        80,      16,          4,      1,          1, STAGED),  # 81.5, 83 %
    Tile(      96,        96,      16,          4,      1,          1, STAGED),  # 90, 85 %
    *LARGE_F32[5:],  # from 128 on
)
SMALL_BF16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          4,      1,          1, STAGED),  # 56.5, 73 %
    Tile(      64,        64,      16,          4,      1,          1, STAGED),  # 71.5, 79 %
    Tile(      72,        72,      16,          4,      1,          1, STAGED),  # 77.5, 79 %
    Tile(      80,        80,      16,          4,      1,          1, STAGED),  # 81.5, 81 %
    Tile(      96,        96,      16,          4,      1,          1, STAGED),  # 90, 82 %
    Tile(     128,       128,       8,          4,      1,          1, STAGED),  # 103.5, 82 %; two slices: 70.5, 78 %
    *LARGE_BF16[6:],  # from 192 on
)

# Apple9 and later. Addresses of direct loads are computed beside the products there, so that the counters are equal to
# those of staged tiles within 1 % (3 % below head_dim 64); published measurements favour direct loads on M3 and M4.
DIRECT_F16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          4,      1,          1, DIRECT),  # 55.5 registers, 87 % on Apple9
    Tile(      64,        64,      32,          4,      1,          1, DIRECT),  # 70.5, 93 %
    Tile(      72,        72,      32,          4,      1,          1, DIRECT),  # 75, 94 %
    Tile(      80,        80,      32,          4,      1,          1, DIRECT),  # 79.5, 94 %
    Tile(      96,        96,      32,          4,      1,          1, DIRECT),  # 85.5, 95 %
    Tile(     128,       128,      16,          4,      1,          1, DIRECT),  # 95, 96 %
    Tile(     192,       128,       8,          4,      1,          1, DIRECT),  # 97.5, 95 %
    Tile(     256,       256,      16,          4,      2,          1, DIRECT),  # 95, 95 %
    Tile(     512,       512,      16,          2,      4,          1, DIRECT),  # 95, 94 %
    Tile(     576,       512,       8,          2,      4,          1, DIRECT),  # 86.5, 94 %; 16: 103.5 in bf16
)
DIRECT_F32 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          4,      1,          1, DIRECT),  # 65, 87 %
    Tile(      64,        64,      32,          4,      1,          1, DIRECT),  # 86, 93 %
    Tile(      72,        72,      32,          4,      1,          1, DIRECT),  # 89.5, 94 %
    Tile(      80,        80,      32,          4,      1,          1, DIRECT),  # 93, 94 %
    Tile(      96,        96,      16,          4,      1,          1, DIRECT),  # 98.5, 94 %
    Tile(     128,       128,      32,          4,      2,          1, DIRECT),  # 87, 92 %
    Tile(     192,       128,      16,          4,      2,          1, DIRECT),  # 93.5, 92 %
    Tile(     256,       256,      16,          4,      4,          1, DIRECT),  # 83.5, 90 %
    Tile(     512,       512,      16,          2,      8,          1, DIRECT),  # 83.5, 87 %; four slices: 109
    Tile(     576,       512,      16,          2,      8,          1, DIRECT),  # 93.5, 88 %
)

# Up to 8 rows: all SIMD groups work on the same ones, on keys of their own, so that each is loaded once, directly.
# Up to 16, two such threadgroups are as fast by the counters as any tile of more rows (python benchmarks/decode.py), in
# bf16 on Apple7 up to 2.8 times; what the second loads, it finds in the L2 cache.
DECODE_F16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          1,      1,          4, DIRECT),  # 59.5 registers
    Tile(      64,        64,      16,          1,      1,          4, DIRECT),  # 70.5
    Tile(      72,        72,      16,          1,      1,          4, DIRECT),  # 74
    Tile(      80,        80,      16,          1,      1,          4, DIRECT),  # 79
    Tile(      96,        96,      16,          1,      1,          4, DIRECT),  # 85
    Tile(     128,       128,      16,          1,      1,          4, DIRECT),  # 99
    Tile(     192,       128,       8,          1,      1,          4, DIRECT),  # 101.5
    Tile(     256,       256,      16,          1,      4,          1, DIRECT),  # 66.5; undivided: 149
    Tile(     512,       512,      16,          1,      4,          1, DIRECT),  # 95
    Tile(     576,       512,      16,          1,      4,          1, DIRECT),  # 99
)
DECODE_F32 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    Tile(      32,        32,      32,          1,      1,          4, DIRECT),  # 69
    Tile(      64,        64,      16,          1,      1,          4, DIRECT),  # 85.5
    Tile(      72,        72,      16,          1,      1,          4, DIRECT),  # 88.5
    Tile(      80,        80,      16,          1,      1,          4, DIRECT),  # 92.5
    Tile(      96,        96,      16,          1,      1,          4, DIRECT),  # 102.5
    Tile(     128,       128,      16,          1,      2,          1, DIRECT),  # 83.5; undivided: 119.5
    Tile(     192,       128,      16,          1,      2,          1, DIRECT),  # 93.5
    Tile(     256,       256,      16,          1,      4,          1, DIRECT),  # 83.5
    Tile(     512,       512,      16,          1,      8,          1, DIRECT),  # 83.5; four slices: 109
    Tile(     576,       512,      16,          1,      8,          1, DIRECT),  # 93.5
)
# Apple7 and 8: each of the query's values takes 32 bits, and 32 more once it is widened, unless a block of 8 keys needs
# it once only. From 128 on the columns are divided, in four: threadgroups of two SIMD groups would make more parts of
# the keys, which have to be joined.
DECODE_BF16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
    *DECODE_F16[:3],  # up to 72: 76, 97, 102.5
    Tile(      80,        80,       8,          1,      1,          4, DIRECT),  # 87; blocks of 16: 108.5
    Tile(      96,        96,       8,          1,      1,          4, DIRECT),  # 97; blocks of 16: 120.5
    Tile(     128,       128,      32,          1,      4,          1, DIRECT),  # 73; undivided: 116
    Tile(     192,       128,      32,          1,      4,          1, DIRECT),  # 86; undivided: 128
    DECODE_F16[7],  # 95
    Tile(     512,       512,      16,          1,      8,          1, DIRECT),  # 95; four slices: 128
    Tile(     576,       512,       8,          1,      8,          1, DIRECT),  # 81; blocks of 16: 106
)

# What some rows give place to when a call has features: packed or padded rows, pages, lse, ALiBi, dropout or a bias
# take 1 to 8 registers more, and above 104 a core holds half its SIMD groups. By the cost model a bias then takes 1.95
# times the clocks at head_dim 128 and 256, and 1.13 and 1.26 times in these.
ROOMY: Mapping[Tuple[torch.dtype, Tile], Tile] = {
    (torch.bfloat16, tile): roomy
    for tile, roomy in (
        #                        head_dim, value_dim, block_n, row_groups, slices, key_groups, loader
        (LARGE_BF16[5], Tile(         128,       128,      32,          4,      2,          1, STAGED)),  # 80 registers
        (SMALL_BF16[5], Tile(         128,       128,      32,          4,      2,          1, STAGED)),
        (LARGE_BF16[7], Tile(         256,       256,       8,          2,      4,          1, STAGED)),  # 70.5
    )
}

# fmt: on

APPLE7 = {
    torch.float16: Tables(LARGE_F16, SMALL_F16, DECODE_F16, DECODE_F16),
    torch.bfloat16: Tables(LARGE_BF16, SMALL_BF16, DECODE_BF16, DECODE_BF16),
    torch.float32: Tables(LARGE_F32, SMALL_F32, DECODE_F32, DECODE_F32),
}
APPLE9 = {
    torch.float16: Tables(DIRECT_F16, DIRECT_F16, DECODE_F16, DECODE_F16),
    torch.bfloat16: Tables(DIRECT_F16, DIRECT_F16, DECODE_F16, DECODE_F16),
    torch.float32: Tables(DIRECT_F32, DIRECT_F32, DECODE_F32, DECODE_F32),
}
# From 512 on, 4 slices would hand on more scores than the unit hides, and 576 has no slices of 32 columns.
_UNIT_LARGE, _UNIT_FEW = (*UNIT_16, *DIRECT_F16[8:]), (*UNIT_FEW_16, *DIRECT_F16[8:])
MATRIX_UNIT: Mapping[torch.dtype, Tables] = dict.fromkeys(
    (torch.float16, torch.bfloat16), Tables(_UNIT_LARGE, _UNIT_LARGE, DECODE_F16, _UNIT_FEW)
)
TABLES: Mapping[int, Mapping[torch.dtype, Tables]] = {7: APPLE7, 9: APPLE9}  # a family between has the older one's

# Clocks of a large tile beside those of small ones for as many rows.
LARGE_SAVING = {torch.float16: 0.98, torch.bfloat16: 0.94, torch.float32: 0.98}

KERNELS: Mapping[str, Tuple[Tile, torch.dtype]] = {  # by host name
    tile.kernel(dtype): (tile, dtype)
    for dtype in DTYPES
    for family in TABLES.values()
    for table in family[dtype]
    for tile in dict.fromkeys(roomy for row in table for roomy in (row, ROOMY.get((dtype, row), row)))
}
UNIT_KERNELS: Mapping[str, Tuple[Tile, torch.dtype]] = {  # the same of those that need the matrix unit
    tile.kernel(dtype): (tile, dtype) for dtype in MATRIX_UNIT for tile in (*UNIT_16, *UNIT_FEW_16, *UNIT_TRIALS_16)
}
SHAPES = tuple(sorted({(tile.head_dim, tile.value_dim) for tile, _ in KERNELS.values()}))  # that there are kernels for
HEAD_DIMS = tuple(head_dim for head_dim, value_dim in SHAPES if head_dim == value_dim)  # for values of the same one


def candidates(device: Device, dtype: torch.dtype, head_dim: int, value_dim: int) -> Tuple[Tile, ...]:
    """The tiles that can serve any number of rows, the best for long work first: those for the device, then those for
    others.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    own = _tables(device, dtype)
    every = [table for tables in (own, *(family[dtype] for family in TABLES.values())) for table in tables[:2]]
    found = [_first(table, dtype, head_dim, value_dim) for table in every]
    if found[0].uses_unit:
        found[1:1] = [tile for tile in UNIT_TRIALS_16 if tile[:2] == found[0][:2]]
    return tuple(dict.fromkeys(found))


def choose(
    device: Device,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    few_rows: int,
    threadgroups: Callable[[int], int],
    has_features: bool,
) -> Tile:
    """The tile for a call. few_rows: one of FEW_ROWS, if no sequence has more rows, else 0; threadgroups(block_m) tells
    how many threadgroups there are for undivided keys; has_features: any of those of ROOMY, apart from padding.

    Raises NotImplementedError as `candidates`.
    """
    preferred = device.preferred
    if preferred is not None and head_dim <= preferred.head_dim and value_dim <= preferred.value_dim:
        return preferred
    tables = _tables(device, dtype)
    if few_rows == DECODE_ROWS:
        return _first(tables.decode, dtype, head_dim, value_dim)
    few = _first(tables.few, dtype, head_dim, value_dim)
    if few_rows == UNIT_ROWS:
        return few
    if few_rows:
        tile = _first(tables.small, dtype, head_dim, value_dim)
        if threadgroups(tile.block_m) * MAX_SPLITS * tile.simdgroups < device.cores * SIMDGROUPS_PER_CORE:
            return few
    large = _first(tables.large, dtype, head_dim, value_dim)
    winners = tuned.winners(Device(device.family, device.cores, matrix_unit=device.matrix_unit), _checked)
    fastest = winners.get((DTYPES[dtype], large.head_dim, large.value_dim))  # if that was measured on this machine
    if fastest is not None:
        return fastest
    small = _first(tables.small, dtype, head_dim, value_dim)
    if has_features or (head_dim, value_dim) != (large.head_dim, large.value_dim):
        large, small = (ROOMY.get((dtype, tile), tile) for tile in (large, small))
    if small == large:
        return large

    def clocks(tile: Tile) -> int:  # until the last core has done its rows
        return -(-threadgroups(tile.block_m) // device.cores) * tile.block_m

    return large if clocks(large) * LARGE_SAVING[dtype] <= clocks(small) else small


def _checked(device: Device, key: tuned.Key, stored: Tuple) -> Tile:
    """The candidate that a stored tile is equal to. Raises ValueError if none is."""
    name, *shape = key
    dtype = next((dtype for dtype, known in DTYPES.items() if known == name), None)
    if dtype is None or tuple(shape) not in SHAPES:
        raise ValueError(f"no shape that is tuned: {', '.join(map(str, key))}")
    for tile in candidates(device, dtype, *shape):
        if list(tile) == stored:
            return tile
    raise ValueError(f"no tile of the table for {', '.join(map(str, key))}: {stored}")


def _tables(device: Device, dtype: torch.dtype) -> Tables:
    """Those for the matrix unit, or of the newest family that is not newer than the device's."""
    if device.matrix_unit and dtype in MATRIX_UNIT:
        return MATRIX_UNIT[dtype]
    family = SMALLEST.family
    for known in TABLES:
        if family < known <= device.family:
            family = known
    tables = TABLES[family].get(dtype)
    if tables is None:
        raise NotImplementedError(f"no Metal kernel for {dtype}; there are kernels for {', '.join(map(str, DTYPES))}")
    return tables


def _first(table: Table, dtype: torch.dtype, head_dim: int, value_dim: int) -> Tile:
    """The first tile of a table that holds these sizes."""
    for tile in table:
        if head_dim <= tile.head_dim and value_dim <= tile.value_dim:
            return tile
    raise NotImplementedError(
        f"no Metal kernel for head_dim {head_dim} and value head_dim {value_dim} in {dtype}; there are kernels for up "
        "to {} and {}".format(*SHAPES[-1])
    )
