"""Bugs seeded into kernels, and whether the checker or the numbers find them: python -m mutants."""

from . import (
    appending,
    backward,
    bias,
    extremes,
    features,
    forward,
    loaders,
    sharing,
    teaching,
    training,
    unit,
    unit_gradients,
)

_TABLES = (
    forward,
    loaders,
    sharing,
    features,
    bias,
    extremes,
    training,
    backward,
    teaching,
    unit,
    appending,
    unit_gradients,
)
MUTANTS = [mutant for table in _TABLES for mutant in table.MUTANTS]
