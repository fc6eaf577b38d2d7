"""Problems for the backward kernels, and running them on the simulator."""

from __future__ import annotations

import contextlib
import importlib
import math
from unittest import mock

import torch
from cases import call_of, poisoned, random_tensor
from simulated_launcher import SimulatedLauncher

from .exact import exact


def planner(kernel):
    """The module planning.backward."""
    return importlib.import_module(f"{kernel.__name__}.planning.backward")


def plan_module(kernel):
    """The module planning.plan; a kernel that was loaded twice does not name its folders."""
    return importlib.import_module(f"{kernel.__name__}.planning.plan")


class Problem:
    """One call and the gradients of its results.

    lengths: (tokens, keys) of one dense sequence, or of several packed ones; other fields are those of a call.
    """

    def __init__(
        self,
        dtype,
        head_dim,
        lengths,
        heads=(4, 2),
        *,
        value_dim=None,
        batch=1,
        window=(-1, -1),
        scale=None,
        softcap=0.0,
        lse=True,
        seed=0,
        **fields,
    ):
        packed = isinstance(lengths, list)
        value_dim = value_dim or head_dim
        tokens, keys = (sum(side) for side in zip(*lengths)) if packed else lengths
        lead = () if packed else (batch,)
        self.query = random_tensor(seed, *lead, tokens, heads[0], head_dim, dtype=dtype)
        self.key = random_tensor(seed + 1, *lead, keys, heads[1], head_dim, dtype=dtype)
        self.value = random_tensor(seed + 2, *lead, keys, heads[1], value_dim, dtype=dtype)
        self.grad_output = random_tensor(seed + 3, *lead, tokens, heads[0], value_dim, dtype=dtype)
        self.grad_lse = random_tensor(seed + 4, *lead, heads[0], tokens) if lse else None
        self.fields = {
            "window_left": window[0],
            "window_right": window[1],
            "softcap": softcap,
            "softmax_scale": head_dim**-0.5 if scale is None else scale,
            **fields,
        }
        if packed:
            for side, name in enumerate("qk"):
                bounds = [0, *torch.tensor([pair[side] for pair in lengths]).cumsum(0).tolist()]
                self.fields.setdefault(f"cu_seqlens_{name}", torch.tensor(bounds, dtype=torch.int32))
                self.fields.setdefault(f"max_seqlen_{name}", max(pair[side] for pair in lengths))
        self.inputs = poisoned  # how a tensor lies in memory


def of_call(query, key, value, fields, lse: bool, seed: int) -> Problem:
    """The problem of a call that is there; fields: its other ones, by name."""
    problem = Problem.__new__(Problem)
    problem.query, problem.key, problem.value, problem.fields = query, key, value, fields
    problem.grad_output = random_tensor(seed + 5, *query.shape[:-1], value.shape[-1], dtype=query.dtype)
    problem.grad_lse = random_tensor(seed + 6, *query.shape[:-3], query.shape[-2], query.shape[-3]) if lse else None
    problem.inputs = poisoned
    return problem


def run(
    kernel,
    problem,
    launcher=None,
    *,
    keys=True,
    cores=8,
    family=7,
    matrix_unit=False,
    scratch=None,
    chunk_keys=None,
    factors=None,
    dropout=None,
    rounding=0.0,
    row_max=None,
):
    """(gradients of query, key and value, Exact, plans): the chain, launch by launch, in NaN everywhere.

    factors, dropout: of exact(), and (probability, seed) of the kernels; keys: whether key and value want gradients;
    scratch, chunk_keys: other budgets than the planner's; rounding: of the forward pass, relative to each
    row's maximum if that is large; row_max: in the place of all of them.
    """
    launcher = launcher or SimulatedLauncher(check=True)
    backward = planner(kernel)
    bias = problem.fields.get("attn_bias")
    score = plan_module(kernel).ScoreParams.of(
        problem.fields["softmax_scale"],
        problem.fields["softcap"],
        problem.fields.get("alibi_slopes") is not None,
        bias is not None and bias.dtype != torch.bool,
    )
    tensors = problem.query, problem.key, problem.value
    expected = exact(*tensors, problem.grad_output, problem.grad_lse, problem.fields, score.scale, factors)
    row_softmax = expected.row_softmax.clone()
    row_softmax[..., 0][row_softmax[..., 0].abs() * score.scale > 88] *= 1 + rounding
    if row_max is not None:
        row_softmax[..., 0] = row_max
    call = call_of(kernel, *map(problem.inputs, tensors), **problem.fields)
    output, grad_output = problem.inputs(expected.output), problem.inputs(problem.grad_output)
    grads = [torch.full_like(tensor, math.nan).contiguous() for tensor in tensors]
    if not keys:
        grads[1:] = None, None
    device = kernel.device.Device(family, cores, matrix_unit=matrix_unit)
    with budgets(backward, scratch, chunk_keys):
        chain = backward.plan_backward(device, call, grad_output, output, problem.grad_lse, grads, dropout is not None)
        plans = list(chain.launches)
    named = {**kernel.call.present(call), "output": output, "grad_output": grad_output, "grad_lse": problem.grad_lse}
    named |= {"row_softmax": row_softmax, "grad_query": grads[0], "grad_key": grads[1], "grad_value": grads[2]}
    named |= {part.name: torch.full(part.shape, math.nan) for part in chain.scratch}
    if dropout is not None:
        seed = torch.tensor([dropout[1]])
        params = plan_module(kernel).DropoutParams.of(kernel.call.Dropout(dropout[0], seed))
        named["dropout"] = params.pack()
    for plan in plans:
        launcher(plan, named)
    if plans:  # a sink's gradient takes them
        assert not named["row_terms"][expected.lse.isneginf()].any(), "terms of rows that see nothing"
    else:  # nothing to launch: the gradients are 0
        grads = [grad if grad is None else torch.zeros_like(grad) for grad in grads]
    return grads, expected, plans


@contextlib.contextmanager
def budgets(backward, scratch, chunk_keys):
    with contextlib.ExitStack() as stack:
        for name, value in (("SCRATCH_BYTES", scratch), ("CHUNK_KEYS", chunk_keys)):
            if value is not None:
                stack.enter_context(mock.patch.object(backward, name, value))
        backward._plan_backward.cache_clear()
        yield
        backward._plan_backward.cache_clear()
