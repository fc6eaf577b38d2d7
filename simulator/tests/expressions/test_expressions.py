"""Random programs on the simulator, beside NumPy; and the cases, of which some fail until the reader is mended."""

import pytest
from clangs import since

from . import known
from .__main__ import programs
from .cases import cases, program
from .runner import run

CASES = cases()
converts_constants = since(18, "converts no vectors in constant expressions")


@pytest.mark.sampled(3)
@converts_constants
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(seed):
    """Without the faults of known.AVOIDED."""
    made = programs(str(seed), 0, 200, known.is_known_fault)
    wrong = [(p.shown, o) for p, o in zip(made, run(made)) if o.kind != "right"]
    assert not wrong, "\n".join(f"{o.kind} {o.message}\n{text}" for text, o in wrong)


@pytest.fixture(scope="module")
def outcomes():
    """What becomes of each case, all in one file."""
    return dict(zip(CASES, run([program(case) for case in CASES.values()])))


def _marked(name: str):
    found = CASES[name].get("found")
    reason = f"known fault of the reader: {found}"
    marks = [pytest.mark.xfail(raises=AssertionError, strict=True, reason=reason)] if found else []
    converted = name in ("vectors in constant memory: static_cast", "vectors in constant memory: constexpr cast")
    return pytest.param(name, marks=[*marks, converts_constants] if converted else marks)


@pytest.mark.parametrize("name", [_marked(name) for name in CASES])
def test_case(name, outcomes):
    outcome = outcomes[name]
    assert outcome.kind == "right", (outcome.message, outcome.found)
