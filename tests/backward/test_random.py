"""All features together, at random, in poisoned surroundings, beside float64; some of them under the checker.

Levels: CPU implementation; simulation; checker. 210 problems, or as many times more as --shards says.
"""

from __future__ import annotations

import importlib

import pytest
import torch
from cases import call_of
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from simulated_launcher import SimulatedLauncher
from test_features import arguments, problems

from .exact import assert_gradients, exact
from .problem import of_call, run

BUDGETS = st.sampled_from([{}, {}, {"scratch": 1}, {"scratch": 10**5}, {"chunk_keys": 128}])


def search(shard, examples, check):
    """`check` on random problems and budgets; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems(widest=256), budget=BUDGETS, lse=st.booleans())
    def each(problem, budget, lse):
        check(problem, budget, lse)

    each()


def compare(kernel, problem, budget, lse, **settings):
    query, key, value, fields, _ = arguments(problem)
    call = of_call(query, key, value, fields, lse, problem["seed"])
    family, cores = problem["device"]
    launcher = SimulatedLauncher(order=problem["seed"], **settings)
    keys = fields["block_table"] is None
    grads, expected, _ = run(kernel, call, launcher, keys=keys, family=family, cores=cores, **budget)
    assert_gradients(call, grads, expected.grads)


def compare_on_cpu(kernel, problem, budget, lse):
    """Through autograd of the operator."""
    query, key, value, fields, _ = arguments(problem)
    call = of_call(query, key, value, fields, lse, problem["seed"])
    inputs = query, key, value
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    operators = importlib.import_module(f"{kernel.__name__}.operators")
    output, row_lse, _ = operators.attention_forward(*call_of(kernel, *leaves, **fields), lse, False)
    results, grad_results = [output], [call.grad_output]
    if lse:
        results, grad_results = [output, row_lse], [call.grad_output, call.grad_lse]
    grads = torch.autograd.grad(results, leaves, grad_results)
    expected = exact(*inputs, call.grad_output, call.grad_lse, fields, 1.0, of_rounded_output=False)
    assert_gradients(call, grads, expected.grads)


def test_a_table_that_ends_with_the_last_page(kernel):
    """Threads of a block beyond the last key ask for no page behind the table."""
    problem = {
        "dtype": torch.float16,
        "lengths": [(2, 2)],
        "layout": "packed paged",
        "num_heads": 1,
        "num_heads_kv": 1,
        "head_dim": 32,
        "value_dim": 32,
        "page_size": 16,
        "seqused_k": False,
        "window": (-1, -1),
        "softcap": 0.0,
        "scale": 1.0,
        "alibi": None,
        "sinks": False,
        "num_splits": 0,
        "device": (7, 1),
        "seed": 0,
    }
    compare(kernel, problem, {}, False, check=True)


def test_on_cpu(kernel, shard):
    search(shard, 60, lambda *problem: compare_on_cpu(kernel, *problem))


def test_simulated(kernel, shard):
    search(shard, 120, lambda *problem: compare(kernel, *problem))


@pytest.mark.nightly
def test_checked(kernel, shard):
    search(shard, 20, lambda *problem: compare(kernel, *problem, check=True))


def test_fast_math(kernel, shard):
    search(shard, 10, lambda *problem: compare(kernel, *problem, fast_math=True))
