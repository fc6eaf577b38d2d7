"""Calls on a GPU: a plan, the tensors that it names, and the launcher that runs it."""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple, Union

import torch

from ..call import Append, Call, Dropout, Gradients, differentiable_of, present
from ..launching import Target
from ..planning import append as append_planner
from ..planning import backward as backward_planner
from ..planning import forward as planner
from ..planning.plan import Chain, DropoutParams, Parameters, ScoreParams

_Given = Dict[str, Any]  # tensors, and structs that no plan keeps, by name


def attention_forward(
    target: Target,
    output: torch.Tensor,
    lse: Optional[torch.Tensor],
    row_softmax: Optional[torch.Tensor],
    call: Call,
    dropout: Dropout,
) -> None:
    """Fills output, and lse and row_softmax unless None. Rows of all tensors are contiguous."""
    chain = planner.plan_forward(target.device, output, lse, call, row_softmax, dropout.dropout_p > 0)
    if not chain.launches:
        # Nothing to see: no queries, no keys, no pages or no sequences. An empty tensor may have no memory to bind.
        output.zero_()
        if lse is not None:
            lse.fill_(-torch.inf)
        if row_softmax is not None:
            row_softmax.copy_(row_softmax.new_tensor(planner.SOFTMAX_OF_NO_KEY))
        return
    given: _Given = present(call)
    given["output"] = output
    if lse is not None:
        given["lse"] = lse
    if row_softmax is not None:
        given["row_softmax"] = row_softmax
    if dropout.dropout_p > 0:
        given["dropout"] = _packed(dropout)
    _run(target, chain, given)


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
    grads = new_gradients(call, wants_key_value, wants_attn_bias=False)
    tensors = present(call)
    if not _have_elements(tensors):
        for grad in (grads.query, grads.key, grads.value):
            grad.zero_()
        return grads
    key_value = (grads.key, grads.value) if wants_key_value else (None, None)
    chain = backward_planner.plan_backward(
        target.device, call, grad_output, output, grad_lse, (grads.query, *key_value), dropout.dropout_p > 0
    )
    given: _Given = {**tensors, "grad_output": grad_output, "output": output, "row_softmax": row_softmax}
    _add(given, grad_lse=grad_lse, grad_query=grads.query, grad_key=key_value[0], grad_value=key_value[1])
    _add(given, dropout=_packed(dropout))
    _run(target, chain, given)
    if call.sinks is not None:
        return grads._replace(sinks=_gradient_of_sinks(call.sinks, call, row_softmax, given["row_terms"]))
    return grads


def append_to_cache(target: Target, append: Append) -> Tuple[torch.Tensor, torch.Tensor]:
    """(the queries, rotated, [0] without rotary; the lengths after it). Rows of all tensors are contiguous."""
    is_rotated = append.rotary_cos is not None
    rotated, seqused_k = new_appended(append.query, append.cache_seqlens, is_rotated)
    given: _Given = {name: value for name, value in append._asdict().items() if isinstance(value, torch.Tensor)}
    given["seqused_k"] = seqused_k
    if is_rotated:
        given["rotated"] = rotated
    target.launcher(append_planner.plan_append(append), given)
    return rotated, seqused_k


def new_appended(
    query: torch.Tensor, cache_seqlens: torch.Tensor, is_rotated: bool
) -> Tuple[torch.Tensor, torch.Tensor]:
    """What append_to_cache returns."""
    return (
        query.new_empty(query.shape if is_rotated else 0),
        cache_seqlens.new_empty(cache_seqlens.shape, dtype=torch.int32),
    )


def new_gradients(call: Call, wants_key_value: bool, wants_attn_bias: bool) -> Gradients:
    """Contiguous, of the inputs' shapes and dtypes; [0] of what is not wanted or not there."""
    query, key, value, sinks, attn_bias = differentiable_of(call)
    return Gradients(
        query=query.new_empty(query.shape),
        key=key.new_empty(key.shape if wants_key_value else 0),
        value=value.new_empty(value.shape if wants_key_value else 0),
        sinks=query.new_zeros(0 if sinks is None else sinks.shape, dtype=torch.float32),
        attn_bias=(query if attn_bias is None else attn_bias).new_empty(attn_bias.shape if wants_attn_bias else 0),
    )


def _gradient_of_sinks(
    sinks: torch.Tensor, call: Call, row_softmax: torch.Tensor, row_terms: torch.Tensor
) -> torch.Tensor:
    """A sink is one more score of each row, whose value is 0: minus its weight times the row's term."""
    has_bias = call.attn_bias is not None and call.attn_bias.dtype != torch.bool
    score = ScoreParams.of(call.softmax_scale, call.softcap, call.alibi_slopes is not None, has_bias)
    row_max, log2_sum = row_softmax.unbind(-1)
    distance = sinks.unsqueeze(-1) - score.scale * row_max
    weights = distance.sub_(log2_sum, alpha=math.log(2)).clamp_(max=0).exp_()
    by_head = weights.mul_(row_terms).sum(dim=-1)
    return by_head.reshape(-1, sinks.shape[0]).sum(dim=0).neg_()


def _have_elements(tensors: Dict[str, torch.Tensor]) -> bool:
    return all(map(torch.Tensor.numel, tensors.values()))


def _add(given: _Given, **named: Union[torch.Tensor, Parameters, None]) -> None:
    """What is not None."""
    given.update({name: value for name, value in named.items() if value is not None})


def _packed(dropout: Dropout) -> Optional[Parameters]:
    return DropoutParams.of(dropout).pack() if dropout.dropout_p > 0 else None


def _run(target: Target, chain: Chain, given: _Given) -> None:
    """Runs the launches; what they leave in the scratch is given then, too."""
    device = given["query"].device
    for name, shape in chain.scratch:
        given[name] = torch.empty(shape, dtype=torch.float32, device=device)
    for plan in chain.launches:
        target.launcher(plan, given)
