"""What mutants of the backward kernels are run on."""

from __future__ import annotations

import torch
from backward.exact import assert_gradients
from backward.problem import Problem, run
from biases import Bias
from philox import factor, kept
from simulated_launcher import SimulatedLauncher

LENGTHS = [(33, 40), (7, 75), (70, 70), (40, 20), (5, 0), (0, 9), (45, 100)]
BETWEEN_GROUPS = "race between threadgroups"  # what a max_seqlen that lies may lead to
TIMEOUT = 3  # seconds of processor time for one threadgroup
EVERY = (1, 1, 1, 1)  # axes of a bias that are whole
SEED, DROPOUT_P = 0x1234567_89ABCDEF, 0.3
ON_UNIT = {"family": 10, "matrix_unit": True}


class Found(Exception):
    """The checker found something."""


def attend(kernel, folder, check, fast_math, problem, lying=False, **settings) -> None:
    """Runs a problem; raises Found for what the checker finds, else AssertionError for wrong numbers."""
    launcher = SimulatedLauncher(
        check, kernels=folder, timeout=TIMEOUT, fast_math=fast_math, ignore=[BETWEEN_GROUPS] if lying else []
    )
    try:
        grads, expected, _ = run(kernel, problem, launcher, **settings)
        rounding = {"of_11_bits": expected.of_11_bits} if settings.get("matrix_unit") else {}
    except AssertionError as error:
        if check:
            raise Found(str(error)) from None
        raise
    if not check and not lying:
        assert_gradients(problem, grads, expected.grads, **rounding)


def packed(*how) -> None:
    """Every kind of window; tokens of no sequence, three heads a key's, and rows that end with one of eight."""
    for window in ((-1, 0), (9, 3), (0, 0)):
        attend(*how, Problem(torch.float16, 64, LENGTHS, (4, 2), window=window, scale=-0.2))
    bounds = torch.tensor([3, 38, 70], dtype=torch.int32)
    attend(*how, Problem(torch.float32, 32, [(80, 90)], (6, 2), cu_seqlens_q=bounds, cu_seqlens_k=bounds))


def chunks(*how) -> None:
    lengths = [(70, 150), (150, 270), (3, 3)]
    for window in ((-1, 0), (150, 20)):
        problem = Problem(torch.float32, 64, lengths, (2, 1), window=window)
        attend(*how, problem, cores=1, scratch=1, chunk_keys=128)
    lying = {"max_seqlen_q": 3, "max_seqlen_k": 3}
    for scratch in (None, 1):  # a tile's weights between others, and at the end of the scratch
        attend(*how, Problem(torch.float16, 64, lengths, (2, 1), **lying), lying=True, cores=1, scratch=scratch)


def features(*how) -> None:
    """Those of a row, unaligned and padded; some rows see nothing, some keys are not used."""
    slopes, sinks = torch.tensor([0.1, 0.02, 0.03, 0.2]), torch.tensor([-1.0, 0.0, 2.0, 5.0])
    usual = {"softcap": 3.0, "alibi_slopes": slopes, "sinks": sinks, "scale": 0.3}
    attend(*how, Problem(torch.float32, 37, (90, 70), (4, 2), window=(-1, 0), **usual))
    used = torch.tensor([20, 60], dtype=torch.int32)
    attend(*how, Problem(torch.float16, 40, [(33, 64), (40, 80)], (4, 2), seqused_k=used, window=(20, 0)))


def dropout(*how) -> None:
    _dropped(*how, torch.float32)


def _dropped(kernel, folder, check, fast_math, dtype, **settings) -> None:
    def factors(sequence, head, tokens, keys):
        return kept(DROPOUT_P, SEED, sequence, tokens, head + 1, keys)[:, head].double() * factor(DROPOUT_P)

    problem = Problem(dtype, 32, (21, 45), (2, 1), window=(-1, 0))
    attend(kernel, folder, check, fast_math, problem, factors=factors, dropout=(DROPOUT_P, SEED), **settings)


def biases(*how) -> None:
    """Beside ALiBi, and a mask that hides whole rows."""
    slopes = torch.tensor([0.1, 0.02, 0.03, 0.2])
    own = Bias("own", EVERY).tensor([(40, 70)], 4, torch.float16, False, 3)
    attend(*how, Problem(torch.float16, 32, (40, 70), window=(-1, 0), scale=0.3, alibi_slopes=slopes, attn_bias=own))
    mask = Bias("mask", EVERY).tensor([(33, 40), (7, 75)], 4, torch.float32, True, 4)
    attend(*how, Problem(torch.float32, 64, [(33, 40), (7, 75)], attn_bias=mask))


def slices(*how) -> None:
    attend(*how, Problem(torch.float16, 192, (45, 70), (4, 2), value_dim=128, window=(-1, 0)))


def large(*how) -> None:
    """Scores of 1024 in some rows, which the forward pass rounded otherwise; keys in chunks, and sinks near them."""
    sinks = torch.tensor([1020.0, 0.0])
    problem = Problem(torch.float32, 64, (80, 150), (2, 1), lse=False, scale=1.0, window=(-1, 0), sinks=sinks)
    problem.query, problem.key = problem.query / 64, torch.full_like(problem.key, 4)
    problem.query[:, 5::20] = 4
    for chunk_keys in (None, 128):
        attend(*how, problem, rounding=1e-5, chunk_keys=chunk_keys)
    problem = Problem(torch.float32, 64, (20, 40), (1, 1))  # one large row beside others, whose maxima may lag anew
    problem.query[:, 7] *= 1000
    attend(*how, problem)


def unit_dropout(*how) -> None:
    _dropped(*how, torch.float16, **ON_UNIT)


def unit(*how) -> None:
    """Missing rows, keys and columns, whole and in slices; blocks that the last rows see whole; keys that one row sees;
    large scores; gradients that half has no numbers for."""
    for window in ((-1, 3), (0, 0)):
        attend(*how, Problem(torch.float16, 64, LENGTHS, (4, 2), window=window, scale=-0.2), **ON_UNIT)
    problem = Problem(torch.float16, 64, [(40, 150)], (2, 1), window=(-1, 3), scale=1.0)
    problem.query[7::16] *= 100
    attend(*how, problem, **ON_UNIT)
    attend(*how, Problem(torch.float16, 200, (45, 70), (2, 1), value_dim=136, window=(-1, 0)), **ON_UNIT)
    problem = Problem(torch.bfloat16, 64, [(45, 70)], (2, 1), lse=False)
    problem.grad_output *= 2.0**-60
    attend(*how, problem, **ON_UNIT)
