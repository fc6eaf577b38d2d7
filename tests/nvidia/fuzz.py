"""Stage `fuzz`: features together at random, dropout too, against attention in float64 on the GPU, among NaN and
sentinels.

The programs are those whose constants are set after loading, one a kernel: features decide nothing about what must be
built.
"""

from __future__ import annotations

import importlib
import math
import random
from itertools import accumulate
from typing import Iterator, NamedTuple, Optional, Set, Tuple

import torch
from calls import Call, Outputs, Recorder, dropout_of, launch, make_call, surrounded
from package import Specialisation, package

PROBLEMS = 2000
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HEAD_DIMS = tuple(head_dim for head_dim, _ in package().planning.tiles.SHAPES)
DEVICES = ((7, 1), (7, 8), (7, 64), (9, 10), (9, 40), (10, 40))  # Apple GPU family, cores
WINDOWS = ((-1, -1), (-1, -1), (-1, 0), (-1, 0), (0, 0), (20, 0), (5, 9), (-1, 3), (64, -1), (127, 0), (300, 10))


class Problem(NamedTuple):
    name: str
    dtype: torch.dtype
    head_dim: int
    value_dim: int
    layout: str
    alibi: bool
    sinks: bool
    seqused: bool
    has_lse: bool
    gap: int  # elements between rows
    device: Tuple[int, int]
    lengths: Tuple[Tuple[int, int], ...]
    num_heads_kv: int
    heads_per_kv: int
    alibi_by_batch: bool
    page_size: int
    window: Tuple[int, int]
    scale: float
    softcap: float
    num_splits: int
    seed: int
    dropout_p: float

    def dropout(self) -> Optional[Tuple[float, int]]:
        return (self.dropout_p, self.seed * 2**32 + 12345) if self.dropout_p else None


def problems() -> Iterator[Problem]:
    return (_problem(str(number), random.Random(number + PROBLEMS)) for number in range(PROBLEMS))


def _problem(name: str, choice: random.Random) -> Problem:
    layout = choice.choice(("packed", "dense", "packed paged", "dense paged"))
    few = choice.random() < 0.25  # queries, for decode tiles
    lengths = [(1 if few else _length(choice), _length(choice)) for _ in range(choice.randint(1, 5))]
    if "dense" in layout:
        lengths = [lengths[0]] * len(lengths)
    head_dim = choice.choice(HEAD_DIMS + (choice.randint(1, 256),))
    return Problem(
        name=name,
        dtype=choice.choice(DTYPES),
        head_dim=head_dim,
        value_dim=min(512, choice.choice((head_dim, head_dim, min(head_dim, 128), choice.randint(1, 256)))),
        layout=layout,
        alibi=choice.random() < 0.4,
        sinks=choice.random() < 0.4,
        seqused=choice.random() < 0.4,
        has_lse=choice.random() < 0.6,
        gap=choice.choice((0, 0, 3)),
        device=choice.choice(DEVICES),
        lengths=tuple(lengths),
        num_heads_kv=choice.randint(1, 3),
        heads_per_kv=choice.choice((1, 2, 3, 4, 8)),
        alibi_by_batch=choice.random() < 0.5,
        page_size=choice.choice((16, 32, 48, 256)),
        window=choice.choice(WINDOWS),
        scale=choice.choice((1.0, 1.0, 1.0, 2.0, -1.5, 0.0)),
        softcap=choice.choice((0.0, 0.0, 0.0, 1.0, 5.0, 30.0, 50.0)),
        num_splits=choice.choice((0, 0, 0, 1, 2, 5, 33)),
        seed=choice.randint(0, 2**31),
        dropout_p=choice.choice((0.0, 0.0, 0.0, 0.1, 0.5, 0.9)),
    )


def _length(choice: random.Random) -> int:
    edges = (1, 1, 1, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
    return choice.choice((choice.randint(1, 90), choice.randint(1, 400), choice.choice(edges)))


def make(problem: Problem, device: str) -> Tuple[Call, dict]:
    """(the call, keyword arguments of the reference), on tensors among NaN."""
    generator = None if device == "meta" else torch.Generator(device).manual_seed(problem.seed)

    def numbers(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    def integers(values):
        return torch.tensor(values, dtype=torch.int32, device=device)

    batch, heads_kv, dtype = len(problem.lengths), problem.num_heads_kv, problem.dtype
    heads = heads_kv * problem.heads_per_kv
    total_q, total_k = (sum(pair[side] for pair in problem.lengths) for side in (0, 1))
    bounds_q, bounds_k = ([0, *accumulate(pair[side] for pair in problem.lengths)] for side in (0, 1))
    query = numbers(total_q, heads, problem.head_dim, dtype=dtype)
    key = numbers(total_k, heads_kv, problem.head_dim, dtype=dtype)
    value = numbers(total_k, heads_kv, problem.value_dim, dtype=dtype)
    cu_q, cu_k, used, table = integers(bounds_q), integers(bounds_k), None, None
    if problem.seqused or problem.layout == "dense paged":
        used = integers([min(k, (2 * k + b) // 3) for b, (_, k) in enumerate(problem.lengths)])
    if "paged" in problem.layout:
        table = _table(problem)
        key, value = (_paged(t, bounds_k, table, problem.page_size) for t in (key, value))
        table = integers(table)
    elif "dense" in problem.layout:
        key, value = (t.view(batch, -1, *t.shape[1:]) for t in (key, value))
    if "dense" in problem.layout:
        query, cu_q, cu_k = query.view(batch, -1, *query.shape[1:]), None, None
    slopes = numbers(*([batch] if problem.alibi_by_batch else []), heads).abs() / 8 if problem.alibi else None
    sinks = numbers(heads) * 3 if problem.sinks else None
    views = [surrounded(tensor, math.nan, problem.gap)[0] for tensor in (query, key, value)]
    features = {"softcap": problem.softcap, "alibi_slopes": slopes, "sinks": sinks, "seqused_k": used}
    features["block_table"] = table
    call = make_call(
        *views,
        cu_seqlens_q=cu_q,
        cu_seqlens_k=cu_k,
        max_seqlen_q=max(length for length, _ in problem.lengths),
        max_seqlen_k=max(length for _, length in problem.lengths),
        softmax_scale=problem.scale * problem.head_dim**-0.5,
        window_left=problem.window[0],
        window_right=problem.window[1],
        num_splits=problem.num_splits,
        **features,
    )
    return call, features


def _table(problem: Problem) -> list:
    """Pages of every sequence, in any order, some to spare."""
    width = max(-(-k // problem.page_size) for _, k in problem.lengths) + 1
    pages = list(range(width * len(problem.lengths) + 2))
    random.Random(problem.seed).shuffle(pages)
    return [pages[width * b : width * (b + 1)] for b in range(len(problem.lengths))]


def _paged(tensor: torch.Tensor, bounds: list, table: list, page_size: int) -> torch.Tensor:
    """The cache that holds sequences [total, heads, dim] in pages; free places are NaN."""
    num_pages = len(table) * len(table[0]) + 2
    cache = tensor.new_full((num_pages, page_size, *tensor.shape[1:]), math.nan)
    for begin, end, pages in zip(bounds, bounds[1:], table):
        for first in range(begin, end, page_size):
            rows = tensor[first : min(first + page_size, end)]
            cache[pages[(first - begin) // page_size], : len(rows)] = rows
    return cache


def check(problem: Problem, launcher, place: str = "cuda") -> None:
    """Raises AssertionError."""
    from reference import assert_lse, assert_output, attention

    call, features = make(problem, place)
    bounds = (call.cu_seqlens_q, call.cu_seqlens_k)
    with torch.device(place):
        expected, expected_lse = attention(*call[:3], *bounds, call.softmax_scale, problem.window, **features)
        if problem.dropout_p:
            expected = with_dropout(problem, call, features)
    largest = call.value.nan_to_num().double() * factor(problem)
    first: Optional[Outputs] = None
    for _ in range(2):
        results = Outputs.of(call, problem.has_lse, problem.gap)
        launch(launcher, problem.device, results.output, results.lse, call, dropout=problem.dropout())
        results.check_around()
        assert_output(results.output, expected, largest)
        if results.lse is not None:
            assert_lse(results.lse, expected_lse)
        assert first is None or torch.equal(first.output, results.output), "another run, other bits"
        first = results


def factor(problem: Problem) -> float:
    """Of the weights that dropout keeps."""
    return dropout_params(problem.dropout()).factor() if problem.dropout_p else 1.0


def dropout_params(dropout: Tuple[float, int]):
    return package().planning.plan.DropoutParams.of(dropout_of(dropout))


def with_dropout(problem: Problem, call: Call, features: dict) -> torch.Tensor:
    """The output in float64: each sequence's weights, from values that are an identity, times the factors that the
    CPU implementation has for them."""
    from reference import _keys_of, attention

    output = torch.zeros(*call.query.shape[:-1], call.value.shape[-1], dtype=torch.float64)
    bounds, heads = call.cu_seqlens_q, call.query.shape[-2]
    features = {name: features[name] for name in ("softcap", "alibi_slopes", "sinks")}
    slopes = features.pop("alibi_slopes")
    for b in range(len(problem.lengths)):
        rows = b if bounds is None else slice(int(bounds[b]), int(bounds[b + 1]))
        query = call.query[rows]
        key, value = _keys_of(b, call.key, call.value, call.cu_seqlens_k, call.seqused_k, call.block_table)
        if len(key) == 0:
            continue
        identity = torch.eye(len(key))[:, None].expand(-1, key.shape[1], -1)
        own = None if slopes is None else slopes.expand(len(problem.lengths), heads)[b]
        tensors = query[None], key[None], identity[None]
        weights, _ = attention(*tensors, None, None, call.softmax_scale, problem.window, alibi_slopes=own, **features)
        ranges = slice(0, len(query)), slice(0, len(key))
        kept = factors_of(dropout_params(problem.dropout()), slice(b, b + 1), heads, *ranges)
        weights = weights[0] * kept[0].transpose(0, 1).to(weights)
        output[rows] = torch.einsum("qhk,khd->qhd", weights, value.double().repeat_interleave(problem.heads_per_kv, 1))
    return output


def factors_of(*arguments) -> torch.Tensor:
    """cpu.dropout.factors"""
    return importlib.import_module(f"{package().__name__}.cpu.dropout").factors(*arguments)


def specialisations() -> Set[Specialisation]:
    """What the problems will launch, with constants set after loading."""
    recorder = Recorder()
    for problem in problems():
        call, _ = make(problem, "meta")
        results = Outputs.of(call, problem.has_lse, problem.gap)
        launch(recorder, problem.device, results.output, results.lse, call, dropout=problem.dropout())
    return {seen._replace(constants=()) for seen in recorder.seen}


def run(archive) -> dict:
    """On the GPU."""
    from nvidia_launcher import NvidiaLauncher

    launcher, failures, counts = NvidiaLauncher(archive), [], [0, 0]
    for problem in problems():
        counts[problem.dropout_p > 0] += 1
        try:
            check(problem, launcher)
        except AssertionError as error:
            failures.append((str(problem), str(error)[:300]))
    return {
        "failed": bool(failures),
        "rows": [
            ("problems", sum(counts)),
            ("of them with dropout", counts[True]),
            ("failures", len(failures)),
            ("launches", launcher.launches),
            ("of them with constants set after loading", launcher.unspecialised),
        ],
        "failures": failures,
    }
