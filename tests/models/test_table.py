"""Every model in every situation computes with the kernel what it computes with eager attention."""

from __future__ import annotations

import pytest
from simulated_launcher import SimulatedLauncher

from .instrument import Instrument
from .table import TOLERANCE, Cell, cells, check_calls, error


@pytest.mark.parametrize("cell", cells(), ids=str)
def test_cpu_implementation(cell: Cell, instrument: Instrument) -> None:
    found = error(cell)
    check_calls(cell, instrument)
    assert found <= TOLERANCE


@pytest.mark.sampled(4)
@pytest.mark.parametrize("cell", [cell for cell in cells() if "training" not in cell.situation.name], ids=str)
def test_simulated_kernels(cell: Cell, instrument: Instrument) -> None:
    """With the simulator's checker. Training is left out: it is the CPU implementation that has a backward pass."""
    instrument.launcher = SimulatedLauncher(check=True)
    found = error(cell)
    check_calls(cell, instrument)
    assert instrument.launcher.launches >= instrument.calls.total()
    assert found <= TOLERANCE
