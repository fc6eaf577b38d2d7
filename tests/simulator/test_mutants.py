"""The checker proves itself on seeded bugs; all of them: python -m mutants."""

import pytest
from mutants import MUTANTS
from mutants.harness import run
from mutants.targets import folder_of

FAST = [
    "matmul: no barrier after staging", "matmul: accumulator not filled", "row_sum: shuffle stops early",
    "row_sum: every lane writes", "row_sum: all rows to one place", "reduce: no barrier",
    "reduce: barrier where threads differ", "transpose: block too small", "histogram: plain total",
    "scan: totals unguarded", "scan: inclusive", "scan: write unguarded", "stencil: right edge",
    "stencil: tile too small", "norm: misaligned vectors", "no barrier after the keys", "output rows: all",
]  # fmt: skip


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in FAST], ids=lambda m: m.name)
def test_mutant(mutant):
    outcome = run(mutant)
    assert not outcome.broken
    found = {"checker": bool(outcome.checker), "numbers": bool(outcome.numbers), "equivalent": not outcome.found}
    assert found[mutant.expected]


def test_every_mutant_can_be_made_and_is_named_once():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60 and {m.name for m in MUTANTS} >= set(FAST)
    for mutant in MUTANTS:
        mutant.apply((folder_of(mutant.file) / mutant.file).read_text())
        assert mutant.expected in ("checker", "numbers", "equivalent")
        assert bool(mutant.reason) == (mutant.expected == "equivalent"), "survivors have a reason"
