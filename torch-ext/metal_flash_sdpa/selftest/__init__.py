"""The self-test: shows on the user's own machine that the kernels compute what they should, and how fast.

As a command, `python -m metal_flash_sdpa.selftest`; of a loaded kernel, `kernel.selftest.run()`. Both print a table and
make a report that can be pasted into an issue.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import itertools
import json
import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Union

import torch

from .. import launching as launchers
from ..call import DTYPES
from ..planning.device import Device
from ..planning.tiles import MATRIX_UNIT
from . import appending, cases, display, machine, pipelines, reference, timing, workloads
from .calls import describe_call as describe_call

CPU = "CPU implementation"
Report = Dict[str, Any]  # of JSON: dicts, lists, strings and numbers
_DROPOUT = 0.3
_SHOWN = 3  # failures of a group; the report has all of them
_MORE = {  # tests of a launcher beside the random problems
    "threads": "called from four threads",
    "ranges": "launches of one tile of rows, the same bits",
    "dropout": "dropout, beside the CPU implementation's",
    "append": "caches that grow, beside the CPU's",
}
_ERRORS = ("output_error", "lse_error", "gradient_error")  # of an outcome


def run(
    count: int = 300,
    seed: int = 0,
    timed: bool = True,
    path: Union[str, pathlib.Path, None] = None,
    print_line: Optional[Callable[[str], None]] = None,
) -> Report:
    """Solves `count` random problems on every launcher of this build, times the standard shapes, and returns a report.

    On a machine without an Apple GPU, the CPU implementation is tested instead. The report is made of dicts, lists,
    strings and numbers, and written to `path` as JSON unless that is None; report["passed"] says whether everything
    was right. print_line takes each line; by default they are printed to stderr, in 80 columns.
    """
    show = display.Show(print_line)
    report: Report = {"format": 1, "machine": machine.describe(), "seed": seed, "launchers": {}}
    for name, value in report["machine"].items():
        show(f"{name:10} {value}")
    is_metal = torch.backends.mps.is_available()
    if not is_metal:
        show("no Apple GPU here: this tests the CPU implementation, and nothing of Metal")
    device = torch.device("mps" if is_metal else "cpu")
    targets: Dict[str, Optional[launchers.Target]] = {**launchers.available()} if is_metal else {CPU: None}
    if not targets:
        raise RuntimeError("this build has no Metal kernels to test: install the wheel, or load another build")
    for name, target in targets.items():
        if target is not None:
            verdict = launchers.unit_check.verdict(target.device.family)
            report["matrix_unit"] = verdict._asdict()
            show(f"matrix unit of {name}: {'used' if verdict.is_usable else 'not used'}: {verdict.reason}")
            target = launchers.with_matrix_unit(target)
        report["launchers"][name] = test_launcher(name, target, device, count, seed, timed, show)
    report["passed"] = all(result["passed"] for result in report["launchers"].values())
    if path is not None:
        pathlib.Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="ascii")
    verdict_line, *reasons = display.conclusion(report)
    show(f"\n{verdict_line}", "good" if report["passed"] else "bad")
    for line in reasons:
        show(line)
    return report


def test_launcher(
    name: str,
    target: Optional[launchers.Target],
    device: torch.device,
    count: int,
    seed: int,
    timed: bool,
    show: display.Show,
) -> Report:
    """The part of the report on one launcher; target None is the CPU implementation."""
    planned_for = "" if target is None else f", planned for family {target.device.family}, {target.device.cores} cores"
    show(f"\n{name}{planned_for}: {count} random problems against float64 on the CPU", "strong")
    use_target: ContextManager[None] = contextlib.nullcontext()
    if target is not None:
        described = pipelines.Described(target.launcher)
        use_target = launchers.use_launcher(described, target.device)
    with use_target:
        result = _numbers(cases.random_cases(count, seed), device, show)
        few = cases.random_cases(9, seed)
        show.progress("  called from four threads, with other launches, with dropout, with caches")
        result["threads"] = _outcome_of(_same_in_threads, few, target, device)
        if target is not None:  # of the CPU implementation, these would say nothing
            result["ranges"] = _outcome_of(_same_in_ranges, few, launchers.Target(described, target.device), device)
            result["dropout"] = _outcome_of(_same_dropout, few, device)
            result["append"] = _outcome_of(_same_caches, device)
        more = {name: result[name] for name in _MORE if name in result}
        for name, outcome in more.items():
            show(f"  {_MORE[name]:47} {outcome}", "" if outcome == "right" else "bad")
        result["timings"] = _timings(device, show) if timed else {}
        if timed and target is not None and target.device.matrix_unit:
            result["matrix_unit"] = _matrix_unit(target.device, show)
    if target is not None:
        result["pipelines"] = described.entries()
        for line in pipelines.summary(result["pipelines"], target.device.family):
            show(f"  {line}")
    wrong = [timings for timings in result["timings"].values() if "failed" in timings or not timings["error"] <= 1]
    wrong += [times for times in result.get("matrix_unit", []) if "failed" in times]
    all_right = all(outcome == "right" for outcome in more.values())
    result["passed"] = not result["failures"] and all_right and not wrong
    return result


def _numbers(problems: List[cases.Case], device: torch.device, show: display.Show) -> Report:
    """Solves the problems; counts, and largest errors as parts of what is allowed, by dtype and layout."""
    groups: Dict[str, Dict] = {}
    failures = []
    show(f"  {'largest error / what is allowed':41} {'output':>6} {'lse':>5} {'gradients':>9}")
    for group, members in _grouped(problems).items():
        started = time.perf_counter()
        counts = groups[group] = {"problems": len(members), "failed": 0, **dict.fromkeys(_ERRORS, 0.0)}
        for number, case in enumerate(members):
            show.progress(f"  {group:16} {number + 1:4} of {len(members)}")
            outcome = _outcome_of(cases.solve, case, device)
            if isinstance(outcome, cases.Outcome) and outcome.passed:
                for error in _ERRORS:
                    counts[error] = max(counts[error], getattr(outcome, error))
                continue
            counts["failed"] += 1
            failures.append({"case": case._asdict(), "outcome": str(outcome)})
            if counts["failed"] <= _SHOWN:
                show(f"  WRONG {case}\n        {outcome}", "bad")
        state = f"{counts['failed']} WRONG" if counts["failed"] else "right"
        errors = "{:6.2f} {:5.2f} {:9.2f}".format(*map(counts.get, _ERRORS))
        seconds = time.perf_counter() - started
        line = f"  {group:16} {len(members):4} problems  {state:9} {errors} {seconds:6.1f} s"
        show(line, "bad" if counts["failed"] else "")
    return {"groups": groups, "failures": failures}


def _grouped(problems: List[cases.Case]) -> Dict[str, List[cases.Case]]:
    groups: Dict[str, List[cases.Case]] = collections.defaultdict(list)
    for case in problems:
        groups[f"{case.dtype} {case.layout}"].append(case)
    return groups


def _outcome_of(call: Callable, *arguments):
    """Its result, or what it raised in a line: one problem must not end the others."""
    try:
        return call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:2000]}"


def _same_in_threads(problems: List[cases.Case], target, device: torch.device) -> str:
    """Four threads that solve the same problems at the same time are all right."""

    def solve_all(_) -> bool:
        use_target = contextlib.nullcontext() if target is None else launchers.use_launcher(*target)
        with use_target, _own_stream(device):
            return all(cases.solve(case, device).passed for case in problems)

    with ThreadPoolExecutor(4) as pool:
        return "right" if all(pool.map(solve_all, range(4))) else "WRONG"


def _same_in_ranges(problems: List[cases.Case], target: launchers.Target, device: torch.device) -> str:
    """Launches that do as little as possible give the same bits."""
    whole = [cases.with_gradients(case, device) for case in problems]
    with launchers.use_launcher(target.launcher, target.device._replace(launch_work=1)):
        divided = [cases.with_gradients(case, device) for case in problems]
    return "right" if all(map(cases.are_equal, whole, divided)) else "WRONG"


def _same_dropout(problems: List[cases.Case], device: torch.device) -> str:
    """The same weights are dropped as by the CPU implementation: a single other one would show."""
    return "right" if all(_dropout_error(case, device) <= 1 for case in problems) else "WRONG"


def _same_caches(device: torch.device) -> str:
    kinds = itertools.product(DTYPES, (False, True))
    return "right" if all(appending.error(*kind, device) <= 1 for kind in kinds) else "WRONG"


def _dropout_error(case: cases.Case, device: torch.device) -> float:
    """As a part of what is allowed: twice the gradients' bound, as both have errors, and more where more are kept."""
    without_launcher = contextvars.Context()
    expected = without_launcher.run(cases.with_gradients, case, torch.device("cpu"), _DROPOUT)
    output, lse, *grads = (result.cpu() for result in cases.with_gradients(case, device, _DROPOUT))
    right, right_lse, *right_grads = (result.double() for result in expected)
    errors = [reference.gradient_error(*pair) for pair in ((output, right), *zip(grads, right_grads))]
    return reference.largest([*errors, reference.lse_error(lse, right_lse)]) / (2 / (1 - _DROPOUT))


def _own_stream(device: torch.device):
    """The thread's work goes to a stream of its own, where torch has several (2.15)."""
    if device.type == "mps" and hasattr(torch.mps, "Stream"):
        return torch.mps.stream(torch.mps.Stream())  # type: ignore[attr-defined]
    return contextlib.nullcontext()


def _timings(device: torch.device, show: display.Show) -> Dict[str, Dict]:
    smaller = "" if device.type == "mps" else ": a 64th of their tokens"
    show(f"\n  standard shapes beside F.scaled_dot_product_attention{smaller}")
    show(f"  {'':22} {'ours ms':>9} {'SDPA ms':>9} SDPA / ours")
    timings = {}
    for name, workload in _fitting(device):
        show.progress(f"  {name}")
        found = timings[name] = _outcome_of(timing.time_workload, workload, device)
        if not isinstance(found, dict):
            timings[name] = {"failed": found}
            show(f"  {name:22} WRONG {found}", "bad")
            continue
        sdpa, ratio = ("-", "") if found["sdpa_ms"] is None else _compared(found)
        show(f"  {name:22} {found['ours_ms']:9.3f} {sdpa:>9} {ratio}".rstrip())
        if not found["error"] <= 1:
            show(f"    WRONG: error {found['error']:.3g} of what is allowed", "bad")
    return timings


def _compared(found: Dict[str, float]):
    ratio = found["sdpa_ms"] / found["ours_ms"]
    return f"{found['sdpa_ms']:.3f}", f"{ratio:6.2f} {display.bar(ratio)}"


def _matrix_unit(device: Device, show: display.Show) -> List[Dict]:
    """Times of prefills with the matrix unit, beside those of the kernels that serve without it."""
    show("\n  causal prefills with the matrix unit, and without")
    show(f"  {'':22} {'with ms':>9} {'without':>9} without / with")
    found = []
    for dtype, head_dim, tokens in itertools.product(MATRIX_UNIT, (64, 96, 128, 256), (512, 2048, 8192)):
        name = f"{DTYPES[dtype]} d{head_dim} {tokens} tokens"
        show.progress(f"  {name}")
        times = _outcome_of(timing.time_matrix_unit, device, dtype, head_dim, tokens)
        if not isinstance(times, dict):
            times = {"failed": times}
            show(f"  {name:22} FAILED {times['failed']}", "bad")
        else:
            ratio = times["without_ms"] / times["with_ms"]
            line = f"  {name:22} {times['with_ms']:9.3f} {times['without_ms']:9.3f} {ratio:6.2f} {display.bar(ratio)}"
            show(line.rstrip())
        found.append({"dtype": DTYPES[dtype], "head_dim": head_dim, "tokens": tokens, **times})
    return found


def _fitting(device: torch.device) -> Iterator:
    """The standard shapes; small ones on a CPU."""
    for name, workload in workloads.WORKLOADS.items():
        yield name, workload if device.type == "mps" else workload.small()
