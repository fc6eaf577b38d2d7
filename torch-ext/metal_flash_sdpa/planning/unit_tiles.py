"""Rows of the tile table that use the matrix unit: the kernels of attention_forward_unit.metal.

Beside each: live registers, and the unit's clocks for 16 rows x 32 keys (4 for each of the head_dims), both counted by
the simulator (python benchmarks/matrix_unit.py); other SIMD groups issue 141 clocks of simple and 101 of other
instructions meanwhile, by which the smallest head_dim is bound. Only a Mac can rank these tiles.
"""

from .tile import UNIT, UNIT_REREADS, UNIT_ROWS, Tile

# fmt: off

# Apple10 with a usable matrix unit, for 16-bit types: fp32 operands would lose 13 bits. SIMD groups of 16 rows, as the
# unit's products have; 4 of them, as fewer share too little of what they load. Parts of V are 32 columns wide, so that
# 72 and 80 are padded, too: published measurements still gain by it.
UNIT_16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows
    Tile(      32,        32,      32,          4,      1,          1, UNIT, UNIT_ROWS),  # 92, 256
    Tile(      64,        64,      32,          4,      1,          1, UNIT, UNIT_ROWS),  # 124, 512
    Tile(      96,        96,      32,          4,      1,          1, UNIT, UNIT_ROWS),  # 148, 768
    Tile(     128,       128,      32,          4,      1,          1, UNIT, UNIT_ROWS),  # 168, 1024
    Tile(     192,       128,      32,          4,      1,          1, UNIT_REREADS, UNIT_ROWS),  # 164.5, 1280
    Tile(     256,       256,      32,          4,      2,          1, UNIT, UNIT_ROWS),  # 168, 1024 of each slice
)
# More rows than a decode tile has, up to 16 (drafts to verify, large groups of heads): all SIMD groups work on the same
# ones, on keys of their own, or for head_dim 256, whose outputs would take 36 KB to merge, on slices. Of four row
# groups three would be without work.
UNIT_FEW_16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows
    Tile(      32,        32,      32,          1,      1,          4, UNIT, UNIT_ROWS),  # 96
    Tile(      64,        64,      32,          1,      1,          4, UNIT, UNIT_ROWS),  # 128
    Tile(      96,        96,      32,          1,      1,          4, UNIT, UNIT_ROWS),  # 152
    Tile(     128,       128,      32,          1,      1,          4, UNIT, UNIT_ROWS),  # 172
    Tile(     192,       128,      32,          1,      1,          4, UNIT_REREADS, UNIT_ROWS),  # 168.5
    Tile(     256,       256,      32,          1,      4,          1, UNIT, UNIT_ROWS),  # 124
)
# For `selftest --tune`, beside the rows of UNIT_16: blocks of 64 keys take a tenth fewer instructions, 32 rows load
# keys and values half as often, and a query that is read again needs no registers, but 16 more bytes a clock of L1.
UNIT_TRIALS_16 = (
    #    head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows
    Tile(      64,        64,      64,          4,      1,          1, UNIT, UNIT_ROWS),  # 148
    Tile(      64,        64,      32,          4,      1,          1, UNIT, 2 * UNIT_ROWS),  # 193
    Tile(      64,        64,      32,          4,      1,          1, UNIT_REREADS, UNIT_ROWS),  # 126.5
    Tile(      96,        96,      32,          4,      1,          1, UNIT_REREADS, UNIT_ROWS),  # 146.5
    Tile(     128,       128,      32,          4,      1,          1, UNIT_REREADS, UNIT_ROWS),  # 162.5
    Tile(     128,       128,      64,          4,      1,          1, UNIT_REREADS, UNIT_ROWS),  # 194.5
    Tile(     192,       128,      32,          4,      1,          1, UNIT, UNIT_ROWS),  # 184
    Tile(     256,       256,      32,          4,      2,          1, UNIT_REREADS, UNIT_ROWS),  # 162.5
)
