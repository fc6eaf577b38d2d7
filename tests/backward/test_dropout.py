"""Gradients of attention with dropout: those of the weights that the same seed keeps by definition.

Level: checker.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES
from philox import factor, kept

from .exact import assert_gradients
from .problem import Problem, run

SEED, DROPOUT_P = 0x1234567_89ABCDEF, 0.3


def factors(sequence, head, tokens, keys):
    """By which each weight is multiplied, [tokens, keys]."""
    return kept(DROPOUT_P, SEED, sequence, tokens, head + 1, keys)[:, head].double() * factor(DROPOUT_P)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("head_dim", [64, 128, 192, 256])  # with blocks of 32, 16 and 8 keys, whole and in slices
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropout(kernel, dtype, head_dim):
    problem = Problem(dtype, head_dim, (21, 45), (2, 1), batch=2, window=(-1, 0))
    grads, expected, _ = run(kernel, problem, factors=factors, dropout=(DROPOUT_P, SEED))
    assert_gradients(problem, grads, expected.grads)


def test_dropout_in_chunks_of_packed_sequences(kernel):
    problem = Problem(torch.float32, 64, [(5, 40), (0, 3), (43, 200)], (2, 1), softcap=2.0)
    grads, expected, _ = run(
        kernel, problem, factors=factors, dropout=(DROPOUT_P, SEED), scratch=1, chunk_keys=128, cores=1
    )
    assert_gradients(problem, grads, expected.grads)
    alone, _, _ = run(kernel, problem, factors=factors, dropout=(DROPOUT_P, SEED), keys=False)
    assert torch.equal(alone[0], grads[0])
