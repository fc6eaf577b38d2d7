"""A tile: one instantiation of the forward kernel."""

from __future__ import annotations

import enum
from typing import NamedTuple, Tuple

import torch

from ..call import DTYPES

ROWS = 8  # of a SIMD group: one 8x8 fragment
DECODE_ROWS = ROWS  # of a decode tile, whose SIMD groups work on the same ones
UNIT_ROWS = 16  # of a SIMD group's product in the matrix unit
FEW_ROWS = (DECODE_ROWS, UNIT_ROWS, 64)  # up to which a choice of tiles differs
METAL_TYPES = {torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat"}


class Loader(str, enum.Enum):
    """How blocks of keys and values get to the registers: the kernel's enum of this name."""

    STAGED = "staged"  # through threadgroup memory, where all SIMD groups read them
    DIRECT = "direct"  # straight from device memory
    UNIT = "unit"  # so, too, and the matrix unit multiplies
    UNIT_REREADS = "unit_rereads"  # as UNIT, but the query is read again for each block, to save registers


STAGED, DIRECT, UNIT, UNIT_REREADS = Loader


class Tile(NamedTuple):
    """One instantiation: rows of up to head_dim (query, key) and value_dim (value, output) elements.

    A SIMD group owns `rows` of them and sees keys in blocks of block_n. A threadgroup has row_groups x slices x
    key_groups SIMD groups, which divide the rows, the columns of each row, and the keys.
    """

    head_dim: int
    value_dim: int
    block_n: int
    row_groups: int
    slices: int
    key_groups: int
    loader: Loader
    rows: int = ROWS

    @property
    def block_m(self) -> int:
        """Rows of a threadgroup."""
        return self.rows * self.row_groups

    @property
    def uses_unit(self) -> bool:
        """Whether it needs the matrix unit."""
        return self.loader in (UNIT, UNIT_REREADS)

    @property
    def simdgroups(self) -> int:
        return self.row_groups * self.slices * self.key_groups

    def kernel(self, dtype: torch.dtype) -> str:
        """Host name, as the kernels' INSTANTIATE makes it."""
        return (
            f"attention_forward_{DTYPES[dtype]}_d{self.head_dim}_v{self.value_dim}_r{self.rows}_n{self.block_n}"
            f"_g{self.row_groups}x{self.slices}x{self.key_groups}_{self.loader.value}"
        )

    def instance(self, dtype: torch.dtype) -> str:
        """The line of the kernels' text that instantiates it."""
        numbers = ", ".join(map(str, self[: self._fields.index("loader")]))
        rows = f", {self.rows}" if self.uses_unit else ""
        return f"INSTANTIATE({DTYPES[dtype]}, {METAL_TYPES[dtype]}, {numbers}, {self.loader.value}{rows})\n"


Table = Tuple[Tile, ...]  # the first tile that holds a head_dim and value_dim serves them; each table has all SHAPES


class Tables(NamedTuple):
    """What serves a dtype on a family of GPUs."""

    large: Table  # for many rows
    small: Table  # for work that would leave cores idle in large tiles
    decode: Table  # for up to DECODE_ROWS rows
    few: Table  # for more, up to UNIT_ROWS, and for work that would leave cores idle in any other tile
