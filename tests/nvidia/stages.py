"""Runs the same .metal kernels on an NVIDIA GPU: python tests/nvidia/stages.py [--json FILE] [STAGE...]

Stages: small, fuzz, gradients, long, long_gradients, huge, huge_bias, races, race_mutants, timing, backward_timing; all
by default.
Needs torch with CUDA, and build/nvidia by build.py. Prints a table last; exit status 1 when a stage failed, 2 when it
could not start.

A truth about correctness at scale. About speed it is only a hint: another machine runs these kernels.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import platform
import sys
import time
import traceback

from package import ARCHIVE, source_digests  # and makes the others known

# isort: split
from metal_simulator.nvidia.archive import Archive

STAGES = (
    "small",
    "fuzz",
    "gradients",
    "long",
    "long_gradients",
    "huge",
    "huge_bias",
    "races",
    "race_mutants",
    "timing",
    "backward_timing",
)


def machine() -> dict:
    import torch

    return {
        "gpu": torch.cuda.get_device_name(0),
        "driver": torch.cuda.driver_version() if hasattr(torch.cuda, "driver_version") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def run(stage: str, archive: Archive) -> dict:
    """The stage's result: "failed", "rows" of the table, and what else it wants kept."""
    start = time.time()
    try:
        result = importlib.import_module(stage).run(archive)
    except Exception as error:
        result = {"failed": True, "rows": [("did not run", f"{type(error).__name__}: {error}"[:2000])]}
        traceback.print_exc()
    result["seconds"] = round(time.time() - start, 1)
    return result


def print_table(results: dict) -> None:
    for stage, result in results.items():
        state = "FAILED" if result["failed"] else "passed"
        print(f"\n{stage:16} {state}, {result['seconds']} s")
        for name, *values in result["rows"]:
            print(
                f"  {name:60} " + " ".join(f"{value:>12}" if not isinstance(value, str) else value for value in values)
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    unknown = [stage for stage in options.stages if stage not in STAGES]
    if unknown:
        parser.error(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    try:
        about, archive = machine(), Archive(ARCHIVE)
    except FileNotFoundError as error:
        print(f"stages: run tests/nvidia/build.py first: {error}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError, AssertionError) as error:
        print(f"stages: no CUDA GPU for torch here: {error}", file=sys.stderr)
        return 2
    if archive.notes["sources"] != source_digests():
        print(f"stages: {ARCHIVE} was built from other .metal files: build it again", file=sys.stderr)
        return 2
    results = {}
    for stage in options.stages or STAGES:
        print(f"stage {stage} ...", flush=True)
        results[stage] = run(stage, archive)
        for failure in results[stage].get("failures", [])[:20]:
            print("FAILURE", failure)
        if options.json:
            options.json.write_text(json.dumps({"machine": about, "stages": results}, indent=1) + "\n")
    print("\n" + ", ".join(f"{name} {value}" for name, value in about.items()))
    print_table(results)
    return int(any(result["failed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
