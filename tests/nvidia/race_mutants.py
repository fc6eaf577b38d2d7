"""Stage `race_mutants`: compute-sanitizer on the mutants that the simulator's checker finds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, Set

import sanitizer
from package import Specialisation

SECONDS = 120


def specialisations() -> Set[Specialisation]:
    """None but the mutants' own, which build.py finds."""
    return set()


def mutants() -> list:
    """Those of shaders that the simulator's checker finds (make mutants proves it), but for the matrix unit's tiles."""
    from mutants import MUTANTS, unit, unit_gradients

    unit_only = (*unit.MUTANTS, *unit_gradients.MUTANTS)
    found = [mutant for mutant in MUTANTS if mutant.expected == "checker" and mutant not in unit_only]
    return [mutant for mutant in found if not mutant.file.endswith(".py")]


def watch_mutant(path: str, name: str) -> List[sanitizer.Outcome]:
    """One mutant under each tool, until it does not end under one: it would not under the others."""
    outcomes: List[sanitizer.Outcome] = []
    for tool in sanitizer.TOOLS:
        outcomes.append(sanitizer.watch(path, tool, SECONDS, "mutant", name))
        if not outcomes[-1].ended:
            break
    return outcomes


def run(archive) -> dict:
    """On the GPU."""
    path, built = sanitizer.find(), {key.variant for key in archive.keys}
    chosen = [mutant.name for mutant in mutants() if mutant.name in built]
    with ThreadPoolExecutor(sanitizer.PROCESSES) as pool:
        watched = dict(zip(chosen, pool.map(lambda name: watch_mutant(path, name), chosen)))
    failures, found = [], {}
    for name, outcomes in watched.items():
        found[name] = {outcome.by: outcome.found for outcome in outcomes if outcome.found}
        broken = [(f"{outcome.by}, {name}", outcome.broken) for outcome in outcomes if outcome.broken]
        failures += [] if found[name] else broken  # what one tool finds may keep another from its end
    return {"failed": bool(failures), "rows": failures + _rows(found), "mutants": found}


def _rows(found: Dict[str, Dict[str, str]]) -> List[tuple]:
    by = (*sanitizer.TOOLS, sanitizer.FAULT)
    rows: List[tuple] = [(f"mutants found by {tool}", sum(tool in tools for tools in found.values())) for tool in by]
    rows += [("mutants found by any", sum(map(bool, found.values()))), ("mutants tried", len(found))]
    return rows + [(f"mutant: {name}", " + ".join(tools) or "- not found here") for name, tools in found.items()]
