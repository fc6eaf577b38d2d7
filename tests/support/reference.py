"""Attention in float64, straight from its definition, and the bounds that results must keep.

Written apart from the code under test: one sequence, one head, one full matrix of scores at a time.
"""

from __future__ import annotations

import contextlib
import math

import torch


def attention(
    query,
    key,
    value,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    softmax_scale=None,
    window=(-1, -1),
    *,
    softcap=0.0,
    alibi_slopes=None,
    sinks=None,
    seqused_k=None,
    block_table=None,
    attn_bias=None,
    aligns_first=False,
):
    """(output, lse) in float64, differentiable.

    Packed [total, heads, head_dim] with cu_seqlens (lists or tensors), lse [heads, total]; or dense
    [batch, seqlen, heads, head_dim] without, lse [batch, heads, seqlen]. window = (left, right), -1 = unbounded;
    causal is right = 0. Rows that see no key, and rows of no sequence: output 0, lse -inf.

    softcap 0.0 = none; alibi_slopes [heads] or [batch, heads]; sinks [heads]; seqused_k [batch], keys of each sequence
    that count; block_table [batch, max_pages], with key and value [num_pages, page_size, heads_kv, head_dim], where
    the number of keys comes from seqused_k, else from cu_seqlens_k. attn_bias: bool or floating, [heads or 1, total_q
    or 1, keys or 1] packed, else [batch or 1, heads or 1, seqlen_q or 1, keys or 1]; its last axis may be longer than
    the keys, and hides those that it is too short for. aligns_first: token i stands at key i.
    """
    is_packed = query.dim() == 3
    bounds_q = [int(x) for x in cu_seqlens_q] if is_packed else None
    batch = len(bounds_q) - 1 if is_packed else query.shape[0]
    num_heads = query.shape[-2]
    scale = query.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    output = torch.zeros(*query.shape[:-1], value.shape[-1], dtype=torch.float64)
    lse = torch.full((*query.shape[:-3], num_heads, query.shape[-3]), -math.inf, dtype=torch.float64)
    for b in range(batch):
        rows = slice(bounds_q[b], bounds_q[b + 1]) if is_packed else b
        row_lse = (slice(None), rows) if is_packed else b
        k, v = _keys_of(b, key, value, cu_seqlens_k, seqused_k, block_table)
        slopes = None if alibi_slopes is None else alibi_slopes.expand(batch, num_heads)[b]
        bias = None
        if attn_bias is not None:
            bias = attn_bias if is_packed else attn_bias.expand(batch, -1, -1, -1)[b]
            bias = bias.expand(num_heads, query.shape[-3], -1)[:, rows if is_packed else slice(None)]
            bias = bias[..., : k.shape[0]] if bias.shape[-1] > 1 else bias.expand(-1, -1, k.shape[0])
        score = scale, window, softcap, slopes, sinks, bias, aligns_first
        output[rows], lse[row_lse] = _sequence(query[rows], k, v, *score)
    return output, lse


def gradients(inputs, grad_output, grad_lse=None, **arguments):
    """Gradients of (query, key, value) or (query, key, value, sinks), float64, by autograd through `attention`.

    grad_output and grad_lse are those of its results (grad_lse where lse is -inf has no meaning); arguments are its.
    """
    leaves = [tensor.detach().double().requires_grad_() for tensor in inputs]
    sinks = {"sinks": leaves[3]} if len(leaves) > 3 else {}
    output, lse = attention(*leaves[:3], **sinks, **arguments)
    loss = (output * grad_output.double()).sum() + sum(leaf.sum() * 0 for leaf in leaves)
    if grad_lse is not None:
        seen = torch.isfinite(lse)
        loss = loss + (lse[seen] * grad_lse[seen].double()).sum()
    return torch.autograd.grad(loss, leaves)


def _keys_of(b, key, value, cu_seqlens_k, seqused_k, block_table):
    """Keys and values of sequence b, [length, heads_kv, head_dim]."""
    bounds = None if cu_seqlens_k is None else [int(x) for x in cu_seqlens_k[b : b + 2]]
    used = None if seqused_k is None else max(0, int(seqused_k[b]))
    if block_table is not None:
        num_pages, page_size = key.shape[:2]
        length = bounds[1] - bounds[0] if used is None else used
        length = max(0, min(length, block_table.shape[1] * page_size))
        pages = [min(max(int(page), 0), num_pages - 1) for page in block_table[b]]
        places = [(pages[j // page_size], j % page_size) for j in range(length)]
        pages, offsets = [page for page, _ in places], [offset for _, offset in places]
        return key[pages, offsets], value[pages, offsets]
    if bounds is None:
        k, v = key[b], value[b]
    else:
        k, v = key[bounds[0] : bounds[1]], value[bounds[0] : bounds[1]]
    return k[:used], v[:used]


def _sequence(query, key, value, scale, window, softcap, slopes, sinks, bias, aligns_first):
    length_q, num_heads, length_k = query.shape[0], query.shape[1], key.shape[0]
    output = torch.zeros(length_q, num_heads, value.shape[-1], dtype=torch.float64)
    lse = torch.full((num_heads, length_q), -math.inf, dtype=torch.float64)
    position = torch.arange(length_q)[:, None] + (0 if aligns_first else length_k - length_q)
    distance = torch.arange(length_k)[None, :] - position
    visible = torch.ones(length_q, length_k, dtype=torch.bool)
    if window[0] >= 0:
        visible &= distance >= -window[0]
    if window[1] >= 0:
        visible &= distance <= window[1]
    visible = visible.expand(num_heads, -1, -1)
    if bias is not None:
        missing = length_k - bias.shape[-1]
        is_mask = bias.dtype == torch.bool
        seen = bias if is_mask else bias != -math.inf
        visible = visible & torch.nn.functional.pad(seen, (0, missing))
        bias = None if is_mask else torch.nn.functional.pad(bias.double(), (0, missing)).masked_fill(~visible, 0.0)
    for head in range(num_heads):
        rows = visible[head].any(dim=1)
        if not rows.any():
            continue
        head_kv = head // (num_heads // key.shape[1])
        scores = scale * (query[:, head].double() @ key[:, head_kv].double().T)
        if softcap > 0:
            scores = softcap * torch.tanh(scores / softcap)
        if slopes is not None:
            scores = scores - slopes[head].double() * distance.abs()
        if bias is not None:
            scores = scores + bias[head]
        scores = scores.masked_fill(~visible[head], -math.inf)[rows]
        if sinks is not None:  # a key that every row sees, with this score and a value of 0
            scores = torch.cat([scores, sinks[head].double().expand(scores.shape[0], 1)], dim=1)
        lse[head, rows] = torch.logsumexp(scores, dim=1)
        output[rows, head] = torch.softmax(scores, dim=1)[:, :length_k] @ value[:, head_kv].double()
    return output, lse


_rounded_weights = [False]


@contextlib.contextmanager
def rounded_weights():
    """Within it, calls of 16-bit types may use the matrix unit, which takes weights of 11 bits: 2^-12 of the largest
    value on top of the bound."""
    _rounded_weights.append(True)
    try:
        yield
    finally:
        _rounded_weights.pop()


def weight_rounding() -> float:
    """How far rounded weights may move a 16-bit output, as a part of the largest value."""
    return 2**-12 if _rounded_weights[-1] else 0.0


def output_bound(expected, dtype, value) -> float:
    """Largest allowed |output - expected|: CONTRIBUTING.md, Numerics."""
    largest = value.double().abs().max().item() if value.numel() else 0.0
    if dtype == torch.float32:
        return 5e-6 * largest
    rounding = (expected.to(dtype).double() - expected).abs().max().item() if expected.numel() else 0.0
    return 1.1 * rounding + (4e-6 + weight_rounding()) * largest


def assert_output(output, expected, value) -> None:
    """Within the bound; NaN and infinities fail it."""
    assert output.shape == expected.shape
    if output.numel():
        error = (output.double() - expected).abs().max().item()
        bound = output_bound(expected, output.dtype, value)
        assert error <= bound, f"error {error:.3g}, allowed {bound:.3g}"


def assert_lse(lse, expected) -> None:
    """fp32 rounding of the logarithm and of the scores under it; -inf in exactly the same places."""
    assert lse.dtype == torch.float32 and lse.shape == expected.shape
    finite = torch.isfinite(expected)
    assert torch.equal(lse == -math.inf, ~finite)
    if finite.any():
        error = ((lse.double() - expected).abs() / (1 + expected.abs()))[finite].max().item()
        assert error <= 4e-6, f"relative error {error:.3g} of lse"


def assert_gradients(grads, expected, inputs, dtype) -> None:
    """To the rounding of the dtype, relative to the largest gradient."""
    relative = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]  # two roundings to the dtype
    for grad, reference, tensor in zip(grads, expected, inputs):
        assert grad.shape == tensor.shape and grad.dtype == tensor.dtype
        if grad.numel():
            error = (grad.double() - reference).abs().max().item()
            assert error <= relative * (1 + reference.abs().max().item()), error
