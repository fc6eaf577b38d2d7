"""The checker proves itself on seeded bugs; all of them: python -m mutants."""

import pytest
from mutants import MUTANTS, harness
from mutants.harness import run
from mutants.mutant import Mutant
from mutants.targets import folder_of

FAST = [
    "matmul: no barrier after staging", "matmul: accumulator not filled", "row_sum: shuffle stops early",
    "row_sum: every lane writes", "row_sum: all rows to one place", "reduce: no barrier",
    "reduce: barrier where threads differ", "transpose: block too small", "histogram: plain total",
    "scan: totals unguarded", "scan: inclusive", "scan: write unguarded", "stencil: right edge",
    "stencil: tile too small", "norm: misaligned vectors", "no barrier after the keys", "output rows: all",
]  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in FAST], ids=lambda m: m.name)
def test_mutant(mutant):
    outcome = run(mutant)
    assert outcome.as_expected, outcome


def seeded(old, new, expected="checker"):
    return Mutant("a seeded bug", "row_sum.metal", old, new, expected)


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (seeded("if (lane == 0) {", "if (lane == nothing) {"), "use of undeclared identifier 'nothing'"),
        (seeded("no such text", ""), "row_sum.metal has 0 times 'no such text'"),
        (seeded("if (lane == 0) {", "if (lane == 0) { // only one"), "changes no code"),
        (seeded("[[buffer(1)]]", "[[buffer(2)]]"), "takes out at buffer 2, but only 2 were given"),
    ],
)
def test_what_cannot_run_is_not_found(mutant, why):
    outcome = run(mutant)
    assert why in outcome.broken and not outcome.found and not outcome.as_expected


def test_a_target_that_is_not_clean_proves_nothing(monkeypatch):
    """Were the kernel found without a mutation, so would every mutant be."""
    runs = harness._runs
    clean = harness.targets.folder_of("row_sum.metal")
    harness.blame.cache_clear()
    alarm = ["a false alarm", ""]
    monkeypatch.setattr(harness, "_runs", lambda file, at, other: alarm if at == clean else runs(file, at, other))
    outcome = run(seeded("if (lane == 0) {", "if (lane < 2) {"))
    harness.blame.cache_clear()
    assert outcome.broken == "found without a mutation: a false alarm" and not outcome.found


def test_what_an_entry_expects():
    mutant = seeded("a", "b")
    assert harness.Outcome(mutant, "race", "error 3").as_expected
    assert not harness.Outcome(mutant, "", "error 3").as_expected
    assert not harness.Outcome(mutant._replace(expected="numbers"), "race", "error 3").as_expected
    assert harness.Outcome(mutant._replace(expected="equivalent"), "", "").as_expected
    alone = mutant._replace(expected="fast math")
    assert harness.Outcome(alone, "", "", "error 3").as_expected
    assert not harness.Outcome(alone, "", "error 3", "error 3").as_expected


def test_every_mutant_can_be_made_and_is_named_once():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60 and {m.name for m in MUTANTS} >= set(FAST)
    for mutant in MUTANTS:
        mutant.apply((folder_of(mutant.file) / mutant.file).read_text())
        assert mutant.expected in (*harness.RUNS, "equivalent")
        assert bool(mutant.reason) == (mutant.expected == "equivalent"), "survivors have a reason"
