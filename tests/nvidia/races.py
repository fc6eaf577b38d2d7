"""Stage `races`: compute-sanitizer on every kernel."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Set

import sanitizer
from package import Specialisation

EVERY = ("forward", "backward", "append")
SECONDS = 420


def specialisations() -> Set[Specialisation]:
    """What the kernels are run with."""
    import race_target

    return race_target.specialisations()


def run(archive) -> dict:
    """On the GPU."""
    path, tasks = sanitizer.find(), list(itertools.product(EVERY, sanitizer.TOOLS))
    with ThreadPoolExecutor(len(tasks)) as pool:
        outcomes = list(pool.map(lambda task: sanitizer.watch(path, task[1], SECONDS, task[0]), tasks))
    rows = [
        (f"{tool}, every {kernels} kernel", outcome.found or outcome.broken or "clean")
        for (kernels, tool), outcome in zip(tasks, outcomes)
    ]
    return {"failed": any(told != "clean" for _, told in rows), "rows": rows}
