"""python -m expressions [--programs N] [--seed S]: random Metal programs beside NumPy.

Program k of seed S is always the same. What fails is made as small as it gets, and printed with what was expected and
found. Exit status: 0 when all programs are right, 1 for faults.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time

from . import functions, known, operators, statements  # noqa: F401  (each adds its productions)
from .generator import Generator
from .program import Program, written
from .runner import Outcome, run, scratch_cache
from .shrink import needed, shrunk, signature
from .tree import kinds
from .types import words


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m expressions", description=__doc__.split("\n")[0].split(": ")[1])
    parser.add_argument("--programs", type=int, default=2000, metavar="N")
    parser.add_argument("--seed", default="0", metavar="S")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first program")
    parser.add_argument("--batch", type=int, default=100, metavar="N", help="programs in one Metal file")
    parser.add_argument("--known-faults", action="store_true", help="make programs with faults that are known, too")
    parser.add_argument("--details", type=int, default=3, metavar="N", help="failures of one message to make smaller")
    parser.add_argument("--json", metavar="FILE", help="write the small programs there")
    with scratch_cache():
        return _search(parser.parse_args())


def programs(seed: str, first: int, count: int, avoid) -> list[Program]:
    return [written(Generator(f"{seed} {k}", avoid).program()) for k in range(first, first + count)]


def _search(options) -> int:
    avoid = known.nothing_is_known if options.known_faults else known.is_known_fault
    started, counts, used, seen, shown = time.monotonic(), collections.Counter(), collections.Counter(), {}, []
    last = options.first + options.programs
    for first in range(options.first, last, options.batch):
        batch = programs(options.seed, first, min(options.batch, last - first), avoid)
        outcomes = run(batch)
        for k, (program, outcome) in enumerate(zip(batch, outcomes)):
            counts[outcome.kind] += 1
            used.update(kinds(program.tree))
            wanted = signature(outcome)
            seen[wanted] = seen.get(wanted, 0) + 1
            if outcome.kind != "right" and seen[wanted] <= options.details * (1 if outcome.kind == "refused" else 8):
                shown.append(_explained(batch, k, outcome, avoid, f"--seed {options.seed} --first {first + k}"))
        minutes = (time.monotonic() - started) / 60
        print(f"{sum(counts.values())} programs, {minutes:.1f} minutes, {dict(counts)}", flush=True)
        if options.json:
            with open(options.json, "w") as file:
                json.dump({"counts": counts, "messages": seen, "kinds": used, "faults": shown}, file, indent=1)
    return int(any(kind != "right" for kind in counts))


def _explained(batch, k: int, outcome: Outcome, avoid, where: str) -> dict:
    """Prints one failure as a small program, and returns it as data."""
    program, beside = batch[k], []
    alone = run([program])[0]
    if alone.kind == "right":
        beside = needed(program, batch[:k] + batch[k + 1 :], signature(outcome))
    else:
        program, outcome = shrunk(program, alone, avoid)
    lane = 0
    found = []
    if outcome.kind == "differs":
        found = outcome.found.tolist()
        expected = words(program.type, program.expected)
        lane = next(i for i in range(len(expected)) if found[i] != expected[i].tolist())
        found = found[lane]
    case = {
        "where": where,
        "kinds": sorted(kinds(program.tree)),
        "text": program.shown,
        "type": str(program.type),
        "arguments": {a.name: [str(a.type), a.values[lane].tolist()] for a in program.arguments},
        "expected": program.expected[lane].tolist(),
        "outcome": outcome.kind,
        "message": outcome.message.splitlines()[0] if outcome.message else "",
        "found": found,
        "beside": [other.shown for other in beside[:3]],
    }
    print(f"\n{where}: {outcome.kind} {case['message']}\n{program.shown}")
    print("with " + ", ".join(f"{name} = {values}" for name, (_, values) in case["arguments"].items()))
    print(f"expected {case['expected']}, found {found}" + (f"\nonly beside:\n{case['beside']}" if beside else ""))
    print(f"kinds {case['kinds']}\n", flush=True)
    return case


if __name__ == "__main__":
    sys.exit(main())
