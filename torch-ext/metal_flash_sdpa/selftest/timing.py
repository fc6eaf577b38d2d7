"""Times of the standard shapes, some with their gradients, beside F.scaled_dot_product_attention."""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Optional

import torch

from .. import interface
from .. import launching as launchers
from ..planning.device import Device
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


def time_matrix_unit(device: Device, dtype: torch.dtype, head_dim: int, tokens: int) -> Dict[str, float]:
    """Milliseconds of a causal prefill with the matrix unit, and without."""
    with_unit, without = (
        prefill_milliseconds(device._replace(matrix_unit=is_used), dtype, head_dim, head_dim, tokens)
        for is_used in (True, False)
    )
    return {"with_ms": with_unit, "without_ms": without}


def prefill_milliseconds(device: Device, dtype: torch.dtype, head_dim: int, value_dim: int, tokens: int) -> float:
    """Of 16 heads with 4 of keys and values, causal, on `mps`, planned for a device."""
    mps = torch.device("mps")
    query, key, value = (
        torch.randn(1, tokens, *shape, device=mps, dtype=dtype)
        for shape in ((16, head_dim), (4, head_dim), (4, value_dim))
    )
    with torch.no_grad(), launchers.use_launcher(launchers.metal().launcher, device):
        return milliseconds(lambda: interface.flash_attn_func(query, key, value, causal=True), mps)


def _sdpa_milliseconds(problem: Problem, device: torch.device) -> Optional[float]:
    try:
        sdpa = problem.sdpa()
        return sdpa and milliseconds(lambda: problem.solve(sdpa), device)
    except RuntimeError:  # this torch has no such kernel, or not the memory for it: no failure of ours
        return None
