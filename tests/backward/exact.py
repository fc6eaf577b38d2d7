"""The gradients of attention in float64, by autograd of its definition, and what the forward pass leaves for them.

Written apart from the code under test: one sequence, one head, one full matrix of scores at a time.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple, Optional

import torch
from reference import _keys_of

NO_KEY = torch.tensor([-(2.0**127), 1e30])  # row_softmax of a row that sees no key

Factors = Callable[[int, int, int, int], torch.Tensor]  # (sequence, head, tokens, keys) -> what dropout multiplies by


class Exact(NamedTuple):
    output: torch.Tensor  # as the query, in its dtype
    lse: torch.Tensor  # float64 [(batch,) heads, tokens]
    row_softmax: torch.Tensor  # fp32 [(batch,) heads, tokens, 2]
    grads: tuple  # float64, of query, key, value and, with sinks, these
    # Of query, key and value: the most that these are off if weights and their gradients have 11 bits.
    of_11_bits: tuple


def exact(
    query,
    key,
    value,
    grad_output,
    grad_lse,
    fields,
    unit: float,
    factors: Optional[Factors] = None,
    of_rounded_output: bool = True,
) -> Exact:
    """fields: the other fields of a call, by name; unit: what turns the kernels' scores into natural ones; grad_lse:
    as lse, or None. Where lse is -inf its gradient has no meaning.

    of_rounded_output: the kernels multiply the gradient of the output with an output that is rounded to the dtype, and
    so their gradients are exactly those of another gradient of lse, which is taken here.
    """
    leaves = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    sinks = fields.get("sinks")
    if sinks is not None:
        leaves.append(sinks.detach().double().requires_grad_())
    is_packed = query.dim() == 3
    bounds = fields["cu_seqlens_q"].tolist() if is_packed else None
    batch, heads = (len(bounds) - 1 if is_packed else query.shape[0]), query.shape[-2]
    tokens = query.shape[-3]
    output = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=query.dtype)
    lse = torch.full((*query.shape[:-3], heads, tokens), -math.inf, dtype=torch.float64)
    row_softmax = NO_KEY.repeat(*lse.shape, 1)
    loss = sum(torch.nan_to_num(leaf).sum() * 0 for leaf in leaves)
    products_of, parts_of = [], []  # each head's scores, and what it takes to tell how rounding them shows
    for b in range(batch):
        rows = slice(bounds[b], bounds[b + 1]) if is_packed else b
        of_lse = (slice(None), rows) if is_packed else b
        own_keys, own_values = _keys_of(
            b, *leaves[1:3], fields.get("cu_seqlens_k"), fields.get("seqused_k"), fields.get("block_table")
        )
        own_queries = leaves[0][rows]
        first = 0 if fields.get("aligns_first") else len(own_keys) - len(own_queries)
        position = torch.arange(len(own_queries))[:, None] + first
        distance = torch.arange(len(own_keys))[None, :] - position
        visible = torch.ones_like(distance, dtype=torch.bool)
        if fields["window_left"] >= 0:
            visible &= distance >= -fields["window_left"]
        if fields["window_right"] >= 0:
            visible &= distance <= fields["window_right"]
        bias = fields.get("attn_bias")
        if bias is not None:
            bias = bias.expand(heads, tokens, -1)[:, rows] if is_packed else bias.expand(batch, heads, tokens, -1)[b]
        seen_in_window = visible
        for head in range(heads):
            if bias is not None:
                own_bias = (
                    bias[head].expand(-1, len(own_keys)) if bias.shape[-1] == 1 else bias[head, :, : len(own_keys)]
                )
                shown = own_bias if own_bias.dtype == torch.bool else own_bias != -math.inf
                visible = torch.zeros_like(seen_in_window)
                visible[:, : shown.shape[1]] = seen_in_window[:, : shown.shape[1]] & shown
            seen = visible.any(dim=1)
            if not seen.any():
                continue
            head_kv = head // (heads // key.shape[-2])
            # Not torch.matmul, which may add up equal keys in different orders.
            products = (own_queries[seen, head].unsqueeze(1) * own_keys[:, head_kv]).sum(dim=2)
            scores = fields["softmax_scale"] * products
            if fields["softcap"] > 0:
                scores = fields["softcap"] * torch.tanh(scores / fields["softcap"])
            if fields.get("alibi_slopes") is not None:
                slope = fields["alibi_slopes"].expand(batch, heads)[b, head].double()
                scores = scores - slope * distance[seen].abs()
            if bias is not None and bias.dtype != torch.bool:
                added = torch.zeros_like(distance, dtype=torch.float64)
                added[:, : own_bias.shape[1]] = own_bias
                scores = scores + added.masked_fill(~visible, 0.0)[seen]
            scores = scores.masked_fill(~visible[seen], -math.inf)
            row_max = scores.detach().amax(dim=1, keepdim=True)
            log_sum = torch.logsumexp(scores - row_max, dim=1, keepdim=True)
            if sinks is not None:
                log_sum = torch.logaddexp(log_sum, leaves[3][head] - row_max)
            weights = torch.exp(scores - row_max - log_sum)
            if factors is not None:
                weights = weights * factors(b, head, len(own_queries), len(own_keys))[seen]
            products_of.append(products)
            parts_of.append((b, rows, seen, head, head_kv, weights.detach()))
            own_output, own_lse = weights @ own_values[:, head_kv], (row_max + log_sum)[:, 0]
            own_grad = grad_output[rows][seen, head].double()
            loss = loss + (own_output * own_grad).sum()
            if grad_lse is not None:
                loss = loss + (own_lse * grad_lse[of_lse][head, seen].double()).sum()
            rounded = own_output.detach().to(query.dtype)
            if of_rounded_output:
                loss = loss - (own_lse * ((rounded.double() - own_output.detach()) * own_grad).sum(dim=1)).sum()
            output[rows][seen, head] = rounded
            lse[of_lse][head, seen] = own_lse.detach()
            kept = torch.cat([row_max / unit, log_sum.detach() / math.log(2)], dim=1)
            row_softmax[of_lse][head, seen] = kept.clamp(-(2.0**126), 2.0**126).float()
    grads = torch.autograd.grad(loss, [*leaves, *products_of])
    bounds = [torch.zeros_like(leaf) for leaf in leaves[:3]]
    where = [fields.get(name) for name in ("cu_seqlens_k", "seqused_k", "block_table")]
    for (b, rows, seen, head, head_kv, weights), grad in zip(parts_of, grads[len(leaves) :]):
        keys, _ = _keys_of(b, *leaves[1:3], *where)
        own_query, own_grad = leaves[0].detach()[rows][seen, head], grad_output[rows][seen, head].double()
        bounds[0][rows][seen, head] = 2**-11 * grad.abs() @ keys.detach()[:, head_kv].abs()
        for whole, bound in zip(  # views, unless paged: nobody wants these gradients then
            _keys_of(b, *bounds[1:3], *where), (grad.abs().T @ own_query.abs(), weights.abs().T @ own_grad.abs())
        ):
            whole[:, head_kv] += 2**-11 * bound
    return Exact(output, lse, row_softmax, grads[: len(leaves)], tuple(bounds))


def bound(expected: torch.Tensor, dtype: torch.dtype, cancelled: float = 0.0) -> float:
    """Largest allowed |gradient - expected|: 1.2e-6 of the largest gradient in fp32, else 1.1 times the rounding of the
    expected one, as for the output. Less than CONTRIBUTING allows, as the expected one has the rounded output's delta.

    cancelled: size of the two sums that a gradient is the difference of: three roundings, of each and of what is left.
    """
    largest = expected.abs().max().item() if expected.numel() else 0.0
    cancelled = 3 * 2.0**-24 * cancelled + 2.0**-126  # which the hardware flushes
    if dtype == torch.float32:
        return 1.2e-6 * largest + cancelled
    rounding = (expected.to(dtype).double() - expected).abs().max().item() if expected.numel() else 0.0
    return 1.1 * rounding + 4e-6 * largest + cancelled


def largest(tensor) -> float:
    """NaN, around the sequences, does not count."""
    return torch.nan_to_num(tensor.double()).abs().max().item() if tensor.numel() else 0.0


def assert_gradients(problem, grads, expected, more: float = 1.0, of_11_bits=(0.0, 0.0, 0.0)) -> None:
    """NaN and infinities fail it; None are gradients that nobody wants. more: times what may be cancelled; of_11_bits:
    Exact's, for kernels that take weights of 11 bits."""
    value, grad_output = (
        torch.nan_to_num(t.double()).abs().flatten(0, -2) for t in (problem.value, problem.grad_output)
    )
    products = largest(grad_output @ value.T)
    score = more * abs(problem.fields["softmax_scale"]) * products
    rows = problem.query.shape[-3] * problem.query.shape[-2] // problem.key.shape[-2]  # whose roundings a key adds up
    # Of each partial sum of a value's gradient one rounding, a random walk; 4 of 1,000 random problems met it.
    steps = math.sqrt(rows) * largest(expected[2]) / 3 if len(expected) > 2 else 0.0
    sizes = score * largest(problem.key), score * largest(problem.query) * math.sqrt(rows), steps
    for name, grad, right, size, rounding in zip(("query", "key", "value"), grads, expected, sizes, of_11_bits):
        if grad is not None and grad.numel():
            error = ((grad.double() - right).abs() - rounding).max().item()
            allowed = bound(right, grad.dtype, size)
            assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"
