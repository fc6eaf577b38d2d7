"""However the work is cut, the bits are the same; and what the planner promises of its chunks."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import DTYPES
from simulated_launcher import SimulatedLauncher

from .exact import assert_gradients
from .problem import Problem, run

PROBLEMS = {
    "causal": {"lengths": (200, 290), "heads": (2, 1), "window": (-1, 0)},
    "more queries": {"lengths": (290, 200), "heads": (4, 2), "window": (-1, 0)},
    "packed": {"lengths": [(17, 130), (0, 31), (3, 3), (43, 0), (170, 199)], "heads": (4, 2), "window": (-1, 0)},
    "packed window": {"lengths": [(150, 280), (15, 9), (90, 90)], "heads": (2, 1), "window": (15, 3)},
    "batch": {"lengths": (140, 130), "heads": (3, 3), "batch": 2},
}


def shorter(lengths, times):
    if isinstance(lengths, list):
        return [shorter(pair, times) for pair in lengths]
    return tuple(length // times for length in lengths)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("dtype", "head_dim", "times"), [(torch.float32, 64, 1), (torch.float16, 128, 2), (torch.bfloat16, 256, 2)]
)
def test_the_same_bits(kernel, name, dtype, head_dim, times):
    """With other chunks of heads, of rows and of keys, in every order of threads; times shorter for lower tiles."""
    fields = {**PROBLEMS[name], "lengths": shorter(PROBLEMS[name]["lengths"], times)}
    problem = Problem(dtype, head_dim, **fields)
    whole, expected, plans = run(kernel, problem, SimulatedLauncher())
    assert_gradients(problem, whole, expected.grads)
    assert len(plans) == 3
    counts = set()
    keys = 128 // times  # of a tile of the keys' kernel
    small = {"scratch": 1}, {"scratch": 300_000 // times**2}, {"chunk_keys": keys}, {"scratch": 1, "chunk_keys": keys}
    for number, budget in enumerate(small):
        launcher = SimulatedLauncher(check=number == 3, order=("forward", "reverse", 7, 8)[number])
        parts, _, plans = run(kernel, problem, launcher, cores=1, **budget)
        assert all(map(torch.equal, whole, parts)), budget
        counts.add(len(plans))
    assert len(counts) > 1 and max(counts) > 6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_and_dense_give_the_same_bits(kernel, dtype):
    dense = Problem(dtype, 64, (140, 130), (4, 2), batch=2, window=(60, 0))
    packed = Problem(dtype, 64, [(140, 130)] * 2, (4, 2), window=(60, 0))
    for name in ("query", "key", "value", "grad_output"):
        setattr(packed, name, getattr(dense, name).flatten(0, 1))
    packed.grad_lse = dense.grad_lse.transpose(0, 1).flatten(1)
    results = [run(kernel, problem, SimulatedLauncher())[0] for problem in (dense, packed)]
    assert all(torch.equal(a.flatten(0, 1), b) for a, b in zip(*results))


@pytest.mark.parametrize("lie", [1, 40])
def test_a_max_seqlen_that_lies_harms_nobody(kernel, lie):
    """Wrong numbers, and nothing outside of the scratch."""
    for budget, batch in itertools.product(({}, {"scratch": 1, "chunk_keys": 128}), (1, 2)):
        fields = {"max_seqlen_q": lie, "max_seqlen_k": lie}
        launcher = SimulatedLauncher(check=True, ignore=("race between threadgroups",))
        run(kernel, Problem(torch.float16, 64, [(150, 200)] * batch, (2, 1), **fields), launcher, cores=1, **budget)
