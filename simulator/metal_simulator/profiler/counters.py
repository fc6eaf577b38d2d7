"""What a launch made the GPU do: the counters of a profiled launch, and how they are handed to the runtime."""

from __future__ import annotations

import ctypes
import json
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..limits import LANES, MAX_BUFFERS
from . import registers
from .instruction_classes import CLASSES

LINE_BYTES = 128
SPACES = ("device", "constant", "threadgroup", "private")
WIDTHS = ("1", "2", "4", "8", "16", "more")  # bytes per lane
ROW_FIELDS = ("device_clocks", "threadgroup_clocks", "device_lines")
TOTALS = ("instructions", "read", "written", "lines", "conflicts")


class Traffic(NamedTuple):
    """Accesses to one buffer, or to one kind of memory. Counted once per SIMD group:

    instructions: memory instructions; lines: distinct 128-byte lines of each, summed
    read, written: bytes that the lanes asked for
    first_read, first_written: distinct bytes among them; the rest was repeated
    lines_read, lines_written: distinct lines of the buffer
    conflicts: extra turns of the 32 banks of threadgroup memory, 4 bytes wide
    """

    name: str
    space: str
    instructions: int = 0
    read: int = 0
    written: int = 0
    lines: int = 0
    conflicts: int = 0
    first_read: int = 0
    first_written: int = 0
    lines_read: int = 0
    lines_written: int = 0


class Row(NamedTuple):
    """What one threadgroup did, summed over its SIMD groups.

    classes: executions of each class of instruction, in the order of CLASSES
    device_clocks, threadgroup_clocks: clocks of a memory pipeline that moves 64 bytes a clock, and a line (or a turn of
    the banks) at most a clock; device_lines: distinct 128-byte lines
    """

    classes: Tuple[int, ...]
    device_clocks: int
    threadgroup_clocks: int
    device_lines: int


class Profile(NamedTuple):
    """Counters of one launch. They do not depend on the number of cores or on the order of execution.

    rows are the different threadgroups, order gives the row of each threadgroup of the grid
    registers: estimate of live 32-bit registers per lane (see registers.py) where bfloat operands are native, from
        family 9 on; needs() has those of every family; private_bytes: arrays kept in memory
    threadgroup_bytes: per threadgroup
    accesses: (space, "load" or "store", bytes per lane) -> memory instructions of SIMD groups
    instructions: of the optimised code that cost something
    """

    kernel: str
    grid: Tuple[int, int, int]
    threads: Tuple[int, int, int]
    threadgroup_bytes: int
    registers: float
    private_bytes: int
    rows: Tuple[Row, ...]
    order: Tuple[int, ...]
    traffic: Tuple[Traffic, ...]
    accesses: Dict[Tuple[str, str, str], int]
    registers_by_family: Optional[Dict[str, Sequence[float]]] = None  # None: `registers` on all
    instructions: int = 0

    def needs(self, family: int) -> registers.Registers:
        """Estimated registers on a GPU family."""
        if self.registers_by_family is None:
            return registers.Registers(self.registers, self.registers)
        return registers.of_family(self.registers_by_family, family)

    @property
    def simdgroups(self) -> int:
        """SIMD groups of a threadgroup."""
        return -(-self.threads[0] * self.threads[1] * self.threads[2] // LANES)

    @property
    def classes(self) -> Dict[str, int]:
        """Executions by class, over the whole launch; classes that did not occur are left out."""
        weights = [0] * len(self.rows)
        for index in self.order:
            weights[index] += 1
        sums = [sum(w * row.classes[i] for w, row in zip(weights, self.rows)) for i in range(len(CLASSES))]
        return {name: number for name, number in zip(CLASSES, sums) if number}

    def repeated(self, times: int) -> "Profile":
        """The profile of `times` such launches side by side in one, each on data of its own."""
        traffic = tuple(
            Traffic(t.name, t.space, *(n * times for n in t[2:])) if t.space != "constant" else t for t in self.traffic
        )
        accesses = {key: number * times for key, number in self.accesses.items()}
        grid = (*self.grid[:2], self.grid[2] * times)
        return self._replace(grid=grid, order=self.order * times, traffic=traffic, accesses=accesses)

    def to_json(self) -> str:
        fields = self._asdict()
        fields["rows"] = [row._asdict() for row in self.rows]
        fields["traffic"] = [t._asdict() for t in self.traffic]
        fields["accesses"] = [[*key, number] for key, number in sorted(self.accesses.items())]
        fields["classes"] = list(CLASSES)
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """Raises ValueError if the text is not the profile of this version's classes."""
        fields = json.loads(text)
        if fields.pop("classes", None) != list(CLASSES):
            raise ValueError("not a profile, or one of another version of the simulator")
        rows = tuple(Row(tuple(r.pop("classes")), **r) for r in fields.pop("rows"))
        traffic = tuple(Traffic(**t) for t in fields.pop("traffic"))
        accesses = {(space, kind, width): number for space, kind, width, number in fields.pop("accesses")}
        lists = {name: tuple(fields.pop(name)) for name in ("grid", "threads", "order")}
        return cls(rows=rows, traffic=traffic, accesses=accesses, **lists, **fields)


class Counters(ctypes.Structure):
    """What the runtime is given and fills."""

    _fields_ = [
        ("block_count", ctypes.c_uint32),
        ("class_count", ctypes.c_uint32),
        ("site_count", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("weights", ctypes.POINTER(ctypes.c_uint32)),
        ("site_bytes", ctypes.POINTER(ctypes.c_uint32)),
        ("site_kinds", ctypes.POINTER(ctypes.c_uint8)),
        ("constant", ctypes.c_uint8 * (MAX_BUFFERS + 1)),
        ("touched", ctypes.c_void_p * 2 * MAX_BUFFERS),
        ("rows", ctypes.POINTER(ctypes.c_uint64)),
        ("totals", ctypes.c_uint64 * len(TOTALS) * (len(SPACES) + MAX_BUFFERS)),
        ("accesses", ctypes.c_uint64 * len(WIDTHS) * 2 * len(SPACES)),
    ]


class Counting:
    """The counters of one launch that is about to run.

    description: of the compiled kernel; memories: by buffer index; groups: threadgroups of the launch
    """

    def __init__(self, description: dict, memories: Sequence, groups: int):
        weights, sites = description["weights"], description["sites"]
        self.description, self.memories, self.groups = description, memories, groups
        self.width = len(CLASSES) + len(ROW_FIELDS)
        self.rows = (ctypes.c_uint64 * (groups * self.width))()
        self.bitmaps = [[self._bitmap(memory) for _ in range(2)] for memory in memories]
        self.counters = Counters(len(weights), len(CLASSES), max(1, len(sites)), 0)
        self.counters.weights = (ctypes.c_uint32 * (len(weights) * len(CLASSES)))(*sum(weights, []))
        self.counters.site_bytes = (ctypes.c_uint32 * max(1, len(sites)))(*(size for size, _ in sites))
        self.counters.site_kinds = (ctypes.c_uint8 * max(1, len(sites)))(*(write for _, write in sites))
        self.counters.rows = self.rows
        for i, pair in enumerate(self.bitmaps):
            for write, bitmap in enumerate(pair):
                self.counters.touched[i][write] = ctypes.addressof(bitmap)
        for parameter in description["parameters"]:
            if parameter["kind"] == "buffer":
                self.counters.constant[parameter["index"]] = parameter["space"] == "constant"

    @staticmethod
    def _lines(memory) -> int:
        return (memory.high - memory.low) // LINE_BYTES + 2

    def _bitmap(self, memory):
        return (ctypes.c_uint64 * (2 * self._lines(memory)))()

    @property
    def address(self) -> int:
        return ctypes.addressof(self.counters)

    def profile(self, runtime, kernel: str, grid, threads, threadgroup_bytes: int) -> Profile:
        """After the launch."""
        rows: Dict[Row, int] = {}
        order = tuple(rows.setdefault(self._row(i), len(rows)) for i in range(self.groups))
        accesses = {
            (space, kind, width): self.counters.accesses[i][j][k]
            for i, space in enumerate(SPACES)
            for j, kind in enumerate(("load", "store"))
            for k, width in enumerate(WIDTHS)
            if self.counters.accesses[i][j][k]
        }
        return Profile(
            kernel,
            grid,
            threads,
            threadgroup_bytes,
            self.description["registers"],
            self.description["private_bytes"],
            tuple(rows),
            order,
            tuple(self._traffic(runtime)),
            accesses,
            {family: list(need) for family, need in self.description["registers_by_family"].items()},
            self.description["instructions"],
        )

    def _row(self, group: int) -> Row:
        values = self.rows[group * self.width : (group + 1) * self.width]
        return Row(tuple(values[: len(CLASSES)]), *values[len(CLASSES) :])

    def _traffic(self, runtime) -> List[Traffic]:
        names = {p["index"]: p["name"] for p in self.description["parameters"] if p["kind"] == "buffer"}
        found = []
        for i in range(len(self.memories)):
            totals = self.counters.totals[len(SPACES) + i]
            if totals[0]:
                space = "constant" if self.counters.constant[i] else "device"
                read, written = (self._distinct(runtime, i, write) for write in (0, 1))
                first = (read[0], written[0], read[1], written[1])
                found.append(Traffic(names.get(i, f"buffer {i}"), space, *totals, *first))
        for i, space in enumerate(SPACES):
            if self.counters.totals[i][0]:
                found.append(Traffic("", space, *self.counters.totals[i]))
        return found

    def _distinct(self, runtime, index: int, write: int) -> Tuple[int, int]:
        """Bytes and lines of a buffer that were read or written at all."""
        size, lines = ctypes.c_uint64(), ctypes.c_uint64()
        bitmap, count = self.bitmaps[index][write], ctypes.c_uint64(self._lines(self.memories[index]))
        runtime.metal_count_touched(bitmap, count, ctypes.byref(size), ctypes.byref(lines))
        return size.value, lines.value


def find(traffic: Sequence[Traffic], name: str) -> Optional[Traffic]:
    """The traffic of a buffer by its name, or of a kind of memory by its space."""
    return next((t for t in traffic if t.name == name or (not t.name and t.space == name)), None)
