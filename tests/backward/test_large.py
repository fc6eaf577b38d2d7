"""Scores of any size: finite gradients, right to rounding, even where the forward pass rounded scores in another way.

Level: checker.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, random_tensor

from .exact import assert_gradients
from .problem import Problem, run


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rounding", [-1e-6, 0, 1e-6])
@pytest.mark.parametrize("chunk_keys", [None, 128])
@pytest.mark.parametrize("magnitude", [300, 1e6, 1e30])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_forward_pass_rounds_otherwise(kernel, dtype, magnitude, chunk_keys, rounding):
    """Keys of equal scores share each row's weight; those of the others are 0."""
    if dtype == torch.float16 and magnitude > 1e6:
        pytest.skip("beyond its numbers")
    problem = Problem(dtype, 64, (40, 150), (4, 2), lse=False, window=(-1, 3), scale=1.0)
    size = (magnitude / 64) ** 0.5
    problem.query = (size * (1 + random_tensor(5, 1, 40, 4, 64).abs())).to(dtype)
    problem.key = (size * random_tensor(6, 1, 1, 2, 64).abs()).to(dtype).expand(1, 150, 2, 64).clone()
    problem.key[:, 3::5] = 0
    grads, expected, _ = run(kernel, problem, chunk_keys=chunk_keys, rounding=rounding)
    assert_gradients(problem, grads, expected.grads, more=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_rows_keep_their_bits(kernel, dtype):
    """Rows with small scores do not depend on their neighbours with large ones."""
    problem = Problem(dtype, 64, (40, 150), (2, 1), window=(-1, 3))
    before, _, _ = run(kernel, problem)
    problem.query[:, 7] *= 1000
    after, expected, _ = run(kernel, problem)
    assert expected.row_softmax[0, 0, 7, 0] > 1000
    assert torch.equal(before[0][:, :7], after[0][:, :7]) and torch.equal(before[0][:, 8:], after[0][:, 8:])


@pytest.mark.parametrize("sink", [-1e4, 1000.0, 1024.0, 1030.0, 1e5, 3e38])
def test_sinks_beside_large_scores(kernel, sink):
    problem = Problem(torch.float32, 64, (40, 50), (2, 1), lse=False, scale=1.0, sinks=torch.tensor([sink, 0.0]))
    problem.query, problem.key = torch.full_like(problem.query, 4), torch.full_like(problem.key, 4)  # scores of 1024
    grads, expected, _ = run(kernel, problem, rounding=1e-6)
    assert_gradients(problem, grads, expected.grads, more=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("large", ["query", "key"])
def test_finite_whatever_the_row_maximum(kernel, dtype, large):
    """One far too small, as of sums that cancel: no weight exceeds 1."""
    problem = Problem(dtype, 64, (40, 50), (2, 1), scale=1.0)
    setattr(problem, large, getattr(problem, large) * 100)
    grads, _, _ = run(kernel, problem, row_max=0.0)
    assert all(grad.isfinite().all() for grad in grads)
