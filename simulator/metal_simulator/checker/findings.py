"""What the checker found, in words and with source lines."""

from __future__ import annotations

import ctypes
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..limits import MAX_BUFFERS
from ..toolchain.clang import NEWEST, OLDEST, run
from .slots import Slot

_KINDS = {  # by their names in the runtime, in its order
    "RACE_WRITE_WRITE": "race: two writes",
    "RACE_READ_WRITE": "race: read and write",
    "OUT_OF_BOUNDS_READ": "read out of bounds",
    "OUT_OF_BOUNDS_WRITE": "write out of bounds",
    "NEVER_WRITTEN": "read of threadgroup memory never written",
    "GROUPS_WRITE_WRITE": "race between threadgroups: two writes",
    "GROUPS_READ_WRITE": "race between threadgroups: read and write",
    "MISALIGNED": "misaligned vector access",
    "WRITE_TO_CONST": "write to a const buffer",
    "NAN_MADE": "NaN made from numbers",
    "NAN_WRITTEN": "NaN written",
    "DIVERGENT": "collective in divergent control flow",
}
NUMBERS = {name: number for number, name in enumerate(_KINDS, 1)}
KINDS = dict(zip(NUMBERS.values(), _KINDS.values()))
_BETWEEN_GROUPS = (NUMBERS["GROUPS_WRITE_WRITE"], NUMBERS["GROUPS_READ_WRITE"])
UNWRITTEN = "element never written"
LIMIT = 256  # findings of one launch


class Record(ctypes.Structure):
    """A Finding of the runtime. buffer: from MAX_BUFFERS on, a slot of threadgroup memory."""

    _fields_ = [
        ("group", ctypes.c_uint64),
        ("other_group", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("kind", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("buffer", ctypes.c_int32),
        ("thread", ctypes.c_uint32),
        ("other_thread", ctypes.c_uint32),
        ("site", ctypes.c_uint32),
        ("other_site", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
    ]


class Finding(NamedTuple):
    """One kind of trouble at one place; `count` accesses had it, the other fields are of the first threadgroup's."""

    kind: str  # one of KINDS, or UNWRITTEN
    memory: str  # "buffer 3 (output)", "threadgroup memory (tile)"
    buffer: Optional[int]  # buffer index, None for other memory
    element: Optional[int]  # index of what the kernel's parameter (or threadgroup array) points to
    offset: int  # in bytes
    size: int  # bytes of the access
    threadgroups: Tuple[Tuple[int, int, int], ...]  # of each thread; empty if no access is to blame
    threads: Tuple[int, ...]  # the thread, and for a race the other one
    places: Tuple[str, ...]  # file:line of each, when known
    count: int

    def __str__(self) -> str:
        text = f"{self.kind}: {self.memory}"
        if self.size:
            element = "" if self.element is None else f"element {self.element}, "
            text += f", {element}byte {self.offset} ({self.size} bytes)"
        if len(set(self.threadgroups)) == 1:
            who = " and ".join(f"thread {t}" for t in self.threads) + f" of threadgroup {self.threadgroups[0]}"
        else:
            who = " and ".join(f"thread {t} of threadgroup {g}" for t, g in zip(self.threads, self.threadgroups))
        where = " and ".join(dict.fromkeys(self.places))
        text += (f", {who}" if who else "") + (f", at {where}" if where else "")
        return text + (f", {self.count} times" if self.count > 1 else "")


class Program(NamedTuple):
    """What findings must know of a compiled kernel."""

    path: Path  # of the shared object
    code: ctypes.CDLL
    description: dict
    slots: Tuple[Slot, ...]  # of threadgroup memory, in a checking build


def read(request, records, memories, program: Program, grid) -> Tuple[Finding, ...]:
    """Findings of a launch, those of the same kind and lines as one, whatever the number of workers that ran it."""
    used = [records[i] for i in range(request.finding_count)]
    lines = resolve(program, sorted({s for r in used for s in (r.site, r.other_site) if s}))
    merged: Dict[tuple, Finding] = {}
    for record in sorted(used, key=lambda r: (r.group, r.offset, r.thread, r.kind, r.buffer, r.site, r.other_site)):
        finding = _finding(record, memories, program, request.granule, grid, lines)
        key = finding.kind, finding.buffer, finding.memory, finding.places or (record.site, record.other_site)
        first = merged.get(key)
        merged[key] = first._replace(count=first.count + finding.count) if first else finding
    order = {kind: number for number, kind in KINDS.items()}
    found = sorted(merged.items(), key=lambda item: (order[item[0][0]], str(item[0][2:])))
    return tuple(finding for _, finding in found[:LIMIT])


def unwritten(buffer: int, memory, cells: bytes, granule: int, program: Program) -> Optional[Finding]:
    """A finding if elements of a tensor were never written. cells: a byte per granule, 0 where nobody wrote."""
    missing, first = 0, None
    for start, stop, step in memory.runs():
        for byte in range(0, memory.item, granule):
            row = cells[(start + byte) // granule : (stop + granule - 1) // granule : max(1, step // granule)]
            if row.count(0):
                at = start + row.index(0) * step
                missing = missing + row.count(0) if byte == 0 else max(missing, 1)
                first = at if first is None else min(first, at)
    if first is None:
        return None
    offset = first - (memory.address - memory.low)
    name = _buffer_name(buffer, program.description, [])
    element = _element(offset, _pointed_bytes(buffer, program))
    return Finding(UNWRITTEN, name, buffer, element, offset, memory.item, (), (), (), missing)


def _finding(record: Record, memories, program: Program, granule: int, grid, lines: Dict[int, str]) -> Finding:
    memory, element, offset = _memory(record, memories, program)
    groups, threads, sites = (_position(record.group, grid),), (record.thread,), [record.site]
    if record.other_thread != 0xFFFFFFFF:
        groups += (_position(record.other_group if record.kind in _BETWEEN_GROUPS else record.group, grid),)
        threads += (record.other_thread,)
        sites.append(record.other_site)
    places = tuple(lines[s] for s in sites if s in lines)
    count, size = record.count, record.size
    if record.kind in _BETWEEN_GROUPS:  # counted in cells
        size = max(size, _pointed_bytes(record.buffer, program))
        count = -(-count * granule // size)
    buffer = record.buffer if 0 <= record.buffer < MAX_BUFFERS else None
    return Finding(KINDS[record.kind], memory, buffer, element, offset, size, groups, threads, places, count)


def _position(group: int, grid) -> Tuple[int, int, int]:
    return group % grid[0], group // grid[0] % grid[1], group // (grid[0] * grid[1])


def _memory(record: Record, memories, program: Program) -> Tuple[str, Optional[int], int]:
    """Name of the memory, element, and byte offset from its start."""
    if record.buffer >= MAX_BUFFERS:
        slot = program.slots[record.buffer - MAX_BUFFERS]
        name = f"threadgroup memory ({slot.name})" if slot.name else "threadgroup memory"
        return name, _element(record.offset, slot.element), record.offset
    if record.buffer >= 0:
        name = _buffer_name(record.buffer, program.description, memories)
        return name, _element(record.offset, _pointed_bytes(record.buffer, program)), record.offset
    names = {NUMBERS["NAN_MADE"]: "value", NUMBERS["DIVERGENT"]: f"SIMD group {record.offset}"}
    return names.get(record.kind, "memory of no buffer"), None, record.offset


def _element(offset: int, size: int) -> Optional[int]:
    return offset // size if size else None


def _pointed_bytes(buffer: int, program: Program) -> int:
    for number, parameter in enumerate(program.description["parameters"]):
        if parameter["kind"] == "buffer" and parameter["index"] == buffer:
            return program.code.metal_element_bytes(number)
    return 0


def _buffer_name(buffer: int, description: dict, memories) -> str:
    names = {p["index"]: f" ({p['name']})" for p in description["parameters"] if p["kind"] == "buffer"}
    name = f"buffer {buffer}{names.get(buffer, '')}"
    if not memories:
        return name
    if buffer >= len(memories) or not memories[buffer].address:
        return f"{name}, which is not bound"
    own = memories[buffer]
    others = [i for i, m in enumerate(memories) if i != buffer and m.low < own.high and own.low < m.high]
    shared = " and ".join(f"buffer {i}{names.get(i, '')}" for i in others)
    return f"{name}, which overlaps {shared}" if shared else name


@functools.lru_cache(maxsize=None)
def _symbolizer() -> Optional[str]:
    names = ["llvm-symbolizer"] + [f"llvm-symbolizer-{v}" for v in range(NEWEST, OLDEST - 1, -1)]
    return next((path for path in map(shutil.which, names) if path), None)


def _symbolize(path: Path, addresses: Sequence[str]) -> List[dict]:
    """llvm-symbolizer's answers; none without the tool."""
    tool = _symbolizer()
    if not tool or not addresses:
        return []
    done = run([tool, f"--obj={path}", "--no-demangle", "--output-style=JSON"], input="\n".join(addresses) + "\n")
    try:
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    except ValueError:
        return []


def resolve(program: Program, sites: Sequence[int]) -> Dict[int, str]:
    """file:line of code offsets, the innermost place in the user's own source; empty without llvm-symbolizer."""
    answers = _symbolize(program.path, [hex(s - 1) for s in sites])  # a return address belongs to the call before it
    places = [_place(answer.get("Symbol", []), program.code.files) for answer in answers]
    return {site: place for site, place in zip(sites, places) if place}


def _place(frames: List[dict], files: Sequence[str]) -> str:
    for frame in frames:
        match = re.search(r"metal:(\d+)$", frame.get("FileName", ""))
        if match and frame.get("Line"):
            return f"{files[int(match.group(1))]}:{frame['Line']}"
    return ""
