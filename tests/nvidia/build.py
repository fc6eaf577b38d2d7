"""Builds all that the stages need on the GPU machine: python tests/nvidia/build.py [STAGE...]

Needs clang and ptxas (pip install nvidia-cuda-nvcc-cu12), no GPU. Writes build/nvidia/programs.zip; carry build/nvidia
to the GPU machine with the repository, and run tests/nvidia/stages.py there. Exit status 1 when a program spills
registers, uses a stack or reaches memory through generic addresses. What was built before is not built again.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib
import multiprocessing
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Dict, Iterator, List, NamedTuple, Tuple

from package import ARCHIVE, ROOT, Specialisation, source_digests  # and makes the others known
from stages import STAGES

# isort: split
import race_mutants
import race_target
import timing
from metal_simulator import Library
from metal_simulator.errors import SimulatorError
from metal_simulator.nvidia import archive
from metal_simulator.nvidia.compile import build, max_threads

KERNELS = ROOT / "flash_sdpa"
FOLDERS = (KERNELS, ROOT / "benchmarks" / "nvidia", ROOT / "simulator" / "tests" / "kernels")
ALL_REGISTERS = 256  # most threads that can have 255 registers each, of 65,536


class Job(NamedTuple):
    stage: str
    specialisation: Specialisation
    matrix: str = "exact"
    variant: str = ""  # name of a mutant


@functools.lru_cache(maxsize=None)
def library(source: str, variant: str = "") -> Library:
    if source == timing.PEER:
        import pytorch_attention

        return Library(pytorch_attention.SOURCE, [pytorch_attention.include()])
    folder = next(folder for folder in FOLDERS if (folder / source).exists())
    if not variant:
        return Library(folder / source, [folder, KERNELS])
    mutant = next(mutant for mutant in race_mutants.mutants() if mutant.name == variant)
    with tempfile.TemporaryDirectory() as scratch:
        copy = pathlib.Path(scratch) / "kernels"
        shutil.copytree(folder, copy)
        (copy / mutant.file).write_text(mutant.apply((copy / mutant.file).read_text()))
        made = Library(copy / source, [copy])
        made.declarations  # noqa: B018  read while the folder exists
        return made


def of_mutants(pattern: str) -> Iterator[Job]:
    chosen = [mutant for mutant in race_mutants.mutants() if re.search(pattern, f"{mutant.file}: {mutant.name}")]
    files = {mutant.file for mutant in chosen}
    targets = {file: sorted(race_target.target_specialisations(file)) for file in files}
    return (Job("mutants", s, "exact", m.name) for m in chosen for s in targets[m.file])


def unspecialised(known: List[Specialisation]) -> Iterator[Job]:
    """Every kernel of the sources, with constants set after loading: what a stage falls back on."""
    most = collections.defaultdict(int)
    for s in known:
        for name in (s.source, (s.source, s.kernel)):
            most[name] = max(most[name], s.threads)
    for source in {s.source for s in known}:
        for kernel in library(source).kernels:
            yield Job("any", Specialisation(source, kernel, (), most.get((source, kernel), most[source])))


def jobs(stages: List[str], mutants: str) -> Tuple[List[Job], dict]:
    """What to build, and what the stages must be told."""
    wanted, notes = [], {"sources": source_digests()}
    for stage in stages:
        module = importlib.import_module(stage)
        modes = getattr(module, "MODES", ("exact",))
        wanted += [Job(stage, s, matrix) for s in sorted(module.specialisations()) for matrix in modes]
    wanted += unspecialised([job.specialisation for job in wanted])
    if race_mutants.__name__ in stages:
        wanted += of_mutants(mutants)
    if timing.__name__ in stages:
        notes["peers"] = timing.peers()
        theirs = sorted(timing.peer_specialisations(notes["peers"]))
        wanted += [Job("PyTorch", s, matrix) for s in theirs for matrix in timing.MODES]
    return distinct(wanted), notes


def distinct(wanted: List[Job]) -> List[Job]:
    """One for each program, of the first stage that wants it, for the most threads that its kernel may have: by its
    attribute, else by any launch, whatever the constants."""
    most, found = collections.defaultdict(int), {}
    for s in (job.specialisation for job in wanted):
        most[s.source, s.kernel] = max(most[s.source, s.kernel], s.threads)
    for job in wanted:
        s = job.specialisation
        threads = max_threads(library(s.source), s.kernel) or most[s.source, s.kernel]
        job = job._replace(specialisation=s._replace(threads=threads))
        found.setdefault(job._replace(stage=""), job)
    return list(found.values())


def compiled(job: Job) -> Tuple[archive.Key, object]:
    s = job.specialisation
    program = build(
        library(s.source, job.variant), s.kernel, dict(s.constants), s.threads, job.matrix, bool(job.variant)
    )
    return archive.Key.of(s.source, s.kernel, dict(s.constants), job.matrix, job.variant), program


def complaints(job: Job, resources: Dict[str, int]) -> List[str]:
    """What a program must not have. Where constants are set after loading, which keeps all features at once, or where a
    threadgroup's threads leave fewer than 255 registers to each, it may spill."""
    unwanted = ["generic_accesses"]
    if job.specialisation.constants and job.specialisation.threads <= ALL_REGISTERS:
        unwanted += ["spilled_bytes", "stack_bytes"]
    return [f"{job.specialisation.kernel}: {name} {resources[name]}" for name in unwanted if resources[name]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--mutants", default="", metavar="PATTERN", help="for race_mutants, only those whose FILE: NAME is like this"
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", default=STAGES, help="only for these stages")
    options = parser.parse_args()
    start = time.time()
    wanted, notes = jobs(options.stages, options.mutants)
    counts = collections.Counter(job.stage for job in wanted)
    print(
        f"{len(wanted)} programs: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())), flush=True
    )
    for source in {job.specialisation.source for job in wanted}:
        library(source).declarations  # noqa: B018  read once, and inherited by the processes
    programs = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        for program in pool.map(compiled, wanted, chunksize=8):
            programs.append(program)
            if len(programs) % 50 == 0:
                print(f"  {len(programs)} of {len(wanted)}, {time.time() - start:.0f} s", flush=True)
    archive.write(ARCHIVE, programs, notes)
    found = [
        text
        for job, (_, program) in zip(wanted, programs)
        for text in complaints(job, program.description["resources"])
    ]
    resources = [p.description["resources"] for job, (_, p) in zip(wanted, programs) if job.specialisation.constants]
    if resources:  # `races` has all constants set after loading
        registers, shared = ([r[name] for r in resources] for name in ("registers", "threadgroup_bytes"))
        print(f"registers {min(registers)} to {max(registers)}, at most {max(shared)} bytes of shared memory")
    print(f"{ARCHIVE.relative_to(ROOT)}: {ARCHIVE.stat().st_size / 2**20:.1f} MiB, {time.time() - start:.0f} s")
    for text in found:
        print(f"FAILED: {text}")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SimulatorError as error:
        print(f"build: {error}", file=sys.stderr)
        sys.exit(2)
