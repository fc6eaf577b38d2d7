"""Gradients of the simulated kernels beside float64, under the checker, with NaN in the scratch and all around.

Level: checker.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import DTYPES, random_tensor
from instantiate import planning

from .exact import assert_gradients
from .problem import Problem, run

PACKED = [(17, 30), (0, 11), (43, 0), (70, 99)]
SLOPES = torch.tensor([0.05, 0.0, 0.1, 0.02])
MASKS = {
    "full": {"lengths": (70, 90)},
    "causal": {"lengths": (70, 90), "window": (-1, 0)},
    "more queries than keys": {"lengths": (130, 50), "heads": (2, 2), "window": (-1, 0)},
    "window of both sides": {"lengths": (100, 170), "heads": (6, 2), "window": (20, 9)},
    "window of one key": {"lengths": (70, 90), "heads": (1, 1), "window": (0, 0)},
    "window behind": {"lengths": (40, 150), "heads": (2, 1), "window": (-1, 3)},
    "window ahead": {"lengths": (150, 40), "heads": (2, 1), "window": (31, -1)},
    "batch": {"lengths": (33, 40), "heads": (3, 1), "window": (-1, 0), "batch": 3},
    "one row, one key": {"lengths": (1, 1), "heads": (2, 1)},
    "packed": {"lengths": PACKED, "window": (-1, 0)},
}
FEATURES = {
    "softcap": {"softcap": 2.0, "window": (-1, 0)},
    "ALiBi": {"alibi_slopes": SLOPES, "window": (30, 5)},
    "ALiBi of each sequence": {"lengths": PACKED, "alibi_slopes": SLOPES.repeat(4, 1) * torch.arange(1, 5)[:, None]},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 9.0, 0.0])},
    "a sink far above": {"sinks": torch.tensor([1e4, 3e38, 0.0, -3e38])},
    "all": {"softcap": 3.0, "alibi_slopes": SLOPES, "sinks": SLOPES, "scale": -0.2, "window": (-1, 0)},
    "negative scale": {"scale": -0.2, "window": (-1, 0)},
    "scale 0": {"scale": 0.0},
    "tiny scale": {"scale": 1e-20},
    "no gradient of lse": {"lse": False},
    "seqused_k": {"lengths": PACKED, "seqused_k": torch.tensor([20, 3, 0, 77], dtype=torch.int32), "window": (-1, 0)},
    "no key used": {"lengths": PACKED, "seqused_k": torch.tensor([0, -7, 0, 0], dtype=torch.int32)},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_masks(kernel, mask, dtype):
    problem = Problem(dtype, 64, **MASKS[mask])
    grads, expected, _ = run(kernel, problem)
    assert_gradients(problem, grads, expected.grads)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
def test_features(kernel, feature, dtype):
    problem = Problem(dtype, 32, **{"lengths": (70, 90), **FEATURES[feature]})
    grads, expected, _ = run(kernel, problem)
    assert_gradients(problem, grads, expected.grads)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dims", [*planning("backward_tiles").SHAPES, (128, 192), (1, 1), (40, 33), (57, 256)])
def test_head_dims(kernel, head_dims, dtype):
    head_dim, value_dim = head_dims
    problem = Problem(dtype, head_dim, (45, 70), (4, 2), value_dim=value_dim, window=(-1, 0))
    grads, expected, _ = run(kernel, problem)
    assert_gradients(problem, grads, expected.grads)


def apart(tensor):
    """The same values in rows that do not start on 16-byte boundaries."""
    return tensor.new_full((*tensor.shape[:-1], tensor.shape[-1] + 1), math.nan)[..., 1:].copy_(tensor)


def heads_first(tensor):
    return tensor.transpose(-3, -2).contiguous().transpose(-3, -2)


@pytest.mark.parametrize("layout", [torch.clone, apart, heads_first])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(kernel, dtype, layout):
    problem = Problem(dtype, 64, (50, 61), (4, 2), window=(-1, 0))
    problem.inputs = layout
    grads, expected, _ = run(kernel, problem)
    assert_gradients(problem, grads, expected.grads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_expanded_gradient(kernel, dtype):
    """As of a sum over heads and tokens."""
    problem = Problem(dtype, 64, (50, 61), (4, 2), batch=2)
    problem.grad_output = problem.grad_output[:1, :1, :1].expand_as(problem.grad_output)
    problem.inputs = lambda tensor: tensor
    grads, expected, _ = run(kernel, problem)
    assert_gradients(problem, grads, expected.grads)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_of_no_sequence(kernel, dtype):
    """Before, between and after the sequences NaN changes nothing, and the gradients are 0."""
    bounds = {"cu_seqlens_q": [5, 40, 40, 70], "cu_seqlens_k": [3, 50, 57, 90]}
    bounds = {name: torch.tensor(values, dtype=torch.int32) for name, values in bounds.items()}
    problem = Problem(dtype, 64, [(85, 100)], (4, 2), window=(-1, 0), **bounds)
    for tensors, first, end in (
        ((problem.query, problem.grad_output, problem.grad_lse.transpose(0, 1)), 5, 70),
        ((problem.key, problem.value), 3, 90),
    ):
        for tensor in tensors:
            tensor[:first] = tensor[end:] = math.nan
    grads, expected, _ = run(kernel, problem)
    for grad in expected.grads[0], *grads[:1]:
        assert not grad[:5].any() and not grad[70:].any()
    assert_gradients(problem, grads, expected.grads)


@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_paged_keys(kernel, dtype, layout):
    """The query's gradient alone."""
    lengths = [(20, 40), (33, 75)] if layout == "packed" else (33, 75)
    table = torch.tensor([[3, 0, 6, 9, 1], [5, 2, 7, 4, 8]], dtype=torch.int32)
    used = torch.tensor([40, 75], dtype=torch.int32)
    problem = Problem(dtype, 64, lengths, (4, 2), batch=2, window=(-1, 0), block_table=table, seqused_k=used)
    problem.key, problem.value = (random_tensor(seed, 10, 16, 2, 64, dtype=dtype) for seed in (7, 8))
    problem.fields["max_seqlen_k"] = 80
    grads, expected, plans = run(kernel, problem, keys=False)
    assert_gradients(problem, grads, expected.grads[:1])
    assert len(plans) == 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_query_alone(kernel, dtype):
    """The same bits, from two launches."""
    problem = Problem(dtype, 64, (70, 90), window=(-1, 0))
    alone, _, plans = run(kernel, problem, keys=False)
    assert len(plans) == 2 and torch.equal(alone[0], run(kernel, problem)[0][0])


def test_no_rows_or_no_keys(kernel):
    """No launch: the gradients are 0, which the caller writes."""
    for lengths in ((0, 5), (5, 0), [(0, 5)], [(5, 0)]):
        problem = Problem(torch.float16, 64, lengths)
        grads, expected, plans = run(kernel, problem)
        assert plans == []
        assert_gradients(problem, grads, expected.grads)
