"""Gradients under biases and masks of every kind, with all other features, beside float64.

Levels: simulation; checker; CPU implementation, also of the bias' own gradient.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from test_bias import biases, with_bias
from test_features import problems

from .test_random import BUDGETS, compare


def search(shard, examples, check):
    """`check` on random problems, each with a bias, and budgets; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems(widest=256), bias=biases(), aligns_first=st.booleans(), budget=BUDGETS, lse=st.booleans())
    def each(problem, bias, aligns_first, budget, lse):
        check(with_bias(problem, bias, aligns_first), budget, lse)

    each()


def test_random_simulated(kernel, shard):
    search(shard, 30, lambda *problem: compare(kernel, *problem))


@pytest.mark.nightly
def test_random_checked(kernel, shard):
    search(shard, 10, lambda *problem: compare(kernel, *problem, check=True))
