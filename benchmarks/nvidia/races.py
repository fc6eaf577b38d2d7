"""Stage `races`: NVIDIA's compute-sanitizer on every kernel, and on the mutants that the simulator's checker finds.

racecheck sees races in threadgroup memory, memcheck accesses outside a buffer (buffers are padded, and allocated one by
one), synccheck barriers that not all threads reach. None sees races between threadgroups or memory read before written.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Set

from package import Specialisation

TOOLS = {"racecheck": (), "memcheck": ("--padding", "256"), "synccheck": ()}
FOUND = 99  # exit status that we ask for
PROCESSES, SECONDS = 8, 120
HERE = pathlib.Path(__file__).parent
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


class Outcome(NamedTuple):
    found: str  # first line of what the tool says, "" if nothing
    broken: str  # why it could not tell


def specialisations() -> Set[Specialisation]:
    """What the kernels that must be clean are run with."""
    import race_target

    return race_target.specialisations()


def mutants() -> list:
    """Those that the simulator's checker finds (the harness proves it: make mutants)."""
    from mutants import MUTANTS

    return [mutant for mutant in MUTANTS if mutant.expected == "checker"]


def watch(tool: str, *arguments: str) -> Outcome:
    """One process under one tool."""
    sanitizer = next((shutil.which(place) for place in PLACES if shutil.which(place)), None)
    if sanitizer is None:
        raise RuntimeError("no compute-sanitizer here (it comes with the CUDA toolkit)")
    command = [sanitizer, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND), "--kernel-regex"]
    command += ["kns=metal_kernel", sys.executable, str(HERE / "race_target.py"), *arguments]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS * 4)
    except subprocess.TimeoutExpired:
        return Outcome("does not end", "")
    said = [line.removeprefix("=========").strip() for line in done.stdout.splitlines() if line.startswith("=========")]
    if done.returncode == 0:
        return Outcome("", "")
    if done.returncode == FOUND or any(re.search(r"Invalid|hazard|[Rr]ace|Barrier", line) for line in said):
        return Outcome(next((line for line in said[1:] if line and "COMPUTE-SANITIZER" not in line), "an error"), "")
    return Outcome("", (done.stdout + done.stderr)[-600:])


def run(archive) -> dict:
    """On the GPU."""
    chosen = mutants()
    tasks = [(tool, ("every",)) for tool in TOOLS]
    tasks += [(tool, ("mutant", mutant.name)) for mutant in chosen for tool in TOOLS]
    with ThreadPoolExecutor(PROCESSES) as pool:
        outcomes = dict(zip(tasks, pool.map(lambda task: watch(task[0], *task[1]), tasks)))
    failures, found = [], {}
    for tool in TOOLS:
        clean = outcomes[tool, ("every",)]
        if clean.found or clean.broken:
            failures.append((f"{tool}, every kernel", clean.found or clean.broken))
    for mutant in chosen:
        by_tool = {tool: outcomes[tool, ("mutant", mutant.name)] for tool in TOOLS}
        found[mutant.name] = {tool: outcome.found for tool, outcome in by_tool.items() if outcome.found}
        failures += [(f"{tool}, {mutant.name}", o.broken) for tool, o in by_tool.items() if o.broken]
    return {"failed": bool(failures), "rows": _rows(failures, found), "failures": failures, "mutants": found}


def _rows(failures: list, found: Dict[str, Dict[str, str]]) -> List[tuple]:
    unclean = {name.split(",")[0] for name, _ in failures if name.endswith("every kernel")}
    rows = [(f"{tool}, every kernel", "see failures" if tool in unclean else "clean") for tool in TOOLS]
    rows += [(f"mutants found by {tool}", sum(tool in by for by in found.values())) for tool in TOOLS]
    rows += [("mutants found by any", sum(map(bool, found.values()))), ("mutants the simulator finds", len(found))]
    return rows + [(f"mutant: {name}", " + ".join(by) or "- not found here") for name, by in found.items()]
