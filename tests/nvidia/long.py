"""Stage `long`: a sequence of 1,048,576 tokens, and packed batches of 262,144, with either loader; sampled rows against
float64."""

from __future__ import annotations

import itertools
import math
import random
from itertools import accumulate
from typing import List, NamedTuple, Optional, Set, Tuple

import torch
from calls import LOADERS, Call, Recorder, launch, make_call
from package import Specialisation

RUNS, SAMPLES = 5, 48  # runs that must agree in every bit; rows compared, besides the first and last of a sequence


class Case(NamedTuple):
    name: str
    lengths: Tuple[Tuple[int, int], ...]  # of queries and of keys
    num_heads: int
    num_heads_kv: int
    head_dim: int
    dtype: torch.dtype
    window: Tuple[int, int] = (-1, 0)
    sinks: bool = False


def ragged(total: int, longest: int, seed: int, queries: Optional[int] = None) -> Tuple[Tuple[int, int], ...]:
    """Lengths that add up to a total; with `queries` of them each, else as many queries as keys."""
    choice, lengths = random.Random(seed), []
    while sum(lengths) < total:
        lengths.append(min(choice.randint(1, longest), total - sum(lengths)))
    return tuple((min(queries or length, length), length) for length in lengths)


CASES = (
    Case("1,048,576 tokens, window of 1,024", ((2**20, 2**20),), 4, 2, 128, torch.float16, (1023, 0)),
    Case("1,048,576 tokens, causal", ((2**20, 2**20),), 1, 1, 64, torch.bfloat16),
    Case("262,144 tokens packed, causal", ragged(2**18, 16384, 1), 8, 2, 128, torch.float16),
    Case(
        "262,144 tokens packed, fp32, window, sinks", ragged(2**18, 9000, 2), 4, 2, 64, torch.float32, (2047, 0), True
    ),
    Case("262,144 tokens packed, causal, two slices", ragged(2**18, 16384, 3), 4, 2, 256, torch.bfloat16),
    Case("decode, 16 sequences, 1,048,576 keys", ((1, 2**20),) * 16, 8, 1, 128, torch.float16),
)


def make(case: Case, device: str) -> Call:
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)

    def numbers(*shape, dtype=case.dtype):
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    bounds = [[0, *accumulate(pair[side] for pair in case.lengths)] for side in (0, 1)]
    cu_q, cu_k = (torch.tensor(b, dtype=torch.int32, device=device) for b in bounds)
    query = numbers(bounds[0][-1], case.num_heads, case.head_dim)
    key, value = (numbers(bounds[1][-1], case.num_heads_kv, case.head_dim) for _ in range(2))
    sinks = numbers(case.num_heads, dtype=torch.float32) if case.sinks else None
    return make_call(
        query,
        key,
        value,
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_k,
        sinks=sinks,
        max_seqlen_q=max(length for length, _ in case.lengths),
        max_seqlen_k=max(length for _, length in case.lengths),
        window_left=case.window[0],
        window_right=case.window[1],
    )


def results_for(call: Call) -> Tuple[torch.Tensor, torch.Tensor]:
    output = torch.full_like(call.query, math.nan)
    lse = torch.full((call.query.shape[1], call.query.shape[0]), math.nan, device=output.device)
    return output, lse


def specialisations() -> Set[Specialisation]:
    """What the cases will launch."""
    recorder = Recorder()
    for case in CASES:
        call = make(case, "meta")
        for device in LOADERS.values():
            launch(recorder, device, *results_for(call), call)
    return recorder.seen


def sampled_rows(case: Case) -> List[Tuple[int, int]]:
    """(sequence, token): the ends of the first, middle and last sequence, the edges of tiles, and some at random."""
    choice, count = random.Random(0), len(case.lengths)
    rows = {(b, t) for b in (0, count // 2, count - 1) for t in (0, case.lengths[b][0] - 1)}
    rows |= {(0, t) for t in (31, 32, 65535, 65536) if t < case.lengths[0][0]}
    for _ in range(SAMPLES):
        b = choice.randrange(count)
        rows.add((b, choice.randrange(case.lengths[b][0])))
    return sorted(rows)


def exact_row(case: Case, call: Call, sequence: int, token: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """(output [num_heads, head_dim], lse [num_heads]) of one query, in float64 from its definition."""
    length_q, length_k = case.lengths[sequence]
    first_q, first_k = (sum(pair[side] for pair in case.lengths[:sequence]) for side in (0, 1))
    position = token + length_k - length_q
    left, right = case.window
    begin = 0 if left < 0 else max(0, position - left)
    end = length_k if right < 0 else min(length_k, position + right + 1)
    key, value = (t[first_k + begin : first_k + end].double() for t in (call.key, call.value))
    group = case.num_heads // case.num_heads_kv
    query = call.query[first_q + token].double().view(case.num_heads_kv, group, -1)
    scores = torch.einsum("hgd,khd->hgk", query, key).reshape(case.num_heads, -1) * call.softmax_scale
    if call.sinks is not None:
        scores = torch.cat([scores, call.sinks.double()[:, None]], dim=1)
    weights = scores.softmax(dim=1)[:, : end - begin].view(case.num_heads_kv, group, -1)
    return torch.einsum("hgk,khd->hgd", weights, value).reshape(case.num_heads, -1), scores.logsumexp(dim=1)


def compare(case: Case, call: Call, output: torch.Tensor, lse: torch.Tensor) -> Tuple[int, float, float]:
    """(rows, largest error, bound). Raises AssertionError."""
    from reference import assert_lse, assert_output, output_bound

    places = [(sum(q for q, _ in case.lengths[:b]) + t, b, t) for b, t in sampled_rows(case)]
    rows = [row for row, _, _ in places]
    exact = [exact_row(case, call, b, t) for _, b, t in places]
    expected, expected_lse = (torch.stack(parts) for parts in zip(*exact))
    error = (output[rows].double() - expected).abs().max().item()
    assert_output(output[rows], expected, call.value[: 2**20])
    assert_lse(lse[:, rows], expected_lse.T)
    return len(rows), error, output_bound(expected, output.dtype, call.value[: 2**20])


def run_case(case: Case, device: Tuple[int, int], launcher) -> Tuple[int, float, float]:
    call, first = make(case, "cuda"), None
    for _ in range(RUNS):
        results = results_for(call)
        launch(launcher, device, *results, call)
        if first is None:
            first = results
        same = all(torch.equal(a.view(torch.int8), b.view(torch.int8)) for a, b in zip(first, results))
        assert same, "another run, other bits"
    assert all(part.isfinite().all() for part in first[0].split(2**16)), "not all of the output is finite"
    return compare(case, call, *first)


def run(archive) -> dict:
    """On the GPU."""
    from nvidia_launcher import NvidiaLauncher

    launcher, rows, failures = NvidiaLauncher(archive), [], []
    for case, (loader, device) in itertools.product(CASES, LOADERS.items()):
        name = f"{case.name}, {loader}"
        try:
            count, error, bound = run_case(case, device, launcher)
            rows.append((name, f"{count} rows, error {error:.2g} of {bound:.2g} allowed, {RUNS} equal runs"))
        except AssertionError as error:
            rows.append((name, "FAILED"))
            failures.append((name, str(error)[:300]))
        torch.cuda.empty_cache()
    return {"failed": bool(failures), "rows": rows, "failures": failures}
