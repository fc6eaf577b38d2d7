"""Running a compiled kernel: the request that the runtime reads, and the report that comes back."""

from __future__ import annotations

import ctypes
import functools
import operator
import os
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

from ..checker import findings, slots
from ..checker.findings import Finding
from ..errors import LaunchError
from ..limits import MAX_BUFFERS, MAX_THREADS, THREADGROUP_LIMIT
from ..profiler.counters import Counting, Profile
from . import matrix_unit
from .buffers import UNBOUND, bind

MAX_FINDINGS, MAX_WORKERS = 4096, 256


class LaunchReport(NamedTuple):
    """What a launch did: threadgroups run, barriers passed (once per threadgroup), 8x8x8 matrix products (once per SIMD
    group), other SIMD-group operations (once per lane), what the checker found, the counters of a profiled launch,
    products of cooperative tensors (once per SIMD group)."""

    threadgroups: int
    barriers: int
    matrix_products: int
    lane_operations: int
    findings: Tuple[Finding, ...]
    profile: Optional[Profile] = None
    unit_products: int = 0


class Settings(NamedTuple):
    """How to launch; see Kernel.launch."""

    order: Union[str, int]
    check: bool
    threadgroup_memory: Optional[Sequence[int]]
    workers: Optional[int]
    timeout: Optional[float]
    check_written: Union[bool, Sequence[int]]
    check_nan: bool
    count: bool = False
    matrix_unit: Optional[str] = None

    def mode(self, kernel: str) -> str:
        """Which build of the kernel it takes. Raises LaunchError for settings of a wrong type."""
        for name in ("check", "check_nan"):
            if not isinstance(getattr(self, name), bool):
                raise LaunchError(f"kernel {kernel}: {name} is True or False, not {getattr(self, name)!r}")
        if self.timeout is not None and not (isinstance(self.timeout, (int, float)) and self.timeout > 0):
            raise LaunchError(f"kernel {kernel}: timeout is a number of seconds above 0 or None, not {self.timeout!r}")
        if self.count:
            return "count"
        if self.check_nan:
            return "nan"
        return "check" if self.check or self.check_written is not False else "run"


class Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("address", "low", "high", "read_only")]


class Slot(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint64), ("alignment", ctypes.c_uint64)]


class Request(ctypes.Structure):
    """What the runtime reads, and the fields that it fills."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("grid", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("workers", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
        ("check", ctypes.c_uint32),
        ("granule", ctypes.c_uint32),
        ("nan", ctypes.c_uint32),
        ("fences", ctypes.c_uint32),
        ("slot_count", ctypes.c_uint32),
        ("variable_count", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("timeout", ctypes.c_double),
        ("static_bytes", ctypes.c_uint64),
        ("dynamic_bytes", ctypes.c_uint64 * MAX_BUFFERS),
        ("buffers", Region * MAX_BUFFERS),
        ("barriers", ctypes.c_uint64),
        ("products", ctypes.c_uint64),
        ("unit_products", ctypes.c_uint64),
        ("collectives", ctypes.c_uint64),
        ("finding_count", ctypes.c_uint32),
        ("failed", ctypes.c_uint32),
        ("failed_group", ctypes.c_uint64),
        ("stopped", ctypes.c_uint32),
        ("layout", ctypes.c_uint32),
        ("sites", ctypes.c_uint32 * 2),
        ("code", ctypes.c_uint64),
        ("written", ctypes.c_void_p * MAX_BUFFERS),
        ("slots", ctypes.POINTER(Slot)),
        ("findings", ctypes.POINTER(findings.Record)),
        ("counters", ctypes.c_void_p),
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


@functools.lru_cache(maxsize=None)
def _calls(path: Path, function: bytes) -> bool:
    """Whether a compiled kernel calls a function of the runtime whose name begins so."""
    return b"\0" + function in path.read_bytes()


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


def _request(name: str, kernel, memories, writable, grid, threads, settings: Settings, mode: str) -> Request:
    """Everything but what the checker fills."""
    _, code, path, description = kernel
    request = Request(entry=ctypes.cast(code.metal_entry, ctypes.c_void_p), grid=grid, threads=threads)
    request.check, request.nan = mode in ("check", "nan"), mode == "nan"
    request.order, request.seed = _order(name, settings.order)
    request.workers = _worker_count(settings.workers, grid[0] * grid[1] * grid[2])
    if mode != "run" and _calls(path, b"metal_atomic_"):
        request.workers = 1  # what atomic operations return depends on who runs at the same time
        request.fences = _calls(path, b"metal_fence")
    odd = any(memory.low % 2 for memory in memories)
    request.granule = 1 if description["byte_accesses"] or odd else 2
    request.static_bytes = description["static_bytes"]
    request.timeout = settings.timeout or 0
    request.layout = matrix_unit.layout(name, settings.matrix_unit)
    for i in range(MAX_BUFFERS):
        memory = memories[i] if i < len(memories) else UNBOUND
        request.buffers[i] = Region(memory.address, memory.low, memory.high, i not in writable)
    return request


def _to_be_written(name: str, settings: Settings, writable, memories) -> Sequence[int]:
    """Buffers whose elements must all be written."""
    if isinstance(settings.check_written, bool):
        return sorted(i for i in writable if memories[i].address) if settings.check_written else []
    chosen = list(settings.check_written)
    for i in chosen:
        if i not in writable or not memories[i].address:
            raise LaunchError(f"kernel {name}: check_written names buffer {i!r}, which the kernel cannot write")
    return chosen


def launch(name, kernel, buffers, grid, threads, settings: Settings) -> LaunchReport:
    """See Kernel.launch."""
    runtime, code, path, description = kernel
    mode = settings.mode(name)
    grid, threads = _three(name, "grid", grid), _three(name, "threads", threads)
    total, limit = threads[0] * threads[1] * threads[2], min(MAX_THREADS, description["max_threads"])
    if total > limit:
        raise LaunchError(f"kernel {name}: {total} threads per threadgroup; the limit is {limit}")
    memories, writable = bind(name, description["parameters"], description["gates"], buffers)
    dynamic = _threadgroup_arguments(name, description, settings.threadgroup_memory)
    request = _request(name, kernel, memories, writable, grid, threads, settings, mode)
    for i, size in enumerate(dynamic):
        request.dynamic_bytes[i] = size
    slotted: List[slots.Slot] = slots.slots(code, description, dynamic) if request.check else []
    request.slots = (Slot * len(slotted))(*((slot.bytes, slot.alignment) for slot in slotted))
    request.slot_count, request.variable_count = len(slotted), len(slotted) - len(dynamic)
    records, cells = (findings.Record * (MAX_FINDINGS if request.check else 0))(), {}
    request.findings = records
    for i in _to_be_written(name, settings, writable, memories):
        cells[i] = (ctypes.c_ubyte * ((memories[i].high - memories[i].low) // request.granule + 2))()
        request.written[i] = ctypes.addressof(cells[i])
    groups = grid[0] * grid[1] * grid[2]
    counting = Counting(description, memories, groups) if mode == "count" else None
    request.counters = counting and counting.address
    if groups and runtime.metal_launch(ctypes.byref(request)):
        raise LaunchError(f"kernel {name}: the machine has no memory or threads left for the simulation")
    program = findings.Program(path, code, description, tuple(slotted))
    found = findings.read(request, records, memories, program, grid)
    if request.failed:
        raise LaunchError(f"kernel {name}, {_failure(request, program)}" + "".join(f"\n{f}" for f in found[:5]), found)
    missing = (findings.unwritten(i, memories[i], bytes(c), request.granule, program) for i, c in cells.items())
    found += tuple(finding for finding in missing if finding)
    memory = description["static_bytes"] + sum((n + 15) & ~15 for n in dynamic)
    profile = counting and counting.profile(runtime, name, grid, threads, memory)
    return LaunchReport(
        groups,
        request.barriers,
        request.products,
        request.collectives,
        found,
        profile,
        request.unit_products,
    )


def _failure(request: Request, program: findings.Program) -> str:
    """Why the launch failed, and at which lines."""
    sites = [site for site in request.sites if site]
    places = findings.resolve(program, sites)
    where = " and ".join(dict.fromkeys(places[site] for site in sites if site in places))
    return request.message.decode(errors="replace") + (f", at {where}" if where else "")
