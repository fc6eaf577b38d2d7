"""Bugs seeded into kernels, and whether the checker or the numbers find them: python -m mutants."""

from . import features, forward, teaching

MUTANTS = [*forward.MUTANTS, *features.MUTANTS, *teaching.MUTANTS]
