"""Stage `races`: NVIDIA's compute-sanitizer on every kernel, and on the mutants that the simulator's checker finds.

racecheck sees races in threadgroup memory, memcheck accesses outside a buffer (buffers are padded, and allocated one by
one), synccheck barriers that not all threads reach. None sees races between threadgroups or memory read before written.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple, Set

from package import Specialisation

TOOLS = {"racecheck": (), "memcheck": ("--padding", "256"), "synccheck": ()}
FAULT = "GPU fault"  # beside the tools: the GPU itself stopped a mutant
FOUND = 99  # exit status that we ask for
PROCESSES = 12
EVERY = ("forward", "backward")
SECONDS = {**dict.fromkeys(EVERY, 420), "mutant": 120}
HERE = pathlib.Path(__file__).parent
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


class Outcome(NamedTuple):
    found: str  # first line of what the tool says, "" if nothing
    broken: str  # why it could not tell
    by: str  # the tool, or FAULT


def specialisations() -> Set[Specialisation]:
    """What the kernels that must be clean are run with."""
    import race_target

    return race_target.specialisations()


def mutants() -> list:
    """Those of shaders that the simulator's checker finds (make mutants proves it), but for the matrix unit's tiles."""
    from mutants import MUTANTS, unit, unit_gradients

    unit_only = (*unit.MUTANTS, *unit_gradients.MUTANTS)
    found = [mutant for mutant in MUTANTS if mutant.expected == "checker" and mutant not in unit_only]
    return [mutant for mutant in found if not mutant.file.endswith(".py")]


def sanitizer() -> str:
    """Path of compute-sanitizer. Raises RuntimeError where there is none, or it cannot watch this GPU."""
    found = next((shutil.which(place) for place in PLACES if shutil.which(place)), None)
    if found is None:
        raise RuntimeError("no compute-sanitizer here (it comes with the CUDA toolkit)")
    command = [found, "--tool", "memcheck", sys.executable, "-c", "import torch; torch.ones(1, device='cuda').item()"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"compute-sanitizer cannot watch this GPU: {(done.stdout + done.stderr)[-600:]}")
    return found


def watch(path: str, tool: str, *arguments: str) -> Outcome:
    """One process under one tool, whose outcome is printed: a stage that is stopped has told what it knew."""
    start = time.time()
    outcome = _watched(path, tool, *arguments)
    told = outcome.found or outcome.broken or "clean"
    print(f"  {tool} {' '.join(arguments)}: {told}, {time.time() - start:.0f} s", flush=True)
    return outcome


def _watched(path: str, tool: str, *arguments: str) -> Outcome:
    command = [path, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND), "--kernel-regex"]
    command += ["kns=metal_kernel", sys.executable, str(HERE / "race_target.py"), *arguments]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(timeout=SECONDS[arguments[0]])
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool and what it watches
        process.communicate()
        return Outcome(f"does not end in {SECONDS[arguments[0]]} s", "", tool)
    said = [line.removeprefix("=========").strip() for line in output.splitlines() if line.startswith("=========")]
    said = [line for line in said if "SUMMARY" not in line]
    if process.returncode == 0:
        return Outcome("", "", tool)
    if process.returncode == FOUND or any(re.search(r"Invalid|hazard|[Rr]ace|Barrier", line) for line in said):
        line = next((line for line in said[1:] if line and "COMPUTE-SANITIZER" not in line), "an error")
        return Outcome(line, "", tool)
    fault = re.search(r"CUDA error: [^\n]*|CUDA_ERROR_\w+", output + errors)
    if fault and arguments[0] == "mutant":  # stopped by the GPU itself, before the tool had anything to say
        return Outcome(fault.group(), "", FAULT)
    return Outcome("", (output + errors)[-600:], tool)


def run(archive) -> dict:
    """On the GPU."""
    path, built = sanitizer(), {key.variant for key in archive.keys}
    chosen = [mutant for mutant in mutants() if mutant.name in built]
    tasks = [(tool, (kernels,)) for kernels in EVERY for tool in TOOLS]
    tasks += [(tool, ("mutant", mutant.name)) for mutant in chosen for tool in TOOLS]
    with ThreadPoolExecutor(PROCESSES) as pool:
        outcomes = dict(zip(tasks, pool.map(lambda task: watch(path, task[0], *task[1]), tasks)))
    failures, found = [], {}
    for kernels, tool in itertools.product(EVERY, TOOLS):
        clean = outcomes[tool, (kernels,)]
        if clean.found or clean.broken:
            failures.append((f"{tool}, every {kernels} kernel", clean.found or clean.broken))
    for mutant in chosen:
        by_tool = {tool: outcomes[tool, ("mutant", mutant.name)] for tool in TOOLS}
        found[mutant.name] = {outcome.by: outcome.found for outcome in by_tool.values() if outcome.found}
        broken = [(f"{tool}, {mutant.name}", o.broken) for tool, o in by_tool.items() if o.broken]
        failures += [] if found[mutant.name] else broken  # what one tool finds may keep another from its end
    return {"failed": bool(failures), "rows": _rows(failures, found), "failures": failures, "mutants": found}


def _rows(failures: list, found: Dict[str, Dict[str, str]]) -> List[tuple]:
    every = [f"{tool}, every {kernels} kernel" for kernels in EVERY for tool in TOOLS]
    rows = [(name, "see failures" if name in dict(failures) else "clean") for name in every]
    rows += [(f"mutants found by {tool}", sum(tool in by for by in found.values())) for tool in (*TOOLS, FAULT)]
    rows += [("mutants found by any", sum(map(bool, found.values()))), ("mutants tried", len(found))]
    return rows + [(f"mutant: {name}", " + ".join(by) or "- not found here") for name, by in found.items()]
