"""The table rejects wrong kernels: exactly where they ought to be noticed."""

from __future__ import annotations

import pytest

from .instrument import Instrument
from .table import TOLERANCE, cells, error
from .wrong_kernels import WRONG_KERNELS, WrongKernel

MARGIN = 10  # a wrong kernel is no matter of rounding


@pytest.mark.sampled(4)
@pytest.mark.parametrize("wrong", WRONG_KERNELS, ids=lambda wrong: wrong.name)
def test_rejected(wrong: WrongKernel, instrument: Instrument) -> None:
    instrument.spoil = wrong.spoil
    errors = {str(cell): error(cell) for cell in cells()}
    ought = {str(cell) for cell in cells() if wrong.ought_to_notice(cell)}
    noticed = {cell for cell, found in errors.items() if not found <= TOLERANCE}
    assert noticed == ought and ought
    assert min(errors[cell] for cell in ought) > MARGIN * TOLERANCE
