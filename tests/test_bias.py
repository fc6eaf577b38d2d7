"""attn_bias: biases and masks of every kind, with all other features, beside float64.

Levels: CPU implementation; simulation; checker.
"""

from __future__ import annotations

import pytest
from biases import Bias
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from simulated_launcher import SimulatedLauncher
from test_features import compare, problems


@st.composite
def biases(draw):
    return Bias(
        kind=draw(st.sampled_from(["mask", "own", "float"])),
        whole=draw(
            st.sampled_from([(1, 1, 1, 1), (0, 1, 1, 1), (1, 0, 1, 1), (0, 0, 1, 1), (1, 0, 0, 1), (1, 1, 1, 0)])
        ),
        more_keys=draw(st.sampled_from([0, 0, 1, 40])),
        is_expanded=draw(st.booleans()),
        is_transposed=draw(st.booleans()),
        hides=draw(st.sampled_from([0.2, 0.2, 0.98])),
    )


def with_bias(problem, bias, aligns_first):
    return {**problem, "bias": bias, "aligns_first": aligns_first}


def search(shard, examples, check):
    """`check` on random problems, each with a bias; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems(widest=256), bias=biases(), aligns_first=st.booleans())
    def each(problem, bias, aligns_first):
        check(with_bias(problem, bias, aligns_first))

    each()


def test_random_on_cpu(kernel, shard):
    search(shard, 60, lambda problem: compare(kernel, problem, None))


def test_random_simulated(kernel, shard):
    search(shard, 40, lambda problem: compare(kernel, problem, SimulatedLauncher()))


@pytest.mark.nightly
def test_random_checked(kernel, shard):
    search(shard, 15, lambda problem: compare(kernel, problem, SimulatedLauncher(check=True, order=problem["seed"])))
