"""NVIDIA's compute-sanitizer, watching race_target.py.

racecheck sees races in threadgroup memory, memcheck accesses outside a buffer (buffers are padded, and allocated one by
one), synccheck barriers that not all threads reach. None sees races between threadgroups or memory read before written.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

TOOLS = {"memcheck": ("--padding", "256"), "racecheck": (), "synccheck": ()}
FAULT = "GPU fault"  # beside the tools: the GPU itself stopped a mutant
PROCESSES = 20
_FOUND = 99  # exit status that we ask for
_HERE = pathlib.Path(__file__).parent
_PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")


class Outcome(NamedTuple):
    found: str  # first line of what the tool says, "" if nothing
    broken: str  # why it could not tell
    by: str  # the tool, or FAULT
    ended: bool = True


def find() -> str:
    """Path of compute-sanitizer. Raises RuntimeError where there is none, or it cannot watch this GPU."""
    found = next((shutil.which(place) for place in _PLACES if shutil.which(place)), None)
    if found is None:
        raise RuntimeError("no compute-sanitizer here (it comes with the CUDA toolkit)")
    command = [found, "--tool", "memcheck", sys.executable, "-c", "import torch; torch.ones(1, device='cuda').item()"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"compute-sanitizer cannot watch this GPU: {(done.stdout + done.stderr)[-600:]}")
    return found


def watch(path: str, tool: str, seconds: int, *arguments: str) -> Outcome:
    """One process of race_target.py under one tool, killed after so many seconds. Prints the outcome: a stage that is
    stopped has told what it knew."""
    start = time.time()
    outcome = _watched(path, tool, seconds, *arguments)
    told = outcome.found or outcome.broken or "clean"
    print(f"  {tool} {' '.join(arguments)}: {told}, {time.time() - start:.0f} s", flush=True)
    return outcome


def _watched(path: str, tool: str, seconds: int, *arguments: str) -> Outcome:
    command = [path, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(_FOUND), "--kernel-regex"]
    command += ["kns=metal_kernel", sys.executable, str(_HERE / "race_target.py"), *arguments]
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the tool and what it watches
        process.communicate()
        return Outcome(f"does not end in {seconds} s", "", tool, ended=False)
    said = [line.removeprefix("=========").strip() for line in output.splitlines() if line.startswith("=========")]
    said = [line for line in said if "SUMMARY" not in line]
    if process.returncode == 0:
        return Outcome("", "", tool)
    if process.returncode == _FOUND or any(re.search(r"Invalid|hazard|[Rr]ace|Barrier", line) for line in said):
        line = next((line for line in said[1:] if line and "COMPUTE-SANITIZER" not in line), "an error")
        return Outcome(line, "", tool)
    fault = re.search(r"CUDA error: [^\n]*|CUDA_ERROR_\w+", output + errors)
    if fault and arguments[0] == "mutant":  # stopped by the GPU itself, before the tool had anything to say
        return Outcome(fault.group(), "", FAULT)
    return Outcome("", (output + errors)[-600:], tool)
