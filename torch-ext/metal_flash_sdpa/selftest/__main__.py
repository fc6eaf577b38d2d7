"""python -m metal_flash_sdpa.selftest: exits with status 1 if anything is wrong."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys

from . import display, run, tuning


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m metal_flash_sdpa.selftest", description="Tests and times the attention kernels on this machine."
    )
    parser.add_argument("--count", type=_count, default=300, help="random problems for each launcher; default: 300")
    parser.add_argument("--seed", type=int, default=0, help="of the random problems; default: 0")
    parser.add_argument("--no-timing", action="store_true", help="leave out the times of the standard shapes")
    parser.add_argument(
        "--report", type=pathlib.Path, help="the file for the report; default: selftest.json, with --json none"
    )
    parser.add_argument("--json", action="store_true", help="print the report, and nothing else, to stdout")
    parser.add_argument(
        "--tune", action="store_true", help="time the candidates for each tile, and keep the winners for this machine"
    )
    options = parser.parse_args()
    path = options.report or (None if options.json else pathlib.Path("selftest.json"))
    try:
        if options.tune:
            tuning.tune(print_line=display.Show())
        report = run(options.count, options.seed, not options.no_timing, path)
    except (RuntimeError, OSError) as error:
        print(f"selftest: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nselftest: interrupted, there is no report", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        is_wanted = report["machine"]["gpu"] is not None
        print(f"  report: {path}{' (please paste it into an issue)' if is_wanted else ''}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
