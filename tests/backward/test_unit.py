"""The backward kernels of the matrix unit: every feature beside float64, and what is special about them.

Levels: checker; simulation. --shards takes as many times more random problems.
"""

from __future__ import annotations

import functools

import pytest
import torch
from biases import Bias
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from instantiate import planning
from simulated_launcher import SimulatedLauncher
from test_bias import biases, with_bias
from test_features import arguments, problems

from . import problem as problem_module
from .exact import assert_gradients
from .problem import Problem, of_call
from .test_chunks import PROBLEMS
from .test_dropout import DROPOUT_P, SEED, factors
from .test_gradients import FEATURES, MASKS, apart, heads_first
from .test_random import BUDGETS

TYPES = (torch.float16, torch.bfloat16)
SHAPES = [row.queries[:2] for row in planning("backward_tiles").UNIT_16]
run = functools.partial(problem_module.run, family=10, matrix_unit=True)


def check(kernel, problem, launcher=None, **settings):
    """Gradients within the bounds of other kernels and what 11 bits of weights add to them; the plans."""
    grads, expected, plans = run(kernel, problem, launcher, **settings)
    assert all("unit" in plan.kernel for plan in plans[1:])
    assert_gradients(problem, grads, expected.grads, of_11_bits=expected.of_11_bits)
    return plans


@pytest.mark.parametrize("mask", MASKS)
def test_masks(kernel, mask):
    check(kernel, Problem(torch.float16, 64, **MASKS[mask]))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("feature", FEATURES)
def test_features(kernel, feature):
    check(kernel, Problem(torch.bfloat16, 32, **{"lengths": (70, 90), **FEATURES[feature]}))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("head_dims", [*SHAPES, (80, 80), (33, 40), (57, 200)])
def test_head_dims(kernel, head_dims, dtype):
    head_dim, value_dim = head_dims
    check(kernel, Problem(dtype, head_dim, (45, 70), (4, 2), value_dim=value_dim, window=(-1, 0)))


@pytest.mark.parametrize("layout", [apart, heads_first])
def test_layouts(kernel, layout):
    problem = Problem(torch.float16, 64, (50, 61), (4, 2), window=(-1, 0))
    problem.inputs = layout
    check(kernel, problem)


def test_an_expanded_gradient(kernel):
    problem = Problem(torch.float16, 64, (50, 61), (4, 2), batch=2)
    problem.grad_output = problem.grad_output[:1, :1, :1].expand_as(problem.grad_output)
    problem.inputs = lambda tensor: tensor
    check(kernel, problem)


@pytest.mark.parametrize("head_dim", [32, 256])  # whole, and in slices
def test_dropout(kernel, head_dim):
    problem = Problem(torch.float16, head_dim, (21, 45), (2, 1), batch=2, window=(-1, 0))
    check(kernel, problem, factors=factors, dropout=(DROPOUT_P, SEED))


def test_a_bias(kernel):
    bias = Bias("own", (1, 1, 1, 1)).tensor([(40, 70)], 4, torch.float16, False, 3)
    check(kernel, Problem(torch.float16, 32, (40, 70), attn_bias=bias))


@pytest.mark.parametrize(("head_dim", "chunk_keys"), [(64, None), (64, 128), (256, 128)])
def test_large_scores(kernel, head_dim, chunk_keys):
    """Rows whose softmax is found anew, in fp32: a sum of rounded weights would show."""
    problem = Problem(torch.float16, head_dim, (40, 150), (2, 1), lse=False, window=(-1, 3), scale=1.0)
    problem.query[:, 7::16] *= 100
    check(kernel, problem, chunk_keys=chunk_keys)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_same_bits_however_it_is_cut(kernel, name):
    problem = Problem(torch.float16, 64, **PROBLEMS[name])
    whole, _, _ = run(kernel, problem, SimulatedLauncher())
    counts = set()
    for number, budget in enumerate([{"scratch": 1}, {"chunk_keys": 128}, {"scratch": 1, "chunk_keys": 128}]):
        parts, _, plans = run(kernel, problem, SimulatedLauncher(order=number), cores=1, **budget)
        assert all(map(torch.equal, whole, parts)), budget
        counts.add(len(plans))
    assert max(counts) > 6


@pytest.mark.parametrize("size", [2.0**-100, 2.0**-60, 1.0, 2.0**60])
def test_gradients_of_any_size(kernel, size):
    """No weight or gradient leaves the 16 bits that it is stored in: each block has a scale of its own."""
    problem = Problem(torch.bfloat16, 64, (45, 70), (4, 2), window=(-1, 0), lse=False)
    problem.grad_output *= size
    check(kernel, problem)


def test_small_weights_beside_large_ones(kernel):
    """Keys whose weights are 2^-20 of their neighbours' in every row have gradients as exact as those."""
    problem = Problem(torch.float16, 64, (200, 64), (2, 1), lse=False, scale=1.0)
    problem.query = torch.zeros_like(problem.query)
    problem.query[..., 0], problem.key[:, 1::2, :, 0], problem.key[:, ::2, :, 0] = 1, 0, 14
    problem.grad_output *= 1000
    grads, expected, _ = run(kernel, problem, SimulatedLauncher())
    small, right = grads[2][:, 1::2].double(), expected.grads[2][:, 1::2]
    assert right.abs().max() < 2**-12 * expected.grads[2].abs().max()
    assert (small - right).abs().max() < 2**-10 * right.abs().max()


def search(shard, examples, launcher):
    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        problem=problems(widest=256),
        bias=st.none() | biases(),
        dtype=st.sampled_from(TYPES),
        budget=BUDGETS,
        lse=st.booleans(),
        cores=st.sampled_from([1, 10]),
    )
    def each(kernel, problem, bias, dtype, budget, lse, cores):
        problem = {**problem, "dtype": dtype}
        query, key, value, fields, _ = arguments(with_bias(problem, bias, False) if bias else problem)
        call = of_call(query, key, value, fields, lse, problem["seed"])
        check(kernel, call, launcher(problem["seed"]), keys=fields["block_table"] is None, cores=cores, **budget)

    return each


def test_random(kernel, shard):
    search(shard, 25, lambda order: SimulatedLauncher(order=order))(kernel)


@pytest.mark.nightly
def test_random_checked(kernel, shard):
    search(shard, 6, lambda order: SimulatedLauncher(check=True, order=order))(kernel)


@pytest.mark.parametrize("layout", ["older", "invented", "old_target"])
def test_another_layout_gives_wrong_numbers(kernel, layout):
    """Of each gradient: what the check of the unit is for."""
    problem = Problem(torch.float16, 64, (45, 70), (4, 2))
    grads, expected, _ = run(kernel, problem, SimulatedLauncher(matrix_unit=layout))
    for grad, right in zip(grads, expected.grads):
        assert not (grad.double() - right).abs().max() < 0.1 * right.abs().max()


def test_weights_are_rounded_not_cut(kernel):
    """Cut, all would be too small, and so would their sum over many rows."""
    problem = Problem(torch.float16, 64, (500, 40), (2, 1), lse=False)
    problem.grad_output = torch.ones_like(problem.grad_output) / 8
    grads, expected, _ = run(kernel, problem, SimulatedLauncher())
    share = (grads[2].double() / expected.grads[2]).mean().item()
    assert abs(share - 1) < 1e-4  # 3.5e-4 if they are cut
