"""Running a compiled kernel: the request that the runtime reads, and the report that comes back."""

from __future__ import annotations

import ctypes
import operator
import os
from typing import NamedTuple, Optional, Sequence, Tuple

from . import findings
from .buffers import bind
from .errors import LaunchError
from .findings import Finding

MAX_BUFFERS, MAX_THREADS, MAX_FINDINGS, MAX_WORKERS = 31, 1024, 256, 256
THREADGROUP_LIMIT = 32768


class LaunchReport(NamedTuple):
    """What a launch did: threadgroups run, barriers passed (once per threadgroup), 8x8x8 matrix products (once per SIMD
    group), other SIMD-group operations (once per lane), and what the checker found."""

    threadgroups: int
    barriers: int
    matrix_products: int
    lane_operations: int
    findings: Tuple[Finding, ...]


class _Region(ctypes.Structure):
    _fields_ = [("address", ctypes.c_uint64), ("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


class _Request(ctypes.Structure):
    """Kept equal to Request in runtime/runtime.h."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("workers", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("check", ctypes.c_uint32),
        ("granule", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("static_bytes", ctypes.c_uint64),
        ("dynamic_bytes", ctypes.c_uint64 * MAX_BUFFERS),
        ("buffers", _Region * MAX_BUFFERS),
        ("barriers", ctypes.c_uint64),
        ("products", ctypes.c_uint64),
        ("collectives", ctypes.c_uint64),
        ("finding_count", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
        ("findings", ctypes.POINTER(findings.Record)),
        ("message", ctypes.c_char * 1024),
    ]


def _three(kernel: str, name: str, values: Sequence[int]) -> Tuple[int, int, int]:
    try:
        sizes = tuple(operator.index(v) for v in values)
    except TypeError:
        raise LaunchError(f"kernel {kernel}: {name} is three integers, not {values!r}") from None
    if len(sizes) != 3 or min(sizes) < (0 if name == "grid" else 1) or max(sizes) >= 2**32:
        raise LaunchError(f"kernel {kernel}: {name} is three positive integers, not {values!r}")
    return sizes


def _order(kernel: str, order: object) -> Tuple[int, int]:
    if order == "forward":
        return 0, 0
    if order == "reverse":
        return 1, 0
    if isinstance(order, bool) or not hasattr(type(order), "__index__"):
        raise LaunchError(f'kernel {kernel}: order is "forward", "reverse" or an int seed, not {order!r}')
    return 2, operator.index(order) % 2**64


def _worker_count(workers: Optional[int], groups: int) -> int:
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    return max(1, min(workers, groups, MAX_WORKERS))


def _threadgroup_arguments(kernel: str, description: dict, sizes: Optional[Sequence[int]]) -> Sequence[int]:
    sizes = list(sizes or ())
    for parameter in description["parameters"]:
        if parameter["kind"] == "threadgroup" and parameter["index"] >= len(sizes):
            raise LaunchError(
                f"kernel {kernel} takes {parameter['name']} at threadgroup {parameter['index']}: "
                "give its size in threadgroup_memory"
            )
    total = description["static_bytes"] + sum((n + 15) & ~15 for n in sizes)
    if total > THREADGROUP_LIMIT:
        raise LaunchError(f"kernel {kernel}: {total} bytes of threadgroup memory; the limit is {THREADGROUP_LIMIT}")
    return sizes


def launch(name, loaded, buffers, grid, threads, order, check, threadgroup_memory, workers) -> LaunchReport:
    """See Kernel.launch."""
    runtime, code, path, description = loaded
    grid, threads = _three(name, "grid", grid), _three(name, "threads", threads)
    total, limit = threads[0] * threads[1] * threads[2], min(MAX_THREADS, description["max_threads"])
    if total > limit:
        raise LaunchError(f"kernel {name}: {total} threads per threadgroup; the limit is {limit}")
    memories, _ = bind(name, description["parameters"], description["gates"], buffers)
    dynamic = _threadgroup_arguments(name, description, threadgroup_memory)
    request = _Request(entry=ctypes.cast(code.metal_entry, ctypes.c_void_p), grid=grid, threads=threads, check=check)
    request.order, request.seed = _order(name, order)
    request.workers = _worker_count(workers, grid[0] * grid[1] * grid[2])
    request.granule = 1 if description["byte_accesses"] else 2
    request.static_bytes = description["static_bytes"]
    for i, size in enumerate(dynamic):
        request.dynamic_bytes[i] = size
    for i, memory in enumerate(memories):
        request.buffers[i] = _Region(memory.address, memory.low, memory.high)
    records = (findings.Record * MAX_FINDINGS)() if check else None
    if check:
        request.findings = records
    if grid[0] * grid[1] * grid[2] and runtime.metal_launch(ctypes.byref(request)):
        raise LaunchError(f"kernel {name}: the machine has no memory or threads left for the simulation")
    found = findings.read(request, records, memories, description, path, code, grid) if check else ()
    if request.failed:
        places = "".join(f"\n{f}" for f in found[:5])
        raise LaunchError(f"kernel {name}, {request.message.decode(errors='replace')}{places}")
    groups = grid[0] * grid[1] * grid[2]
    return LaunchReport(groups, request.barriers, request.products, request.collectives, found)
