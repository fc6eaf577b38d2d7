"""Stage `backward_timing`: our gradients, five products in all, beside seven: those of keys and values from scores that
are made again (seven_products.metal), and not from stored weights.

A hint, as the stage `timing`: what both modes agree on means something.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Set, Tuple

import package
import torch
from calls import Call, Recorder, chain_of, launch, make_call
from package import Specialisation
from timing import MODES, NOISE, milliseconds

DEVICE = (9, 132)  # with as many cores, and so as much scratch, as an H100 or H200
AGAIN = "seven_products.metal"
BLOCK_N, THREADS = 64, 256  # keys and threads of its threadgroups
REPEATS, WARM_UPS = 5, 1
DIFFERENCE = 0.01  # of the largest gradient: results that differ by more are wrong


class Case(NamedTuple):
    name: str
    length: int
    num_heads: int
    head_dim: int
    is_causal: bool


CASES = tuple(
    Case(
        f"{'causal' if is_causal else 'full'} {length} x {length}, {heads} heads, d{dim}", length, heads, dim, is_causal
    )
    for dim in (64, 128)
    for is_causal in (True, False)
    for length, heads in ((4096, 16), (16384, 4))
)


class Work(NamedTuple):
    """Launches that make all gradients, by what they make."""

    queries: List[tuple]  # plans; the terms, too
    keys: List[tuple]
    in_order: List[tuple]
    scratch: tuple


def make(case: Case, place: str) -> Tuple[Call, Dict[str, torch.Tensor]]:
    """(a call; what its gradients are made of, and themselves)."""
    generator = None if place == "meta" else torch.Generator(place).manual_seed(0)
    shape = (1, case.length, case.num_heads, case.head_dim)
    names = ("query", "key", "value", "grad_output")
    parts = {n: torch.randn(*shape, generator=generator, device=place, dtype=torch.float16) for n in names}
    inputs = [parts.pop(name) for name in names[:3]]
    call = make_call(*inputs, window_right=0 if case.is_causal else -1)
    for name in ("output", "grad_query", "grad_key", "grad_value"):
        parts[name] = torch.full_like(call.query, math.nan)
    parts["row_softmax"] = torch.full((1, case.num_heads, case.length, 2), math.nan, device=place)
    return call, parts


def five(call: Call, tensors: Dict[str, torch.Tensor]) -> Work:
    chain = chain_of(DEVICE, call, tensors)
    plans = list(chain.launches)
    keys = [plan for plan in plans if plan.source == "attention_backward_keys.metal"]
    return Work([plan for plan in plans if plan not in keys], keys, plans, chain.scratch)


def seven(call: Call, tensors: Dict[str, torch.Tensor]) -> Work:
    whole = chain_of(DEVICE, call, tensors).launches
    alone = chain_of(DEVICE, call, {n: t for n, t in tensors.items() if n not in ("grad_key", "grad_value")})
    batch, length, heads, head_dim = call.key.shape
    given = ("query", "key", "value", "grad_output", "row_softmax", "row_terms", "grad_key", "grad_value")
    off = dict.fromkeys(("is_packed", "is_paged", "is_padded", "has_sinks", "has_bias"), False)
    again = package.package().planning.plan.Plan(
        source=AGAIN,
        kernel=f"seven_products_keys_d{head_dim}",
        constants=(*off.items(), ("is_aligned", True)),
        arguments=(whole.keys.arguments[0], whole.queries.arguments[1], whole.keys.arguments[1], *given),
        grid=(heads, length // BLOCK_N, batch),
        threads=(THREADS, 1, 1),
        reason="to be timed",
    )
    plans = list(alone.launches)
    return Work(plans, [again], [*plans, again], alone.scratch)


VARIANTS = {"five": five, "seven": seven}


def specialisations() -> Set[Specialisation]:
    """What is launched."""
    recorder = Recorder()
    for case in CASES:
        call, tensors = make(case, "meta")
        launch(recorder, DEVICE, tensors["output"], None, call, tensors["row_softmax"])
        for variant in VARIANTS.values():
            for plan in variant(call, tensors).in_order:
                recorder.seen.add(package.specialisation(plan))
    return recorder.seen


def measure(case: Case, launcher, place: str = "cuda", timed=milliseconds) -> Tuple[Dict[str, Dict[str, float]], float]:
    """(milliseconds of each variant's parts and of all; largest difference between the gradients, as a share of the
    largest gradient)."""
    call, tensors = make(case, place)
    launch(launcher, DEVICE, tensors["output"], None, call, tensors["row_softmax"])
    times, results = {}, []
    for name, variant in VARIANTS.items():
        work = variant(call, tensors)
        for grad in ("grad_query", "grad_key", "grad_value"):
            tensors[grad] = torch.full_like(call.query, math.nan)
        given = {**package.package().call.present(call), **tensors}
        given.update({n: torch.full(shape, math.nan, device=place) for n, shape in work.scratch})

        def run(plans, given=given):
            for plan in plans:
                launcher(plan, given)

        parts = {"all": work.in_order, "queries": work.queries, "keys": work.keys}
        times[name] = {part: timed(lambda p=plans: run(p), REPEATS, WARM_UPS) for part, plans in parts.items()}
        run(work.in_order)
        results.append([tensors[grad].float() for grad in ("grad_query", "grad_key", "grad_value")])
    differences = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*results)]
    return times, max(differences, key=lambda value: math.inf if math.isnan(value) else value)


def verdict(ratios: List[float]) -> str:
    if all(ratio > 1 + NOISE for ratio in ratios):
        return "five faster"
    if all(ratio < 1 / (1 + NOISE) for ratio in ratios):
        return "seven faster"
    return "within the noise, or the modes disagree"


def run(archive) -> dict:
    from nvidia_launcher import NvidiaLauncher

    launchers = {matrix: NvidiaLauncher(archive, matrix) for matrix in MODES}
    rows, failures, figures = [], [], {}
    for case in CASES:
        found = {matrix: measure(case, launcher) for matrix, launcher in launchers.items()}
        figures[case.name] = {matrix: times for matrix, (times, _) in found.items()}
        ratios = [times["seven"]["all"] / times["five"]["all"] for times, _ in found.values()]
        text = "; ".join(
            f"{matrix} five {_of(times['five'])} ms, seven {_of(times['seven'])} ms, ratio {ratio:5.2f}"
            for (matrix, (times, _)), ratio in zip(found.items(), ratios)
        )
        rows.append((case.name, f"{text}; {verdict(ratios)}"))
        worst = max(difference for _, difference in found.values())
        if not worst < DIFFERENCE:  # NaN, too
            failures.append((case.name, f"results differ by {worst:.2g}"))
        torch.cuda.empty_cache()
    return {"failed": bool(failures), "rows": rows, "failures": failures, "milliseconds": figures}


def _of(times: Dict[str, float]) -> str:
    return f"{times['all']:8.3f} ({times['queries']:.3f} + {times['keys']:.3f})"
