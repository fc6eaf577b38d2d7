"""Bugs seeded into kernels, and whether the checker or the numbers find them: python -m mutants."""

from . import forward, teaching

MUTANTS = [*forward.MUTANTS, *teaching.MUTANTS]
