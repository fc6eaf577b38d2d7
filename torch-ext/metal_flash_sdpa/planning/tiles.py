"""Which kernel serves which call: the tiles that attention_forward.metal is instantiated for, and the choice.

The figures beside each row are counters of the simulator (python benchmarks/tiles.py prints them, for the rows and for
others): estimated live registers of a lane, and the share of matrix products in the clocks of a 512 x 512 prefill, on
Apple7 unless said otherwise. Up to 104 registers leave a core 16 SIMD groups, and so its full rate; head_dim 256, and
from 128 on in fp32, gets there by dividing the columns of a row among SIMD groups. Within that the fewest clocks win.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Tuple

import torch

from ..call import DTYPES
from . import tuned
from .device import Device

DECODE_ROWS = 8  # rows of a decode tile: one 8x8 fragment


class Tile(NamedTuple):
    """One instantiation: rows of up to head_dim (query, key) and value_dim (value, output) elements.

    A SIMD group owns `rows` of them and sees keys in blocks of block_n. A threadgroup has row_groups x slices x
    key_groups SIMD groups, which divide the rows, the columns of each row, and the keys. Blocks are staged in
    threadgroup memory, or go straight from device memory to registers.
    """

    head_dim: int
    value_dim: int
    rows: int
    block_n: int
    row_groups: int
    slices: int
    key_groups: int
    is_staged: bool

    @property
    def block_m(self) -> int:
        """Rows of a threadgroup."""
        return self.rows * self.row_groups

    @property
    def simdgroups(self) -> int:
        return self.row_groups * self.slices * self.key_groups

    def kernel(self, dtype: torch.dtype) -> str:
        """Host name."""
        return (
            f"attention_forward_{DTYPES[dtype]}_d{self.head_dim}_v{self.value_dim}_r{self.rows}_n{self.block_n}"
            f"_g{self.row_groups}x{self.slices}x{self.key_groups}_{'staged' if self.is_staged else 'direct'}"
        )


# Each table by bytes of an element; the first tile that holds a head_dim and value_dim serves them.

# Many rows on Apple7 and 8: 8 SIMD groups share what they stage, which saves 1 to 2 % of the clocks beside 4.
LARGE = {
    2: (
        Tile(32, 32, 8, 64, 8, 1, 1, True),  # 58 registers, 79 %
        Tile(64, 64, 8, 32, 8, 1, 1, True),  # 62, 86 %; blocks of 64: 71, 88 %
        Tile(72, 72, 8, 32, 8, 1, 1, True),  # 66, 87 %
        Tile(80, 80, 8, 32, 8, 1, 1, True),  # 69, 88 %
        Tile(96, 96, 8, 32, 8, 1, 1, True),  # 75, 90 %
        Tile(128, 128, 8, 32, 8, 1, 1, True),  # 87, 92 %; two slices: 65, 84 %
        Tile(192, 128, 8, 32, 8, 1, 1, True),  # 102, 93 %
        Tile(256, 256, 8, 16, 4, 2, 1, True),  # 84, 88 %; undivided: 131, half the rate
    ),
    4: (
        Tile(32, 32, 8, 64, 8, 1, 1, True),  # 70, 79 %
        Tile(64, 64, 8, 32, 8, 1, 1, True),  # 80, 85 %
        Tile(72, 72, 8, 32, 8, 1, 1, True),  # 85, 86 %
        Tile(80, 80, 8, 32, 8, 1, 1, True),  # 90, 87 %
        Tile(96, 96, 8, 32, 8, 1, 1, True),  # 100, 89 %
        Tile(128, 128, 8, 16, 4, 2, 1, True),  # 76, 80 %; undivided: 106, half the rate
        Tile(192, 128, 8, 16, 4, 2, 1, True),  # 92, 82 %
        Tile(256, 256, 8, 8, 2, 4, 1, True),  # 76, 71 %; two slices: 108, half the rate
    ),
}
# Half the rows, for work that would leave cores idle in tiles of 64. 4 SIMD groups must find room for their blocks four
# times a core.
SMALL = {
    2: (
        Tile(32, 32, 8, 64, 4, 1, 1, True),  # 59 registers, 78 %
        Tile(64, 64, 8, 32, 4, 1, 1, True),  # 63, 85 %
        Tile(72, 72, 8, 32, 4, 1, 1, True),  # 67, 86 %
        Tile(80, 80, 8, 32, 4, 1, 1, True),  # 70, 87 %
        Tile(96, 96, 8, 32, 4, 1, 1, True),  # 77, 89 %
        Tile(128, 128, 8, 16, 4, 1, 1, True),  # 84, 89 %
        Tile(192, 128, 8, 16, 4, 1, 1, True),  # 98, 90 %
        LARGE[2][-1],
    ),
    4: (
        Tile(32, 32, 8, 32, 4, 1, 1, True),  # 62, 75 %
        Tile(64, 64, 8, 16, 4, 1, 1, True),  # 76, 80 %
        Tile(72, 72, 8, 16, 4, 1, 1, True),  # 82, 81 %
        Tile(80, 80, 8, 16, 4, 1, 1, True),  # 86, 83 %
        Tile(96, 96, 8, 16, 4, 1, 1, True),  # 97, 85 %
        *LARGE[4][-3:],
    ),
}
# Apple9 and later. Addresses of direct loads are computed beside the products there, so that the counters are equal to
# those of staged tiles within 1 % (3 % below head_dim 64); published measurements favour direct loads on M3 and M4.
DIRECT = {
    2: (
        Tile(32, 32, 8, 32, 4, 1, 1, False),  # 64 registers, 87 % on Apple9
        Tile(64, 64, 8, 32, 4, 1, 1, False),  # 80, 93 %
        Tile(72, 72, 8, 32, 4, 1, 1, False),  # 78, 94 %
        Tile(80, 80, 8, 32, 4, 1, 1, False),  # 84, 94 %
        Tile(96, 96, 8, 32, 4, 1, 1, False),  # 92, 95 %
        Tile(128, 128, 8, 16, 4, 1, 1, False),  # 98, 95 %
        Tile(192, 128, 8, 8, 4, 1, 1, False),  # 98, 95 %
        Tile(256, 256, 8, 16, 4, 2, 1, False),  # 96, 95 %
    ),
    4: (
        Tile(32, 32, 8, 32, 4, 1, 1, False),  # 74, 87 %
        Tile(64, 64, 8, 32, 4, 1, 1, False),  # 94, 93 %
        Tile(72, 72, 8, 32, 4, 1, 1, False),  # 91, 94 %
        Tile(80, 80, 8, 32, 4, 1, 1, False),  # 98, 94 %
        Tile(96, 96, 8, 16, 4, 1, 1, False),  # 100, 94 %
        Tile(128, 128, 8, 32, 4, 2, 1, False),  # 96, 92 %
        Tile(192, 128, 8, 16, 4, 2, 1, False),  # 94, 92 %
        Tile(256, 256, 8, 16, 4, 4, 1, False),  # 86, 90 %
    ),
}
# Up to 8 rows: all SIMD groups work on the same ones, on keys of their own, so that each is loaded once, directly.
DECODE = {
    2: (
        Tile(32, 32, 8, 32, 1, 1, 4, False),  # 66 registers
        Tile(64, 64, 8, 16, 1, 1, 4, False),  # 72
        Tile(72, 72, 8, 16, 1, 1, 4, False),  # 71
        Tile(80, 80, 8, 16, 1, 1, 4, False),  # 76
        Tile(96, 96, 8, 16, 1, 1, 4, False),  # 84
        Tile(128, 128, 8, 16, 1, 1, 4, False),  # 100
        Tile(192, 128, 8, 8, 1, 1, 4, False),  # 100
        Tile(256, 256, 8, 16, 1, 4, 1, False),  # 68; undivided: 146
    ),
    4: (
        Tile(32, 32, 8, 32, 1, 1, 4, False),  # 76
        Tile(64, 64, 8, 16, 1, 1, 4, False),  # 86
        Tile(72, 72, 8, 16, 1, 1, 4, False),  # 83
        Tile(80, 80, 8, 16, 1, 1, 4, False),  # 90
        Tile(96, 96, 8, 16, 1, 1, 4, False),  # 102
        Tile(128, 128, 8, 16, 1, 2, 1, False),  # 86; undivided: 114
        Tile(192, 128, 8, 16, 1, 2, 1, False),  # 94
        Tile(256, 256, 8, 16, 1, 4, 1, False),  # 86
    ),
}
SHAPES = tuple((tile.head_dim, tile.value_dim) for tile in LARGE[2])  # that there are kernels for
LARGE_SAVING = 0.98  # clocks of a large tile beside those of small ones for as many rows


def candidates(device: Device, dtype: torch.dtype, head_dim: int, value_dim: int) -> Tuple[Tile, ...]:
    """The tiles that can serve more than DECODE_ROWS rows, the best for long work first.

    Raises NotImplementedError, with the reason, for what no kernel can do.
    """
    tables = (DIRECT, LARGE, SMALL) if device.family >= 9 else (LARGE, SMALL, DIRECT)
    return tuple(dict.fromkeys(_first(table, dtype, head_dim, value_dim) for table in tables))


def choose(
    device: Device,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    is_decode: bool,
    threadgroups: Callable[[int], int],
) -> Tile:
    """The tile for a call. is_decode: no sequence has more than DECODE_ROWS rows; threadgroups(block_m) tells how many
    threadgroups there are.

    Raises NotImplementedError as `candidates`.
    """
    preferred = device.preferred
    if preferred is not None and head_dim <= preferred.head_dim and value_dim <= preferred.value_dim:
        return preferred
    if is_decode:
        return _first(DECODE, dtype, head_dim, value_dim)
    fastest = _fastest(device, dtype, head_dim, value_dim)
    if fastest is not None:
        return fastest
    if device.family >= 9:
        return _first(DIRECT, dtype, head_dim, value_dim)
    large, small = (_first(table, dtype, head_dim, value_dim) for table in (LARGE, SMALL))

    def clocks(tile: Tile) -> int:  # until the last core has done its rows
        return -(-threadgroups(tile.block_m) // device.cores) * tile.block_m

    return large if clocks(large) * LARGE_SAVING <= clocks(small) else small


def _fastest(device: Device, dtype: torch.dtype, head_dim: int, value_dim: int) -> Optional[Tile]:
    """The tile that was the fastest on this machine, if that was measured."""
    tile = _first(LARGE, dtype, head_dim, value_dim)
    winners = tuned.winners(Device(device.family, device.cores), _checked)
    return winners.get((DTYPES[dtype], tile.head_dim, tile.value_dim))


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


def _first(table, dtype: torch.dtype, head_dim: int, value_dim: int) -> Tile:
    if dtype in DTYPES:
        for tile in table[dtype.itemsize]:
            if head_dim <= tile.head_dim and value_dim <= tile.value_dim:
                return tile
    raise NotImplementedError(
        f"no Metal kernel for head_dim {head_dim} and value head_dim {value_dim} in {dtype}; there are kernels for up "
        f"to {LARGE[2][-1].head_dim} in {', '.join(map(str, DTYPES))}"
    )
