"""The tiles of the backward kernels: what attention_backward_queries.metal, attention_backward_keys.metal and
attention_backward_unit.metal are instantiated for, as planning/tiles.py for the forward kernel.

The figures beside a row are counters of the simulator (python benchmarks/backward_tiles.py): of the queries' and then
of the keys' kernel, estimated live registers of a lane, and the share of matrix products in the clocks of 512 rows and
keys on Apple7 and on Apple9. Up to 104 registers leave a core 16 SIMD groups.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Tuple, Union

import torch

from ..call import DTYPES
from .device import SMALLEST, Device
from .tile import METAL_TYPES, ROWS, STAGED, UNIT, UNIT_REREADS, UNIT_ROWS, Loader

STORED_KEYS = 32  # stored_weights.h: kStoredKeys


class QueriesTile(NamedTuple):
    """One instantiation of attention_backward_queries: a threadgroup has row_groups x slices SIMD groups, which divide
    the rows and the columns; it sees keys in blocks of block_n."""

    head_dim: int
    value_dim: int
    block_n: int
    row_groups: int
    slices: int
    loader: Loader = STAGED
    is_widened: bool = False  # bfloat to fp32, on its way to threadgroup memory

    @property
    def rows(self) -> int:
        """Rows of a SIMD group."""
        return ROWS if self.loader is STAGED else UNIT_ROWS

    @property
    def block_m(self) -> int:
        """Rows of a threadgroup."""
        return self.rows * self.row_groups

    def stored_floats(self, keys: int) -> int:
        """Of 8 rows, for so many keys, whole stored blocks: in fp32, or on the unit in 16 bits (stored_weights.h)."""
        return 2 * ROWS * keys if self.loader is STAGED else keys // STORED_KEYS * (ROWS * STORED_KEYS + 4)

    @property
    def simdgroups(self) -> int:
        return self.row_groups * self.slices

    def kernel(self, dtype: torch.dtype) -> str:
        """Host name, as the kernels' INSTANTIATE makes it."""
        return (
            f"attention_backward_queries_{_name(dtype, self)}_d{self.head_dim}_v{self.value_dim}_n{self.block_n}"
            f"_g{self.row_groups}x{self.slices}{_suffix(self)}"
        )

    def instance(self, dtype: torch.dtype) -> str:
        """The line of the kernels' text that instantiates it."""
        return _instance(dtype, self)


class KeysTile(NamedTuple):
    """One instantiation of attention_backward_keys: a SIMD group owns STORED_KEYS keys and `columns` of the columns of
    both gradients; a threadgroup has key_groups for each of these parts, and takes block_m rows at a time."""

    head_dim: int
    value_dim: int
    columns: int
    key_groups: int
    block_m: int
    tile_rows: int  # a QueriesTile's block_m
    loader: Loader = STAGED
    is_widened: bool = False

    @property
    def block_n(self) -> int:
        """Keys of a threadgroup."""
        return STORED_KEYS * self.key_groups

    @property
    def simdgroups(self) -> int:
        return (self.head_dim + self.value_dim) // self.columns * self.key_groups

    def kernel(self, dtype: torch.dtype) -> str:
        """Host name, as the kernels' INSTANTIATE makes it."""
        return (
            f"attention_backward_keys_{_name(dtype, self)}_d{self.head_dim}_v{self.value_dim}_c{self.columns}"
            f"_k{self.key_groups}_m{self.block_m}_t{self.tile_rows}{_suffix(self)}"
        )

    def instance(self, dtype: torch.dtype) -> str:
        """The line of the kernels' text that instantiates it."""
        return _instance(dtype, self)


def _name(dtype: torch.dtype, tile: Union[QueriesTile, KeysTile]) -> str:
    return DTYPES[dtype] + ("_widened" if tile.is_widened else "")


def _suffix(tile: Union[QueriesTile, KeysTile]) -> str:
    return "" if tile.loader is STAGED else f"_{tile.loader.value}"


def _instance(dtype: torch.dtype, tile: Union[QueriesTile, KeysTile]) -> str:
    name, numbers = _name(dtype, tile), ", ".join(map(str, tile[: tile._fields.index("loader")]))
    if tile.loader is not STAGED:
        macro = "INSTANTIATE_QUERIES" if isinstance(tile, QueriesTile) else "INSTANTIATE_KEYS"
        return f"{macro}({name}, {METAL_TYPES[dtype]}, {numbers}, {tile.loader.value})\n"
    element = METAL_TYPES[torch.float32 if tile.is_widened else dtype]
    return f"INSTANTIATE({name}, {METAL_TYPES[dtype]}, {element}, {numbers})\n"


class Tiles(NamedTuple):
    """What serves a shape: the first row of a table that holds head_dim and value_dim."""

    queries: QueriesTile
    keys: KeysTile


Table = Tuple[Tiles, ...]


def _row(shape: Tuple[int, int], queries: Tuple[int, int, int], keys: Tuple[int, int, int]) -> Tiles:
    """queries: block_n, row_groups, slices; keys: columns, key_groups, block_m."""
    own = QueriesTile(*shape, *queries)
    return Tiles(own, KeysTile(*shape, *keys, own.block_m))


def _unit_row(shape: Tuple[int, int], queries: Tuple[int, int, int], loader: Loader, keys: Tuple[int, int]) -> Tiles:
    """queries: block_n, row_groups, slices; loader: theirs; keys: columns, key_groups."""
    own = QueriesTile(*shape, *queries, loader)
    return Tiles(own, KeysTile(*shape, *keys, UNIT_ROWS, own.block_m, UNIT))


# fmt: off

F16: Table = (
    # head_dim, value_dim; block_n, row_groups, slices; columns, key_groups, block_m
    _row((32, 32), (32, 8, 1), (32, 4, 32)),  # 60 registers, 83 / 93 %; 70, 88 / 96 %
    _row((64, 64), (32, 8, 1), (64, 4, 32)),  # 75.5, 91 / 97 %; 101, 94 / 98 %
    _row((72, 72), (32, 8, 1), (24, 2, 32)),  # 80, 91 / 97 %; 63, 84 / 94 %
    _row((80, 80), (32, 8, 1), (40, 2, 32)),  # 84, 92 / 97 %; 79, 88 / 96 %
    _row((96, 96), (32, 8, 1), (48, 2, 32)),  # 92, 93 / 98 %; 87, 90 / 96 %
    _row((128, 128), (16, 8, 1), (64, 2, 32)),  # 99.5, 94 / 98 %; 102, 92 / 97 %
    _row((192, 128), (16, 4, 2), (64, 1, 16)),  # 90.5, 89 / 95 %; 104; 2 groups of keys leave a core 10 SIMD groups
    _row((256, 256), (8, 4, 2), (64, 2, 16)),  # 103.5, 90 / 96 %; 102; blocks of 16 keys: 107
)
F32: Table = (
    # head_dim, value_dim; block_n, row_groups, slices; columns, key_groups, block_m
    _row((32, 32), (32, 8, 1), (32, 4, 32)),  # 69.5, 83 / 94 %; 70, 88 / 96 %
    _row((64, 64), (32, 8, 1), (64, 4, 32)),  # 93, 90 / 97 %; 102, 92 / 97 %
    _row((72, 72), (16, 8, 1), (24, 2, 32)),  # 92, 89 / 96 %; 64, 82 / 93 %
    _row((80, 80), (16, 8, 1), (40, 2, 32)),  # 98, 90 / 96 %; 80, 86 / 94 %
    _row((96, 96), (16, 4, 2), (48, 2, 16)),  # 82, 82 / 92 %; 88, 86 / 94 %; undivided, with blocks of 8 keys: 105.5
    _row((128, 128), (16, 4, 2), (64, 2, 16)),  # 93, 86 / 94 %; 103, 89 / 96 %; threadgroup memory bounds the first
    _row((192, 128), (16, 2, 4), (64, 1, 8)),  # 80, 78 / 88 %; 102; with two slices: 112.5, in blocks of 8 keys 108.5
    _row((256, 256), (8, 2, 4), (64, 2, 8)),  # 89, 80 / 90 %; 100, 86 / 94 %
)

# Apple10 with a usable matrix unit, for 16-bit types; 72 and 80 are padded, as in planning/unit_tiles.py. Beside
# each, of the queries' and of the keys' kernel: registers, and for 16 rows x 32 keys on each of a core's four
# schedulers, clocks of the unit and of L1 (python benchmarks/matrix_unit.py). What is stored takes about 1,000 clocks
# of a core's share of memory, to write and again to read, and so bounds the first two, and the keys' at 96. Held, the
# query and the output's gradient would take 27 more registers at 96, and 38 at 128 and 256, for a sixth less of L1;
# undivided rows 39 more at 192, for a quarter.
UNIT_16: Table = (
    # head_dim, value_dim; block_n, row_groups, slices; loader; columns, key_groups
    _unit_row((32, 32), (32, 4, 1), UNIT, (32, 4)),  # 117, 384, 529; 79.5, 256, 272
    _unit_row((64, 64), (32, 4, 1), UNIT, (64, 4)),  # 156.5, 768, 949; 114.5, 512, 412
    _unit_row((96, 96), (32, 4, 1), UNIT_REREADS, (96, 4)),  # 162, 1152, 1681; 146.5, 768, 544
    _unit_row((128, 128), (32, 4, 1), UNIT_REREADS, (64, 2)),  # 182, 1536, 2195; 115.5, 1024, 824
    _unit_row((192, 128), (32, 2, 2), UNIT, (64, 2)),  # 183, 2048, 3976; 115.5, 1280, 1080
    _unit_row((256, 256), (32, 2, 2), UNIT_REREADS, (64, 1)),  # 184.5, 3072, 5794; 115.5, 2048, 1648
)

# fmt: on

# On Apple7 and 8, which have no bfloat operands: all but the loads is fp32. 86, 89 %; 102, 91 % at 64, and 87, 85 %;
# 103, 87 % at 128. Products of bfloat, widened for each, have 82 and 79 % in the queries' kernel.
WIDENED: Table = tuple(Tiles(row.queries._replace(is_widened=True), row.keys._replace(is_widened=True)) for row in F32)
TABLES: Mapping[int, Mapping[torch.dtype, Table]] = {  # a family between has the older one's
    7: {torch.float16: F16, torch.bfloat16: WIDENED, torch.float32: F32},
    9: {torch.float16: F16, torch.bfloat16: F16, torch.float32: F32},
}
MATRIX_UNIT: Mapping[torch.dtype, Table] = dict.fromkeys((torch.float16, torch.bfloat16), UNIT_16)

SHAPES = tuple((row.queries.head_dim, row.queries.value_dim) for row in F16)  # that there are kernels for
MAX_HEAD_DIM = SHAPES[-1][0]  # the values', too

Kernels = Dict[str, Tuple[Union[QueriesTile, KeysTile], torch.dtype]]


def _kernels(field: str) -> Kernels:
    """By host name, those of one field of Tiles."""
    rows: List[Tuple[Tiles, torch.dtype]] = [
        (row, dtype) for dtype in DTYPES for family in TABLES.values() for row in family[dtype]
    ]
    return {getattr(row, field).kernel(dtype): (getattr(row, field), dtype) for row, dtype in rows}


QUERIES_KERNELS, KEYS_KERNELS = _kernels("queries"), _kernels("keys")
UNIT_KERNELS: Kernels = {  # those that need the matrix unit
    tile.kernel(dtype): (tile, dtype) for dtype, table in MATRIX_UNIT.items() for row in table for tile in row
}


def choose(device: Device, dtype: torch.dtype, head_dim: int, value_dim: int) -> Tiles:
    """The tiles of a call.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    family = max(known for known in TABLES if known <= max(device.family, SMALLEST.family))
    table = TABLES[family].get(dtype, ())
    if device.matrix_unit:
        table = MATRIX_UNIT.get(dtype, table)
    for row in table:
        if head_dim <= row.queries.head_dim and value_dim <= row.queries.value_dim:
            return row
    raise NotImplementedError(
        f"no Metal kernel for gradients with head_dim {head_dim} and value head_dim {value_dim} in {dtype}; there are "
        f"kernels for up to {MAX_HEAD_DIM}, in {', '.join(map(str, DTYPES))}"
    )
