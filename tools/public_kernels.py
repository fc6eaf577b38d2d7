"""Measure the simulator on a folder of other people's Metal files: what the strict check accepts, and what compiles.

    python tools/public_kernels.py FOLDER --json before.json
    python tools/public_kernels.py FOLDER --before before.json     # names what was lost since; status 1 if anything was

FOLDER holds a folder for each project. Headers are looked up in every folder from a file's own up to its project's, and
in the folders include/ of those. The simulator is the one on PYTHONPATH, so that another commit's can be measured.
docs/public-kernels.md holds results.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metal_simulator import Library
from metal_simulator.errors import SimulatorError

UNSET = "has no value, and the kernel uses it"  # said of a kernel that has compiled, but for function constants' values


def measure(file: Path, project: Path, sample: int) -> dict:
    """What becomes of one file.

    "errors": of the strict check; "kernels": how many are found; "compiled" and "refused" (with the reason): names out
    of a sample of at most so many kernels, evenly spaced.
    """
    above = [folder for folder in file.parents if folder == project or project in folder.parents]
    include = [*above, *(folder / "include" for folder in above if (folder / "include").is_dir())]
    result: dict[str, Any] = {"errors": [], "kernels": 0, "compiled": [], "refused": {}}
    try:
        library = Library(file, include)
        result["errors"] = [str(found) for found in library.check() if found.severity == "error"]
        names = library.kernels
    except Exception as error:  # a crash of the simulator is a result, too
        result["errors"].append(_words(error))
        return result
    result["kernels"] = len(names)
    for name in names[:: max(1, -(-len(names) // sample))]:
        reason = _refusal(library, name)
        if reason is None:
            result["compiled"].append(name)
        else:
            result["refused"][name] = reason
    return result


def _refusal(library: Library, name: str) -> str | None:
    try:
        library.kernel(name)
    except SimulatorError as error:
        return None if UNSET in str(error) else _words(error)
    except Exception as error:
        return _words(error)
    return None


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def totals(results: Iterable[dict], seconds: float) -> dict:
    """A row of the table."""
    results = list(results)
    compiled = sum(len(result["compiled"]) for result in results)
    return {
        "files": len(results),
        "accepted": sum(not result["errors"] for result in results),
        "kernels": sum(result["kernels"] for result in results),
        "tried": compiled + sum(len(result["refused"]) for result in results),
        "compiled": compiled,
        "seconds": round(seconds),
    }


def lost(before: dict, after: dict) -> list[str]:
    """What the earlier results have and the later ones lack, a line each."""
    lines = []
    for path, old in before.items():
        new = after.get(path)
        if new is None:
            lines.append(f"{path}: not measured")
            continue
        if new["errors"] and not old["errors"]:
            lines.append(f"{path}: {new['errors'][0]}")
        if new["kernels"] < old["kernels"]:
            lines.append(f"{path}: {new['kernels']} kernels, {old['kernels']} before")
        lines += [
            f"{path}: {name}: {new['refused'].get(name, 'not tried')}"
            for name in old["compiled"]
            if name not in new["compiled"]
        ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the simulator on a folder of public Metal files.")
    parser.add_argument("folder", type=Path, help="a folder for each project")
    parser.add_argument("--kernels", type=int, default=2, metavar="N", help="to compile of each file; default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, file by file")
    parser.add_argument("--before", type=Path, metavar="FILE", help="earlier results to compare with")
    options = parser.parse_args()
    projects = {project: sorted(project.rglob("*.metal")) for project in sorted(options.folder.resolve().iterdir())}
    if options.kernels < 1 or not any(projects.values()):
        parser.error(f"need a positive number of kernels and .metal files, got {options.kernels} and {options.folder}")
    row = "{:36} {files:>6} {accepted:>9} {kernels:>8} {tried:>6} {compiled:>9} {seconds:>8}"
    print(row.format("project", **{name: name for name in totals([], 0)}))
    results: dict[str, dict] = {}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:  # none of an earlier run: times are those of a first call
        os.environ["METAL_SIMULATOR_CACHE"] = cache
        for project, files in projects.items():
            begun = time.monotonic()
            found = {str(file.relative_to(project.parent)): measure(file, project, options.kernels) for file in files}
            print(row.format(project.name, **totals(found.values(), time.monotonic() - begun)), flush=True)
            results |= found
    print(row.format("all", **totals(results.values(), time.monotonic() - started)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    missing = lost(json.loads(options.before.read_text()), results) if options.before else []
    print(*missing, sep="\n", end="\n" if missing else "")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
