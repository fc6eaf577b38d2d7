"""Profiles with their predictions: as text, and as fields for JSON."""

from __future__ import annotations

import json
from typing import Dict, List, Sequence

from ..errors import SimulatorError
from . import cost_model
from .counters import Profile

FAMILIES = {7: "M1, M2", 9: "M3, M4, M5"}
WITH_UNIT = {7: "M1, M2", 9: "M3, M4", 10: "M5"}  # of kernels that use the matrix unit
LOADS = "with loads: if threadgroup loads take issue slots, one each; published shares of the peak fit both"


def text(profile: Profile, chips: Sequence[cost_model.Chip] = cost_model.CHIPS) -> str:
    """A table for people: instructions, memory, occupancy, time on each chip."""
    parts = [_head(profile), _instructions(profile), _memory(profile), _times(profile, chips)]
    return "\n\n".join("\n".join(lines) for lines in parts)


def families(profile: Profile) -> Dict[int, str]:
    """Chips by family, of those that run the kernel differently."""
    return WITH_UNIT if "matrix_unit" in profile.classes else FAMILIES


def _head(profile: Profile) -> List[str]:
    grid, threads = (" x ".join(map(str, sizes)) for sizes in (profile.grid, profile.threads))
    needs = [(name, profile.needs(family)) for family, name in families(profile).items()]
    registers = "; ".join(f"{name}: about {n.live:.0f} live, {n.hoisted:.0f} as LLVM orders it" for name, n in needs)
    private = f"; {profile.private_bytes} bytes of arrays in memory a thread" if profile.private_bytes else ""
    return [
        f"kernel {profile.kernel}",
        f"{grid} threadgroups of {threads} threads ({profile.simdgroups} SIMD groups)",
        f"{profile.threadgroup_bytes} bytes of threadgroup memory{private}",
        f"about {cost_model.code_bytes(profile.instructions) / 1024:.1f} KB of machine code",
        f"32-bit registers of a lane: {registers}",
    ]


def simdgroup_clocks(profile: Profile, family: int) -> dict:
    """Clocks by class of an average SIMD group of the launch."""
    total = [profile.classes.get(name, 0) for name in cost_model.CLASSES]
    groups = max(1, len(profile.order) * profile.simdgroups)
    return {name: n / groups for name, n in cost_model.clocks_by_class(total, family).items()}


def _instructions(profile: Profile) -> List[str]:
    groups = max(1, len(profile.order) * profile.simdgroups)
    chips = families(profile)
    by_family = {family: simdgroup_clocks(profile, family) for family in chips}
    counts = [profile.classes.get(name, 0) / groups for name in cost_model.CLASSES]
    sums = {family: cost_model.clocks(counts, family) or 1 for family in by_family}
    heads = "".join(f"{'clocks ' + name:>20}{'%':>7}" for name in chips.values())
    lines = ["Instructions of an average SIMD group", f"  {'class':18}{'executions':>12}{heads}"]
    for name, number in profile.classes.items():
        line = f"  {name:18}{number / groups:12.1f}"
        for family, clocks in by_family.items():
            line += f"{clocks.get(name, 0):20.1f}{100 * clocks.get(name, 0) / sums[family]:7.1f}"
        lines.append(line)
    issued = "".join(f"{sums[family]:20.1f}{'':7}" for family in by_family)
    notes = ["  (M3 and later run complex operations beside the others)"]
    unit = cost_model.unit_clocks(profile, 10) / groups
    if unit:
        notes.append(f"  (the matrix unit of M5 runs {unit:.1f} clocks beside them)")
    if "unknown" in profile.classes:
        notes.append("  (unknown: calls of functions that have no price here; the times leave them out)")
    return [*lines, f"  {'issued':30}{issued}", *notes]


def _memory(profile: Profile) -> List[str]:
    lines = [
        "Memory",
        f"  {'':20}{'instructions':>13}{'read':>12}{'written':>12}{'first read':>12}{'first written':>14}"
        f"{'lines/instr.':>13}{'conflicts':>11}",
    ]
    for t in profile.traffic:
        name = t.name or t.space
        first = f"{t.first_read:12}{t.first_written:14}" if t.name else f"{'':26}"
        lines.append(
            f"  {name[:19]:20}{t.instructions:13}{t.read:12}{t.written:12}{first}"
            f"{t.lines / max(1, t.instructions):13.2f}{t.conflicts:11}"
        )
    for (space, kind, width), number in sorted(profile.accesses.items()):
        lines.append(f"  {space} {kind}, {width} bytes a lane: {number}")
    return lines


def _times(profile: Profile, chips: Sequence[cost_model.Chip]) -> List[str]:
    lines = [f"Time ({cost_model.LABEL})"]
    for family, name in families(profile).items():
        fit = cost_model.occupancy(profile, family)
        lines.append(f"  {name}: {fit.simdgroups} SIMD groups a core (limit: {fit.limit}), rate {100 * fit.rate:.0f} %")
    unit = f"{'unit':>9}" if "matrix_unit" in profile.classes else ""
    lines.append(f"  {'chip':10}{'clocks of a core':>18}{'time':>13}{'with loads':>13}{'products':>10}{unit}  bound")
    for chip in chips:
        p = cost_model.predict(profile, chip)
        times = _time(p.seconds) + _time(p.seconds_with_loads)
        shares = f"{100 * p.matrix_share:9.1f}%" + (f"{100 * p.unit_share:8.1f}%" if unit else "")
        lines.append(f"  {chip.name:10}{p.clocks:18.0f}{times}{shares}  {p.bound}")
    return [*lines, f"  ({LOADS})"]


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:10.1f} us" if seconds < 0.01 else f"{seconds * 1e3:10.2f} ms"


def as_fields(profile: Profile, chips: Sequence[cost_model.Chip] = cost_model.CHIPS) -> dict:
    """What JSON can hold: the profile (Profile.from_json reads it back) with the predictions for each chip."""
    predictions = [cost_model.predict(profile, chip) for chip in chips]
    fields = [{**p._asdict(), "occupancy": p.occupancy._asdict()} for p in predictions]
    return {"profile": json.loads(profile.to_json()), "label": cost_model.LABEL, "predictions": fields}


def chip_named(name: str) -> cost_model.Chip:
    """Raises SimulatorError for a chip that is not in the table."""
    for chip in cost_model.CHIPS:
        if chip.name.lower() == name.lower():
            return chip
    raise SimulatorError(f"no chip {name!r}; known are {', '.join(chip.name for chip in cost_model.CHIPS)}")
