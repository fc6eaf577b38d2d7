"""python -m mutants [--json FILE] [--jobs N] [NAME...]: which seeded bugs the checker and the numbers find.

Exit status 1 when one that is not equivalent survives, one is found that should not be, or one is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mutants", description=__doc__.split(":", 1)[1].split("\n")[0].strip()
    )
    parser.add_argument("--json", metavar="FILE", help="write the outcomes there too")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="mutants whose names contain one of these; all by default"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as cache:
        os.environ["METAL_SIMULATOR_CACHE"] = cache  # hundreds of kernels that nobody needs again
        return _report(arguments)


def _report(arguments) -> int:
    from . import MUTANTS
    from .harness import run_all

    chosen = [m for m in MUTANTS if not arguments.names or any(name in m.name for name in arguments.names)]
    outcomes = []
    for outcome in run_all(chosen, arguments.jobs):
        outcomes.append(outcome)
        mutant = outcome.mutant
        found = " + ".join(w for w, by in _finders(outcome) if by) or "-"
        found = "BROKEN" if outcome.broken else found
        words = outcome.broken or outcome.checker or outcome.numbers or outcome.other
        print(f"{mutant.file:24} {mutant.name:38} {found:18} {words}"[:160], flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            rows = [
                {**o.mutant._asdict(), "checker": o.checker, "numbers": o.numbers, "other": o.other} for o in outcomes
            ]
            json.dump(rows, file, indent=1)
    return _summary(outcomes)


def _finders(outcome):
    return (
        ("checker", outcome.checker),
        ("numbers", outcome.numbers),
        (outcome.mutant.expected, outcome.other),
    )


def _summary(outcomes) -> int:
    real = [o for o in outcomes if o.mutant.expected != "equivalent"]
    survivors, wrong = [o for o in real if not o.found], [o for o in outcomes if o not in real and o.found]
    share = 1 - len(survivors) / max(1, len(real))
    print(f"\n{len(outcomes)} mutants, {len(outcomes) - len(real)} of them equivalent; of the other {len(real)}")
    print(f"  found                       {len(real) - len(survivors)} ({share:.1%})")
    print(f"  by the checker alone        {sum(bool(o.checker and not o.numbers) for o in real)}")
    print(f"  by the numbers alone        {sum(bool(o.numbers and not o.checker) for o in real)}")
    print(f"  by both                     {sum(bool(o.numbers and o.checker) for o in real)}")
    print(f"  all by the checker          {sum(bool(o.checker) for o in real)}")
    print(f"  all by the numbers          {sum(bool(o.numbers) for o in real)}")
    print(f"  by the fast-math build, or the strict check, alone {sum(bool(o.other) for o in real)}")
    for outcome in outcomes:
        if not outcome.found:
            print(f"survivor: {outcome.mutant.name}: {outcome.mutant.reason or 'NOT EXPECTED'}")
    for outcome in wrong:
        print(f"equivalent, but found: {outcome.mutant.name}")
    broken = [o.mutant.name for o in outcomes if o.broken]
    for name in broken:
        print(f"BROKEN: {name}")
    return int(bool(survivors or wrong or broken))


if __name__ == "__main__":
    sys.exit(main())
