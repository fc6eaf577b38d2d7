"""What the checker found, in words and with source lines."""

from __future__ import annotations

import ctypes
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .toolchain import run

KINDS = {
    1: "race: two writes",
    2: "race: read and write",
    3: "read out of bounds",
    4: "write out of bounds",
    5: "read of threadgroup memory never written",
}
THREADGROUP, NOWHERE = -1, -2


class Record(ctypes.Structure):
    """Kept equal to Finding in runtime/runtime.h."""

    _fields_ = [
        ("group", ctypes.c_uint64),
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

    kind: str
    memory: str  # "buffer 3 (output)" or "threadgroup memory"
    buffer: Optional[int]  # buffer index, None for threadgroup memory
    offset: int  # in bytes
    size: int  # bytes of the access
    threadgroup: Tuple[int, int, int]
    threads: Tuple[int, ...]  # the thread, and for a race the other one
    places: Tuple[str, ...]  # file:line of each, when known
    count: int

    def __str__(self) -> str:
        who = " and ".join(f"thread {t}" for t in self.threads)
        where = " and ".join(dict.fromkeys(self.places))
        what = f"{self.memory}, byte {self.offset} ({self.size} bytes)"
        text = f"{self.kind}: {what}, {who} of threadgroup {self.threadgroup}"
        return text + (f", at {where}" if where else "") + (f", {self.count} times" if self.count > 1 else "")


def read(request, records, memories, description: dict, path: Path, code, grid) -> Tuple[Finding, ...]:
    """Findings of a launch, in an order that does not depend on how many workers ran it."""
    used = [records[i] for i in range(request.finding_count)]
    used.sort(key=lambda r: (r.kind, r.buffer, r.site, r.other_site))
    lines = _resolve(path, code.files, sorted({s for r in used for s in (r.site, r.other_site) if s}))
    return tuple(_finding(r, memories, description, grid, lines) for r in used)


def _finding(record: Record, memories, description: dict, grid, lines: Dict[int, str]) -> Finding:
    group = (record.group % grid[0], record.group // grid[0] % grid[1], record.group // (grid[0] * grid[1]))
    threads: Tuple[int, ...] = (record.thread,)
    sites = [record.site]
    if record.other_thread != 0xFFFFFFFF:
        threads += (record.other_thread,)
        sites.append(record.other_site)
    places = tuple(lines[s] for s in sites if s in lines)
    buffer = record.buffer if record.buffer >= 0 else None
    return Finding(
        KINDS[record.kind],
        _memory_name(record.buffer, description, memories),
        buffer,
        record.offset,
        record.size,
        group,
        threads,
        places,
        record.count,
    )


def _memory_name(buffer: int, description: dict, memories) -> str:
    if buffer == THREADGROUP:
        return "threadgroup memory"
    if buffer == NOWHERE:
        return "memory of no buffer"
    names = [p["name"] for p in description["parameters"] if p["kind"] == "buffer" and p["index"] == buffer]
    bound = buffer < len(memories) and memories[buffer].address
    return f"buffer {buffer}" + (f" ({names[0]})" if names else "") + ("" if bound else ", which is not bound")


@functools.lru_cache(maxsize=None)
def _symbolizer() -> Optional[str]:
    names = ["llvm-symbolizer"] + [f"llvm-symbolizer-{v}" for v in range(22, 15, -1)]
    return next((path for path in map(shutil.which, names) if path), None)


def _resolve(path: Path, files: Sequence[str], sites: Sequence[int]) -> Dict[int, str]:
    """file:line of code offsets, the innermost place in the user's own source; empty without llvm-symbolizer."""
    tool = _symbolizer()
    if not tool or not sites:
        return {}
    addresses = [hex(site - 1) for site in sites]  # a return address belongs to the call before it
    done = run([tool, f"--obj={path}", "--output-style=JSON", *addresses])
    try:
        answers = json.loads(done.stdout)
    except ValueError:
        return {}
    return {
        site: place
        for site, answer in zip(sites, answers)
        for place in [_place(answer.get("Symbol", []), files)]
        if place
    }


def _place(frames: List[dict], files: Sequence[str]) -> str:
    for frame in frames:
        match = re.search(r"metal:(\d+)$", frame.get("FileName", ""))
        if match and frame.get("Line"):
            return f"{files[int(match.group(1))]}:{frame['Line']}"
    return ""
