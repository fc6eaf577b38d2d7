"""How long Apple GPUs would take: the prediction of a model fitted to published figures.

Calibrated on forward attention kernels with head_dim up to 160 at full occupancy, where it is right to about 8 %. It
ranks variants of a kernel; differences under 5 to 8 % mean nothing. Nothing here has been measured on an Apple GPU by
this project.

Source of each number: S published (microbenchmarks of the M1 and M2 GPU, papers, vendor pages), D derived from such,
I inferred or fitted here.
"""

from __future__ import annotations

import heapq
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .counters import LINE_BYTES, Profile, Row
from .instruction_classes import CLASSES

LABEL = "prediction of a model fitted to published figures; +-8 % where calibrated, not a measurement"


class Chip(NamedTuple):
    """A GPU: family (7: M1, M2; 9: M3, M4; 10: M5), cores, clock in GHz, memory bandwidth in GB/s."""

    name: str
    family: int
    cores: int
    gigahertz: float
    bandwidth: float


# Cores and bandwidth: S, the vendor's specifications. Clocks: S, measured by others; M4 Pro and M4 Max to two digits.
CHIPS = (
    Chip("M1", 7, 8, 1.278, 68),
    Chip("M1 Pro", 7, 16, 1.296, 200),
    Chip("M1 Max", 7, 32, 1.296, 400),
    Chip("M2", 7, 10, 1.398, 100),
    Chip("M2 Max", 7, 38, 1.398, 400),
    Chip("M3", 9, 10, 1.338, 100),
    Chip("M3 Max", 9, 40, 1.38, 400),
    Chip("M4", 9, 10, 1.47, 120),
    Chip("M4 Pro", 9, 20, 1.58, 273),
    Chip("M4 Max", 9, 40, 1.58, 546),
    Chip("M5", 10, 10, 1.578, 153),
    Chip("M5 Pro", 10, 20, 1.60, 307),  # its clock: D, of 32.8 TFLOPS
    Chip("M5 Max", 10, 40, 1.62, 614),
)

# Clocks of one execution by one SIMD group.
_CLOCKS_7 = {
    "mma_half": 17,  # S, 8x8x8; 16 would be the multiply-adds alone
    "mma_bfloat": 18,  # I, as fp32, to which its operands are widened
    "mma_mixed": 18,  # I, as fp32
    "mma_float": 18,  # S
    "matrix_unit": 16 * 17,  # I: without the unit, as many 8x8x8 products
    "simple": 1,  # S
    "shift": 4,  # S, 4 to 8
    "convert": 4,  # S
    "bfloat_convert": 1,  # I, simple operations: bfloat is emulated, in as many instructions as classes.py says
    "integer_multiply": 4,  # S
    "wide_add": 4,  # S
    "exponential": 4,  # S
    "divide": 6,  # S
    "rsqrt": 8,  # S
    "shuffle": 2,  # S
    "reduction": 14.5,  # S, simd_sum
}
# Published for this family: floating point and complex operations run side by side (S), shuffles 1, products 17 (D).
_CLOCKS_9 = {**_CLOCKS_7, "mma_bfloat": 17, "bfloat_convert": 0, "shuffle": 1}  # bfloat is native (S)
_UNIT = CLASSES.index("matrix_unit")
_COMPLEX = ("shift", "convert", "integer_multiply", "wide_add", "exponential", "divide", "rsqrt")
# M5: simdgroup_matrix does not use the matrix unit (S); what the unit multiplies takes no clocks of the ALUs (I).
_CLOCKS_10 = {name: number for name, number in _CLOCKS_9.items() if name != "matrix_unit"}
CLOCKS = {7: _CLOCKS_7, 9: _CLOCKS_9, 10: _CLOCKS_10}

SCHEDULERS = 4  # S, per core
UNIT_CLOCKS = 64  # of 16 x 32 x 16 by the unit beside one scheduler: D, of 1024 FLOP a clock and core (S)
# Time of kernels that use the unit, without EFFICIENCY: the longest of the unit's clocks by this share, those of the
# ALUs, which work beside it, and those of L1. S: 0.88 to 0.90 are published for matrix products; I: the rule, of
# attention at 81 and 85 % of the unit (head_dim 128 and 64 on M5 Max).
UNIT_REACHED = 0.88
REGISTERS = 208 * 1024 // 4 // 32  # S, 32-bit registers of a core per lane of a SIMD group
MOST_SIMDGROUPS = 24  # S: enough for the full rate; D: what about 68 registers per lane still allow
# Of 90 kernels of this project by Mesa's compiler for M1: bytes of an instruction (D), and how many it makes of one
# that is counted here (I: the mean of 1.2 to 2.1).
BYTES_PER_INSTRUCTION, INSTRUCTIONS_PER_COUNTED = 7.26, 1.58
THREADGROUP_BYTES = 60 * 1024  # S, per core
L2_BYTES = 32  # S, per clock and core, on M1
SPILL_REGISTERS, SPILL_RATE = 110, 0.55  # S/I, family 9 on: more registers than this go to memory
BANDWIDTH_REACHED = 0.88  # I, of the specification
EFFICIENCY = 0.95  # I, forward kernels; 0.92 and 0.87 for the two backward ones
LAUNCH_SECONDS = 5e-6  # I


class Occupancy(NamedTuple):
    """simdgroups resident on a core; what limits them: "registers", "threadgroup memory" or "threads"; rate: the
    share of the full rate that is left."""

    simdgroups: int
    limit: str
    rate: float


class Prediction(NamedTuple):
    """clocks: of the busiest core, efficiency included
    seconds: where threadgroup loads are issued beside other instructions; seconds_with_loads: where each takes a clock
        of its own. Published shares of the peak fit both
    bound: "compute", "latency" (too few SIMD groups, or spilled registers), "matrix unit", "threadgroup memory", "L1",
        "L2" or "DRAM"
    matrix_share: clocks of matrix products among the clocks that instructions are issued for
    unit_share: of the matrix unit's peak, over the whole time; 0 on chips without it
    """

    chip: str
    clocks: float
    seconds: float
    bound: str
    occupancy: Occupancy
    matrix_share: float
    seconds_with_loads: float
    unit_share: float = 0.0


def clocks_by_class(classes: Sequence[int], family: int) -> Dict[str, float]:
    """Clocks by class of instruction, for counts in the order of CLASSES."""
    table = CLOCKS[family]
    return {name: n * table[name] for name, n in zip(CLASSES, classes) if n and name in table}


def clocks(classes: Sequence[int], family: int) -> float:
    """Clocks that a scheduler issues instructions for; family 9 on overlaps complex operations with all others."""
    by_class = clocks_by_class(classes, family)
    complex_clocks = sum(by_class.get(name, 0) for name in _COMPLEX)
    others = sum(by_class.values()) - complex_clocks
    return others + complex_clocks if family == 7 else max(others, complex_clocks)


def rate(simdgroups: float) -> float:
    """Share of the full rate with this many SIMD groups on a core: below 16 latency shows. I, fitted."""
    return min(1.0, simdgroups / SCHEDULERS * 17 / 65)


def occupancy(profile: Profile, family: int) -> Occupancy:
    """How many SIMD groups a core holds at once, in whole threadgroups. Families 9 on share registers dynamically;
    their pool is taken to be as large (I)."""
    registers = profile.needs(family).live
    limits = {
        "threads": MOST_SIMDGROUPS // profile.simdgroups,
        "registers": int(REGISTERS / max(registers, 1)) // profile.simdgroups,
        "threadgroup memory": THREADGROUP_BYTES // max(profile.threadgroup_bytes, 1),
    }
    limit = min(limits, key=lambda name: limits[name])
    resident = max(1, limits[limit]) * profile.simdgroups
    spills = family >= 9 and registers > SPILL_REGISTERS
    return Occupancy(resident, limit, SPILL_RATE if spills else rate(resident))


def schedule(costs: Sequence[float], cores: int) -> List[List[int]]:
    """Indices of the threadgroups by core: in order, each to the core that is free first (of equals the first)."""
    free = [(0.0, core) for core in range(cores)]
    assigned: List[List[int]] = [[] for _ in range(cores)]
    for index, cost in enumerate(costs):
        busy, core = heapq.heappop(free)
        assigned[core].append(index)
        heapq.heappush(free, (busy + cost, core))
    return assigned


def predict(profile: Profile, chip: Chip, efficiency: Optional[float] = None) -> Prediction:
    """Time of a launch on a chip. efficiency: share of the issue rate that kernels of this kind reach; None for
    EFFICIENCY, and for 1 where the matrix unit is used (see UNIT_REACHED)."""
    if efficiency is None:
        efficiency = 1.0 if unit_clocks(profile, chip.family) else EFFICIENCY
    issue = [clocks(row.classes, chip.family) for row in profile.rows]
    total, seconds, bound = _time(profile, chip, efficiency, issue)
    longer = [clocks * _share_with_loads(profile, chip.family) for clocks in issue]
    with_loads = _time(profile, chip, efficiency, longer)[1]
    resident, share = occupancy(profile, chip.family), matrix_share(profile, chip.family)
    unit = unit_clocks(profile, chip.family) / SCHEDULERS / chip.cores / (chip.gigahertz * 1e9 * seconds)
    return Prediction(chip.name, total, seconds, bound, resident, share, with_loads, unit)


def unit_clocks(profile: Profile, family: int) -> int:
    """Clocks of the matrix unit, over the whole launch; 0 on chips without it."""
    return _unit_clocks(family, (profile.rows[i] for i in profile.order))


def _unit_clocks(family: int, rows: Iterable[Row]) -> int:
    return sum(row.classes[_UNIT] for row in rows) * UNIT_CLOCKS if family >= 10 else 0


def _share_with_loads(profile: Profile, family: int) -> float:
    """Clocks of the launch's instructions when each threadgroup load takes one, beside those when it takes none."""
    loads = sum(n for (space, kind, _), n in profile.accesses.items() if (space, kind) == ("threadgroup", "load"))
    counts = [profile.classes.get(name, 0) for name in CLASSES]
    slots = [n + loads * (name == "simple") for name, n in zip(CLASSES, counts)]
    return clocks(slots, family) / (clocks(counts, family) or 1)


def _time(profile: Profile, chip: Chip, efficiency: float, issue: Sequence[float]) -> Tuple[float, float, str]:
    """Clocks of the busiest core, seconds, and what limits them; issue: clocks of each row's instructions."""
    resident = occupancy(profile, chip.family)
    worst, bound = 0.0, "compute"
    unit = [_unit_clocks(chip.family, [row]) / UNIT_REACHED for row in profile.rows]
    for groups in schedule([max(issue[i], unit[i]) for i in profile.order], chip.cores):
        rows = [profile.order[i] for i in groups]
        share = min(resident.rate, rate(len(rows) * profile.simdgroups))
        done = [profile.rows[i] for i in rows]
        limits = _core_limits(done, sum(issue[i] for i in rows), share)
        limits["matrix unit"] = sum(unit[i] for i in rows) / SCHEDULERS
        longest = max(limits, key=lambda name: limits[name])
        if limits[longest] > worst:
            worst, bound = limits[longest], longest
    total = worst / efficiency
    compute, memory = total / (chip.gigahertz * 1e9), dram_bytes(profile) / (BANDWIDTH_REACHED * chip.bandwidth * 1e9)
    seconds = max(compute, memory) + LAUNCH_SECONDS
    return total, seconds, "DRAM" if memory > compute else bound


def matrix_share(profile: Profile, family: int) -> float:
    """Clocks of matrix products among the clocks that instructions are issued for."""
    counts = [profile.classes.get(name, 0) for name in CLASSES]
    products = sum(n for name, n in clocks_by_class(counts, family).items() if name.startswith(("mma", "matrix")))
    return products / (clocks(counts, family) or 1)


def _core_limits(rows: Sequence[Row], issue: float, share: float) -> Dict[str, float]:
    """Clocks that one core needs for these threadgroups, by what would limit it. share: of the full issue rate."""
    l1 = sum(row.device_clocks + row.threadgroup_clocks for row in rows)
    staged = sum(row.threadgroup_clocks for row in rows)
    return {
        "compute" if share == 1 else "latency": issue / SCHEDULERS / share if rows else 0.0,
        "threadgroup memory" if 2 * staged > l1 else "L1": float(l1),
        "L2": sum(row.device_lines for row in rows) * LINE_BYTES / L2_BYTES,
    }


def code_bytes(instructions: int) -> float:
    """About how long the machine code is of a kernel with so many counted instructions (budget, profile)."""
    return instructions * INSTRUCTIONS_PER_COUNTED * BYTES_PER_INSTRUCTION


def dram_bytes(profile: Profile) -> int:
    """Bytes that must come from memory or go there: each line of each buffer once. What is read again is taken to be in
    a cache."""
    return sum((t.lines_read + t.lines_written) * LINE_BYTES for t in profile.traffic if t.space == "device")
