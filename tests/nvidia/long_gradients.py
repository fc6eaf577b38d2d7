"""Stage `long_gradients`: gradients of 65,536 tokens, of packed batches of 262,144 and of tensors of more than 2^31
elements, between sentinels: the same bits in every run and for other chunks, and all of them beside float64.

The exact gradients are made on the GPU, in float64, of as many rows at a time as fit.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import torch
from calls import Call, Recorder, launch, launch_backward, make_call
from huge import LIMIT, Guarded
from long import ragged
from package import Specialisation

# Fields of a Device: its chunks, twice the same; then others, of fewer rows, whose launches are ranges.
DEVICES = ((7, 64), (7, 64), (7, 8, None, 10**10))
BLOCK = 2**26  # scores that the exact gradients are made of at a time
READ = ("query", "key", "value", "grad_output", "output")
GRADS = ("grad_query", "grad_key", "grad_value")


class Case(NamedTuple):
    name: str
    lengths: Tuple[int, ...]  # tokens of each sequence, which are its keys, too
    num_heads: int
    num_heads_kv: int
    head_dim: int
    dtype: torch.dtype
    window: Tuple[int, int] = (-1, 0)
    features: bool = False  # sinks, and a gradient of lse
    is_dense: bool = False
    is_huge: bool = False


PACKED = tuple(tokens for _, tokens in ragged(2**18, 16384, 1))
MORE_PACKED = tuple(tokens for _, tokens in ragged(2**18, 9000, 2))
CASES = (
    Case("65,536 tokens, causal", (2**16,), 4, 2, 128, torch.float16),
    Case("65,536 tokens, causal, fp32, sinks, lse", (2**16,), 2, 1, 64, torch.float32, (-1, 0), True),
    Case("65,536 tokens, window of 1,024 and 100 ahead", (2**16,), 4, 2, 64, torch.bfloat16, (1023, 100)),
    Case("262,144 tokens packed, causal", PACKED, 4, 1, 128, torch.float16),
    Case("262,144 tokens packed, fp32, window, sinks, lse", MORE_PACKED, 4, 2, 64, torch.float32, (2047, 0), True),
    Case("262,144 tokens packed, causal, slices", MORE_PACKED, 2, 1, 256, torch.bfloat16),
    Case("packed, 2.16e9 elements", (257,) * 4099, 16, 16, 128, torch.float16, is_huge=True),
    Case("dense, 2.17e9 elements", (1030,) * 1030, 8, 8, 256, torch.bfloat16, is_dense=True, is_huge=True),
)


def make(case: Case, place: str) -> Tuple[Call, Dict[str, Guarded], Optional[torch.Tensor]]:
    """(the call; what its gradients are made of, and themselves; lse's gradient)."""
    generator = None if place == "meta" else torch.Generator(place).manual_seed(0)
    lead = (len(case.lengths), case.lengths[0]) if case.is_dense else (sum(case.lengths),)
    shape = dict.fromkeys((*READ, *GRADS), (*lead, case.num_heads, case.head_dim))
    for name in ("key", "value", "grad_key", "grad_value"):
        shape[name] = (*lead, case.num_heads_kv, case.head_dim)
    parts = {}
    for name, sizes in shape.items():
        fill = math.nan if name in GRADS or name == "output" else None
        parts[name] = Guarded.of(sizes, case.dtype, place, fill, generator)
    bounds = torch.tensor([0, *accumulate(case.lengths)], dtype=torch.int32, device=place)
    bounds = None if case.is_dense else bounds
    sinks = torch.randn(case.num_heads, generator=generator, device=place) if case.features else None
    grad_lse = None
    if case.features:
        grad_lse = torch.randn(*lead[:-1], case.num_heads, lead[-1], generator=generator, device=place)
    call = make_call(
        *(parts[name].tensor for name in ("query", "key", "value")),
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        sinks=sinks,
        max_seqlen_q=max(case.lengths),
        max_seqlen_k=max(case.lengths),
        window_left=case.window[0],
        window_right=case.window[1],
    )
    return call, parts, grad_lse


def forward(launcher, call: Call, output: torch.Tensor) -> torch.Tensor:
    """Fills the output; the softmax of its rows."""
    *lead, tokens, heads, _ = call.query.shape
    row_softmax = torch.full((*lead, heads, tokens, 2), math.nan, device=output.device)
    launch(launcher, DEVICES[0], output, None, call, row_softmax)
    return row_softmax


def backward(launcher, device: tuple, call: Call, tensors: Dict[str, torch.Tensor], grad_lse, row_softmax) -> int:
    """Fills the gradients; how many launches that takes."""
    named = {name: tensors[name] for name in ("output", "grad_output", *GRADS)}
    named["row_softmax"] = row_softmax
    if grad_lse is not None:
        named["grad_lse"] = grad_lse
    return launch_backward(launcher, device, call, named)


def specialisations() -> Set[Specialisation]:
    """What the cases will launch."""
    recorder = Recorder()
    for case in CASES:
        call, parts, grad_lse = make(case, "meta")
        tensors = {name: part.tensor for name, part in parts.items()}
        assert not case.is_huge or all(tensor.numel() > LIMIT for tensor in tensors.values()), case.name
        row_softmax = forward(recorder, call, tensors["output"])
        for device in DEVICES[1:]:
            backward(recorder, device, call, tensors, grad_lse, row_softmax)
    return recorder.seen


class Exact(NamedTuple):
    """Of one sequence, in float64."""

    grads: List[torch.Tensor]  # of query, key and value
    product: float  # the largest <grad_output, value>
    weight: float  # the largest root of the sum of the squares of a key's weights
    terms: Tuple[int, int, int]  # of each gradient's sums, at most


def exact(case: Case, call: Call, query, key, value, grad_output, output, grad_lse) -> Exact:
    """From the definition; the sequence's own tensors, [tokens, heads, ...], grad_lse [heads, tokens] or None."""
    tokens, heads_kv, group = len(query), case.num_heads_kv, case.num_heads // case.num_heads_kv
    grads = [torch.zeros(tensor.shape, dtype=torch.float64, device=query.device) for tensor in (query, key, value)]
    products, squares = [], torch.zeros(tokens, heads_kv, dtype=torch.float64, device=query.device)
    rows = max(1, BLOCK // (tokens * case.num_heads))
    for first in range(0, tokens, rows):
        block = slice(first, min(first + rows, tokens))
        begin = 0 if case.window[0] < 0 else max(0, first - case.window[0])
        end = tokens if case.window[1] < 0 else min(tokens, block.stop + case.window[1])
        keys = slice(begin, end)
        grouped = (t[block].double().unflatten(1, (heads_kv, group)) for t in (query, grad_output, output))
        own_query, own_grad, own_output = grouped
        own_key, own_value = key[keys].double(), value[keys].double()
        scores = torch.einsum("qhgd,khd->hgqk", own_query, own_key) * call.softmax_scale
        distance = torch.arange(begin, end, device=query.device) - torch.arange(
            first, block.stop, device=query.device
        ).unsqueeze(1)
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if case.window[0] >= 0:
            hidden |= distance < -case.window[0]
        if case.window[1] >= 0:
            hidden |= distance > case.window[1]
        scores.masked_fill_(hidden, -math.inf)
        lse = scores.logsumexp(dim=3)
        if call.sinks is not None:
            lse = torch.logaddexp(lse, call.sinks.double().view(heads_kv, group, 1).expand_as(lse))
        weights = scores.sub_(lse.unsqueeze(3)).exp_()
        delta = torch.einsum("qhgd,qhgd->hgq", own_grad, own_output)
        if grad_lse is not None:
            delta = delta - grad_lse[:, block].double().unflatten(0, (heads_kv, group))
        product = torch.einsum("qhgd,khd->hgqk", own_grad, own_value)
        products.append(product.abs().amax())
        squares[keys] += weights.square().sum(dim=(1, 2)).T
        grads[2][keys] += torch.einsum("hgqk,qhgd->khd", weights, own_grad)
        of_scores = product.sub_(delta.unsqueeze(3)).mul_(weights).mul_(call.softmax_scale)
        grads[0][block] = torch.einsum("hgqk,khd->qhgd", of_scores, own_key).flatten(1, 2)
        grads[1][keys] += torch.einsum("hgqk,qhgd->khd", of_scores, own_query)
    seen = tokens if min(case.window) < 0 else min(tokens, sum(case.window) + 1)
    terms = seen, seen * group, seen * group
    return Exact(grads, float(torch.stack(products).max()), float(squares.max().sqrt()), terms)


def sequences(case: Case) -> List[int]:
    """All that are compared: of a huge case some."""
    count = len(case.lengths)
    return [0, 1, count // 2, count - 2, count - 1] if case.is_huge else list(range(count))


def compare(case: Case, call: Call, tensors: Dict[str, torch.Tensor], grad_lse) -> str:
    """Largest errors, as shares of what is allowed. Raises AssertionError."""
    bounds, shares = [0, *accumulate(case.lengths)], dict.fromkeys(GRADS, 0.0)
    for b in sequences(case):
        rows = b if case.is_dense else slice(bounds[b], bounds[b + 1])
        own_lse = None if grad_lse is None else grad_lse[b] if case.is_dense else grad_lse[:, rows]
        of_sequence = exact(case, call, *(tensors[name][rows] for name in READ), own_lse)
        for name, share in errors(call, of_sequence, [tensors[name][rows] for name in GRADS]):
            assert share <= 1, f"{name} of sequence {b}: {share:.3g} times the allowed error"
            shares[name] = max(shares[name], share)
    return ", ".join(f"{name} {share:.2f}" for name, share in shares.items())


def errors(call: Call, exact: Exact, grads: List[torch.Tensor]):
    """(name, largest error as a share of the allowed one), which is that of the small problems and, as so many terms
    are added up in fp32, the roundings of their sums at random signs.

    The difference of <grad_output, value> and delta has the rounding of both, which a row's weights add up for the
    query, and for a key, at random signs, the rows' weights.
    """
    from backward.exact import bound, largest

    score = abs(call.softmax_scale) * exact.product
    sizes = score * largest(call.key[:1024]), score * largest(call.query[:1024]) * exact.weight, 0.0
    for name, grad, expected, size, terms in zip(GRADS, grads, exact.grads, sizes, exact.terms):
        error = (grad.double() - expected).abs().max().item()
        allowed = bound(expected, grad.dtype, size + largest(expected) * math.sqrt(terms))
        yield name, error / allowed if error == error else math.inf


def are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """In every bit."""
    words = (torch.int16 if one.element_size() == 2 else torch.int32, -1)
    parts = (tensor.view(words[0]).view(-1).split(2**28) for tensor in (one, other))
    return all(map(torch.equal, *parts))


def run_case(case: Case, launcher, place: str = "cuda") -> str:
    call, parts, grad_lse = make(case, place)
    tensors = {name: part.tensor for name, part in parts.items()}
    row_softmax = forward(launcher, call, tensors["output"])
    before = {name: parts[name].checksum() for name in READ}
    first, counts = {}, []
    for device in DEVICES:
        for name in GRADS:
            tensors[name].fill_(math.nan)
        counts.append(backward(launcher, device, call, tensors, grad_lse, row_softmax))
        if not first:
            first = {name: tensors[name].clone() for name in GRADS}
            continue
        for name in GRADS:
            same = are_equal(first[name], tensors[name])
            assert same, f"{name}: {'another run' if device == DEVICES[0] else 'other chunks'}, other bits"
    del first
    assert {name: parts[name].checksum() for name in READ} == before, "a kernel wrote to its inputs"
    assert all(part.intact() for part in parts.values()), "a kernel wrote beside a tensor"
    for name in GRADS:
        finite = all(bool(part.isfinite().all()) for part in tensors[name].view(-1).split(2**28))
        assert finite, f"not all of {name} is finite"
    found = compare(case, call, tensors, grad_lse)
    some = f"{len(sequences(case))} of {len(case.lengths)} sequences"
    return f"{counts[0]} launches and in other chunks {counts[-1]}, equal bits; of the allowed error: {found} ({some})"


def run(archive) -> dict:
    """On the GPU."""
    import time

    from nvidia_launcher import NvidiaLauncher

    launcher, rows, failures = NvidiaLauncher(archive), [], []
    for case in CASES:
        start = time.time()
        try:
            rows.append((case.name, run_case(case, launcher)))
        except AssertionError as error:
            rows.append((case.name, "FAILED"))
            failures.append((case.name, str(error)[:300]))
        torch.cuda.empty_cache()
        print(f"  {case.name}: {time.time() - start:.0f} s", flush=True)
    rows.append(("launches with constants set after loading", launcher.unspecialised))
    return {"failed": bool(failures), "rows": rows, "failures": failures}
