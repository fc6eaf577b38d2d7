"""Times of the standard shapes, some with their gradients, beside F.scaled_dot_product_attention."""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Optional

import torch

from .machine import synchronize
from .workloads import Problem, Workload

_SECONDS = 0.3  # of measuring, at most; at least three calls


def milliseconds(call: Callable[[], object], device: torch.device) -> float:
    """The median time of a call that starts on an idle device and ends when the device is idle again."""
    times: List[float] = []
    call()  # compiles
    synchronize(device)
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < _SECONDS:
        before = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - before)
    return sorted(times)[len(times) // 2] * 1e3


def time_workload(workload: Workload, device: torch.device) -> Dict[str, Optional[float]]:
    """Our milliseconds and SDPA's (None where it cannot), and our error as a part of what is allowed."""
    problem = Problem(workload, device)
    error = problem.error(*problem.solve(problem.ours))
    ours = milliseconds(lambda: problem.solve(problem.ours), device)
    return {"ours_ms": ours, "sdpa_ms": _sdpa_milliseconds(problem, device), "error": error}


def _sdpa_milliseconds(problem: Problem, device: torch.device) -> Optional[float]:
    try:
        sdpa = problem.sdpa()
        return sdpa and milliseconds(lambda: problem.solve(sdpa), device)
    except RuntimeError:  # this torch has no such kernel, or not the memory for it: no failure of ours
        return None
