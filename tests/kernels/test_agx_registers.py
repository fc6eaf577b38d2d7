"""Estimates beside what another compiler made of our kernels: agx-registers.json, by Mesa's for M1 (not Apple's).

It compiled the kernels of commit d09f686, with the tiles of that time; today's text differs in three things:

* bf16 and fp32 take a second pass where sums overflow. It is taken out again for the comparison; what is left counts
  0 to 2 % more instructions than the kernels of d09f686, and differs by 1 register at most.
* bf16 is widened while it is staged. That is taken out, too.
* Direct tiles of 16 bits with head_dim 72 and 80 copy chunks of 4 bytes as one vector, no more as two halves. These
  eight rows are dropped.

For the other 82, the estimate is equal to Mesa's figures without hoisting on average, 1.8 away from them, and 98 % are
within 10. Before bfloat was counted as 32 bits, and positions at all: 4.7 below, 8.3 away, and 73 %. With hoisting it
is 3 to 5 below: since d09f686 the kernels have less before their loop that LLVM could compute there.
"""

import collections
import functools
import json
import pathlib
import re
import shutil
import statistics

import instantiate
import pytest
from metal_simulator import Library
from metal_simulator.library import Budget
from metal_simulator.profiler import registers

ROOT = pathlib.Path(__file__).parents[2]
MEASURED = json.loads((pathlib.Path(__file__).parent / "agx-registers.json").read_text())
Tile = collections.namedtuple("Tile", MEASURED["meta"]["tile"])
ROWS = {Tile(*row["tile"]): row for row in MEASURED["kernels"]}
CHANGED = {t for t in ROWS if t.dtype != "f32" and t.loader == "direct" and t.head_dim in (72, 80)}
HALF_KEPT = (
    "of the query widened for the first 8 keys of a block, it keeps half for the other 8; the estimate keeps all"
)
BEYOND_10 = {
    Tile("bf16", 64, 64, 8, 16, 1, 1, 4, "direct"): HALF_KEPT,
    Tile("bf16", 96, 96, 8, 16, 1, 1, 4, "direct"): HALF_KEPT,
}


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """counted(tile): the budget of today's kernel, without its second pass, bf16 staged as it is."""
    folder = tmp_path_factory.mktemp("one_pass") / "flash_sdpa"
    shutil.copytree(ROOT / "flash_sdpa", folder)
    source = folder / "attention_forward.metal"
    for file, old, new in (
        (folder / "attention_forward.h", r"(constexpr bool kMayOverflow = ).*;", r"\1false;"),
        (folder / "blocks_staged.h", r"(using Widened = )conditional_t.*;", r"\1T;"),
    ):
        text, changes = re.subn(old, new, file.read_text())
        assert changes == 1
        file.write_text(text)
    tables = instantiate.tiles()
    dtypes = {name: dtype for dtype, name in tables.DTYPES.items()}
    kernels = {t: (tables.Tile(*t[1:3], *t[4:8], tables.Loader(t.loader)), dtypes[t.dtype]) for t in ROWS}
    (folder / "instances.h").write_text("".join(tile.instance(dtype) for tile, dtype in kernels.values()))
    library = Library(source, [folder])
    constants = re.findall(r"constant bool (\w+)", (folder / "function_constants.h").read_text())
    values = {**dict.fromkeys(constants, False), "is_aligned": True}

    def budget(row) -> Budget:
        tile, dtype = kernels[row]
        return library.kernel(tile.kernel(dtype), values, build="count").budget()

    return functools.lru_cache(None)(budget)


def needs(budget: Budget) -> registers.Registers:
    return registers.of_family(budget.registers_by_family, 7)


@pytest.mark.nightly
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_estimates(counted, dtype):
    rows = {t: needs(counted(t)) for t in ROWS if t.dtype == dtype and t not in CHANGED}
    live = {t: need.live - ROWS[t]["unhoisted"]["registers"] for t, need in rows.items()}
    hoisted = {t: n.hoisted - ROWS[t]["hoisted"]["registers"] for t, n in rows.items() if "hoisted" in ROWS[t]}
    assert abs(statistics.mean(live.values())) <= 3, live
    for differences in (live, hoisted):
        assert all(abs(d) <= 16 for d in differences.values()), differences
    beyond = {t: d for t, d in live.items() if abs(d) > 10}
    assert len(beyond) <= 0.1 * len(live) and set(beyond) <= set(BEYOND_10), beyond
    assert statistics.mean(map(abs, live.values())) <= 6, live


@pytest.mark.nightly
def test_bfloat_takes_more_instructions_where_it_is_emulated(counted):
    """1.33 to 1.36 times as many in the tiles of 64 rows; ours on top of that compiler's for half."""
    ratios = []
    for tile in ROWS:
        half = tile._replace(dtype="f16")
        if tile[0] == "bf16" and tile.row_groups == 8 and tile.head_dim >= 64:
            before, after = (ROWS[t]["unhoisted"]["instructions"] for t in (half, tile))
            added = counted(tile).instructions - counted(half).instructions
            ratios.append((1 + added / before, after / before))
    assert len(ratios) >= 4
    assert all(abs(ours - theirs) <= 0.05 for ours, theirs in ratios), ratios
