"""Every model in every situation computes with the kernel what it computes with eager attention."""

from __future__ import annotations

import pytest

from .instrument import Instrument
from .table import TOLERANCE, Cell, cells, check_calls, error


@pytest.mark.parametrize("cell", cells(), ids=str)
def test_cell(cell: Cell, instrument: Instrument) -> None:
    found = error(cell)
    check_calls(cell, instrument)
    assert found <= TOLERANCE
