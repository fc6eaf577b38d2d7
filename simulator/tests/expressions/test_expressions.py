"""Random programs on the simulator, beside NumPy; and the known faults, which fail until they are mended."""

import pytest

from . import known
from .__main__ import programs
from .cases import cases, program
from .runner import run

FAULTS = cases()


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(seed):
    """Without the faults of known.AVOIDED."""
    made = programs(str(seed), 0, 200, known.is_known_fault)
    wrong = [(p.shown, o) for p, o in zip(made, run(made)) if o.kind != "right"]
    assert not wrong, "\n".join(f"{o.kind} {o.message}\n{text}" for text, o in wrong)


def _marked(name: str):
    why = pytest.mark.xfail(raises=AssertionError, strict=True, reason=f"{FAULTS[name]['kind']}: {name}")
    return pytest.param(name, marks=why)


@pytest.mark.parametrize("name", [_marked(name) for name in FAULTS])
def test_known_fault(name):
    (outcome,) = run([program(FAULTS[name])])
    assert outcome.kind == "right", (outcome.message, outcome.found)
