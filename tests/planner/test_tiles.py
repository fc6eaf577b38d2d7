"""The table of tiles, in step with the kernels' text, and open for more rows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import instantiate
import pytest
import torch
from metal_simulator import Library
from metal_simulator.profiler import cost_model, registers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from tiles import SOURCE, budget, library_bytes  # noqa: E402


@pytest.fixture(scope="session")
def tiles(kernel):
    return kernel.planning.tiles


def every_table(tiles):
    return [table for family in tiles.TABLES.values() for tables in family.values() for table in tables if table]


@pytest.mark.parametrize("file", instantiate.FILES, ids=lambda file: file.name)
def test_the_kernels_are_instantiated_from_the_tables(kernel, file):
    modules = lambda name: getattr(kernel.planning, name)  # noqa: E731
    assert (ROOT / "flash_sdpa" / file.name).read_text() == file.text(modules), "make build writes it"


def test_the_loaders_are_the_kernels(tiles):
    text = (ROOT / "flash_sdpa" / "tile.h").read_text()
    [enumerators] = re.findall(r"enum class Loader \{ (.*) \};", text)
    assert enumerators.split(", ") == [loader.value for loader in tiles.Loader]


def test_every_table_has_every_shape(tiles, kernel):
    """From the smallest, as the first that holds a head_dim serves it: a row forgotten in one table is found."""
    for table in every_table(tiles):
        assert tuple((tile.head_dim, tile.value_dim) for tile in table) == tiles.SHAPES
    assert all(set(family) == set(kernel.call.DTYPES) for family in tiles.TABLES.values())


def test_every_tile_fits_a_threadgroup_and_its_launch(tiles):
    """By the kernels' own text: threadgroup memory within 32 KB is the simulator's check, threads within 1024."""
    for tile, _ in tiles.KERNELS.values():
        assert tile.simdgroups * 32 <= 1024 and tile.block_n % 8 == 0
        assert tile.head_dim % (8 * tile.slices) == tile.value_dim % (8 * tile.slices) == 0


def test_decode_tiles_have_the_rows_of_one_simd_group(tiles):
    decode = {tile for family in tiles.TABLES.values() for tables in family.values() for tile in tables.decode}
    assert {tile.block_m for tile in decode} == {tiles.DECODE_ROWS}


def chosen(kernel, family, dtype, few_rows=0, matrix_unit=False):
    """The tile of head_dim 64 for more rows than fit 8 cores."""
    device = kernel.device.Device(family, 8, matrix_unit=matrix_unit)
    return kernel.planning.tiles.choose(device, dtype, 64, 64, few_rows, lambda block_m: 2**16 // block_m, False)


def test_a_family_and_a_dtype_may_have_rows_of_their_own(kernel, tiles, monkeypatch):
    """bf16 on Apple8 alone: other dtypes, older and newer families keep theirs."""
    families = (7, 8, 9, 10, 11)
    before = {(family, dtype): chosen(kernel, family, dtype) for family in families for dtype in kernel.call.DTYPES}
    own = tiles.Tile(64, 64, 16, 2, 1, 1, tiles.STAGED)
    large = tuple(own if tile.head_dim == 64 else tile for tile in tiles.LARGE_BF16)
    bf16 = tiles.APPLE7[torch.bfloat16]._replace(large=large)
    monkeypatch.setattr(tiles, "TABLES", {**tiles.TABLES, 8: {**tiles.APPLE7, torch.bfloat16: bf16}})
    for (family, dtype), tile in before.items():
        assert chosen(kernel, family, dtype) == (own if (family, dtype) == (8, torch.bfloat16) else tile)
    trials = tiles.candidates(kernel.device.Device(8, 8), torch.bfloat16, 64, 64)
    assert trials == (own, tiles.SMALL_BF16[1], tiles.LARGE_BF16[1], tiles.DIRECT_F16[1])
    assert own not in tiles.candidates(kernel.device.Device(8, 8), torch.float16, 64, 64)


@pytest.mark.parametrize(("family", "like"), [(3, 7), (7, 7), (8, 7), (9, 9), (10, 9), (99, None)])
def test_a_family_without_rows_of_its_own_takes_those_of_the_nearest_older_one(kernel, tiles, family, like):
    for dtype, tables in tiles.TABLES[like or max(tiles.TABLES)].items():
        assert chosen(kernel, family, dtype) == tables.large[1]
        assert chosen(kernel, family, dtype, few_rows=8) == tables.decode[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_matrix_unit_is_for_16_bit_types_and_more_rows_than_decode_tiles_have(kernel, tiles, dtype):
    few = {rows: chosen(kernel, 10, dtype, rows, matrix_unit=True) for rows in (8, 16, 0)}
    if dtype == torch.float32:
        assert few == {rows: chosen(kernel, 10, dtype, rows) for rows in few}
        return
    assert few[8] == tiles.DECODE_F16[1] and (few[16].key_groups, few[0].row_groups) == (4, 4)
    assert few[16].uses_unit and few[0].uses_unit and {few[16].rows, few[0].rows} == {16}


def test_the_matrix_unit_serves_every_size(kernel, tiles):
    """72 and 80 padded to 96; from 512 on the direct tiles do."""
    device = kernel.device.Device(10, 8, matrix_unit=True)
    for few_rows in (16, 0):
        for head_dim, value_dim in [*tiles.SHAPES, (20, 100), (300, 40)]:
            tile = tiles.choose(device, torch.bfloat16, head_dim, value_dim, few_rows, lambda block_m: 1, False)
            assert tile.head_dim >= head_dim and tile.value_dim >= value_dim
            assert tile.uses_unit == (head_dim <= 256)
            if head_dim in (72, 80):
                assert tile.head_dim == 96


def test_unit_tiles_are_whole_products(tiles):
    """Of 16 rows x 32 columns, in slices and in blocks; and no table of another GPU has one."""
    for tile, _ in tiles.UNIT_KERNELS.values():
        assert tile.rows % 16 == tile.block_n % 32 == 0 and tile.simdgroups * 32 <= 1024
        assert tile.head_dim % (32 * tile.slices) == tile.value_dim % (32 * tile.slices) == 0
    assert not any(tile.uses_unit for tile, _ in tiles.KERNELS.values())


def test_tuning_tries_every_unit_tile_of_a_size(kernel, tiles):
    device = kernel.device.Device(10, 8, matrix_unit=True)
    trials = tiles.candidates(device, torch.float16, 64, 64)
    assert [tile for tile in trials if tile.uses_unit] == [tiles.UNIT_16[1], *tiles.UNIT_TRIALS_16[:3]]
    assert tiles.DIRECT_F16[1] in trials  # what would serve without the unit
    assert not any(tile.uses_unit for tile in tiles.candidates(device, torch.float32, 64, 64))
    without = kernel.device.Device(10, 8)
    assert not any(tile.uses_unit for tile in tiles.candidates(without, torch.float16, 64, 64))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("family", [7, 9])
def test_every_row_leaves_a_core_its_full_rate(kernel, tiles, family, dtype):
    """16 SIMD groups, by registers and threadgroup memory, on the GPUs that the row is for."""
    library = Library(SOURCE, include=[SOURCE.parent])
    for tile in {tile for table in tiles.TABLES[family][dtype] for tile in table}:
        needs = budget(kernel, library, tile, dtype)
        live = registers.of_family(needs.registers_by_family, family).live
        assert live <= 104, tile
        most = cost_model.THREADGROUP_BYTES // max(needs.threadgroup_bytes, 1)  # direct tiles take none
        assert most * tile.simdgroups >= 16, tile


def test_a_row_that_features_overfill_gives_its_place_to_one_with_room(kernel, tiles):
    library = Library(SOURCE, include=[SOURCE.parent])
    live = lambda tile: registers_with_bias(kernel, library, tile)  # noqa: E731
    assert tiles.ROOMY and min(live(tile) for _, tile in tiles.ROOMY) > 104
    assert max(map(live, tiles.ROOMY.values())) <= 104


def registers_with_bias(kernel, library, tile, dtype=torch.bfloat16):
    """Live registers on Apple7 of packed sequences with a bias, of which lse is wanted."""
    features = {"has_bias": True, "is_packed": True, "writes_lse": True}
    needs = budget(kernel, library, tile, dtype, **features)
    return registers.of_family(needs.registers_by_family, 7).live


BIAS, SLOPES = torch.zeros(1, 1, 64, 64), torch.zeros(16)
VARLEN = "flash_attn_varlen_func"


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("flash_attn_func", {"attn_bias": BIAS}),
        ("flash_attn_func", {"alibi_slopes": SLOPES}),
        ("flash_attn_func", {"return_attn_probs": True}),
        ("flash_attn_func", {"dropout_p": 0.5}),
        (VARLEN, {"cu_seqlens_q": torch.tensor([0, 64]), "cu_seqlens_k": torch.tensor([0, 64])}),
    ],
    ids=["bias", "alibi", "lse", "dropout", "packed"],
)
def test_features_take_the_row_with_room(kernel, tiles, function, fields):
    large, row = tiles.LARGE_BF16[5], torch.zeros(1, 64, 16, 128, dtype=torch.bfloat16)
    if function == VARLEN:
        row = row[0]
        fields = {**{name: bound.int() for name, bound in fields.items()}, "max_seqlen_q": 64, "max_seqlen_k": 64}
    kernels = []

    def launcher(plan, tensors):
        kernels.append(plan.kernel)

    with kernel.launchers.use_launcher(launcher, kernel.device.Device(7, 1)):
        getattr(kernel, function)(row, row, row, **fields)
        kernel.flash_attn_func(*[row.view(1, 64, 16, 128)] * 3)
        kernel.flash_attn_func(*[row.view(1, 64, 16, 128)[..., :120]] * 3)
    roomy = tiles.ROOMY[torch.bfloat16, large].kernel(torch.bfloat16)
    assert kernels == [roomy, large.kernel(torch.bfloat16), roomy]


def test_the_library_stays_small(kernel, tiles):
    """116 kernels, of 1.07 MiB by the instructions that the simulator counts; here by those of every seventh."""
    assert len(tiles.KERNELS) <= 128
    assert library_bytes(kernel, step=7) < 1.25 * 2**20
