"""Bugs seeded into kernels, and whether the checker or the numbers find them: python -m mutants."""

from . import features, forward, loaders, sharing, teaching

MUTANTS = [*forward.MUTANTS, *loaders.MUTANTS, *sharing.MUTANTS, *features.MUTANTS, *teaching.MUTANTS]
