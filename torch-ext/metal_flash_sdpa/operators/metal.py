"""Calls on a GPU: a plan, the tensors that it names, and the launcher that runs it."""

from __future__ import annotations

import math
from typing import Dict, Iterable, Optional, Tuple

import torch

from ..call import Call, Dropout, Gradients, present
from ..launching import Target
from ..planning import backward as backward_planner
from ..planning import forward as planner
from ..planning.plan import Plan, ScoreParams, Scratch


def attention_forward(
    target: Target,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    call: Call,
    row_softmax: Optional[torch.Tensor] = None,
) -> None:
    """Fills output, and lse and row_softmax unless None. Rows of all tensors are contiguous."""
    tensors = present(call)
    if not _have_elements(tensors):
        # Nothing to see: no queries, no keys, no pages or no sequences. An empty tensor may have no memory to bind.
        output.zero_()
        if lse is not None:
            lse.fill_(-torch.inf)
        if row_softmax is not None:
            row_softmax.copy_(row_softmax.new_tensor(planner.SOFTMAX_OF_NO_KEY))
        return
    plan = planner.plan_forward(target.device, output, lse, call, row_softmax)
    _name(tensors, output=output, lse=lse, row_softmax=row_softmax)
    _run(target, plan.scratch, _chain(plan), tensors)


def attention_backward(
    target: Target,
    grad_output: torch.Tensor,
    grad_lse: Optional[torch.Tensor],
    call: Call,
    output: torch.Tensor,
    row_softmax: torch.Tensor,
    wants_key_value: bool,
    dropout: Dropout,
) -> Gradients:
    """The gradients; without wants_key_value, those of key and value are [0]. Rows of all tensors are contiguous."""
    grads = new_gradients(call, wants_key_value)
    tensors = present(call)
    if not _have_elements(tensors):
        for grad in grads:
            grad.zero_()
        return grads
    key_value = (grads.key, grads.value) if wants_key_value else (None, None)
    chain = backward_planner.plan_backward(
        target.device, call, grad_output, output, grad_lse, (grads.query, *key_value), dropout.dropout_p > 0
    )
    _name(tensors, grad_output=grad_output, output=output, row_softmax=row_softmax, grad_lse=grad_lse)
    _name(tensors, grad_query=grads.query, grad_key=key_value[0], grad_value=key_value[1])
    _run(target, chain.scratch, chain.launches, tensors)
    if call.sinks is not None:
        grads.sinks.copy_(_gradient_of_sinks(call, row_softmax, tensors["row_terms"]))
    return grads


def new_gradients(call: Call, wants_key_value: bool) -> Gradients:
    """Contiguous, of the inputs' shapes and dtypes; [0] of what is not wanted or not there."""
    query, key, value, sinks = call.query, call.key, call.value, call.sinks
    return Gradients(
        query=query.new_empty(query.shape),
        key=key.new_empty(key.shape if wants_key_value else 0),
        value=value.new_empty(value.shape if wants_key_value else 0),
        sinks=query.new_empty(0 if sinks is None else sinks.shape, dtype=torch.float32),
    )


def _gradient_of_sinks(call: Call, row_softmax: torch.Tensor, row_terms: torch.Tensor) -> torch.Tensor:
    """A sink is one more score of each row, whose value is 0: minus its weight times the row's term."""
    score = ScoreParams.of(call.softmax_scale, call.softcap, call.alibi_slopes is not None)
    row_max, log2_sum = row_softmax.unbind(-1)
    distance = call.sinks.unsqueeze(-1) - score.scale * row_max
    weights = distance.sub_(log2_sum, alpha=math.log(2)).clamp_(max=0).exp_()
    by_head = weights.mul_(row_terms).sum(dim=-1)
    return by_head.reshape(-1, call.sinks.shape[0]).sum(dim=0).neg_()


def _have_elements(tensors: Dict[str, torch.Tensor]) -> bool:
    return all(map(torch.Tensor.numel, tensors.values()))


def _name(tensors: Dict[str, torch.Tensor], **named: Optional[torch.Tensor]) -> None:
    tensors.update({name: tensor for name, tensor in named.items() if tensor is not None})


def _chain(plan: Optional[Plan]) -> Iterable[Plan]:
    while plan is not None:
        yield plan
        plan = plan.then


def _run(target: Target, scratch: Tuple[Scratch, ...], plans: Iterable[Plan], tensors: Dict[str, torch.Tensor]) -> None:
    """Runs a chain; what it leaves in its scratch is among the tensors then."""
    device = tensors["query"].device
    for name, shape in scratch:
        tensors[name] = torch.empty(shape, dtype=torch.float32, device=device)
    for plan in plans:
        target.launcher(plan, tensors)
