"""python -m metal_flash_sdpa.selftest: exits with status 1 if anything is wrong."""

from __future__ import annotations

import argparse
import pathlib
import sys

from . import run, tuning


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
        "--report", type=pathlib.Path, default=pathlib.Path("selftest.json"), help="default: selftest.json"
    )
    parser.add_argument(
        "--tune", action="store_true", help="time the candidates for each tile, and keep the winners for this machine"
    )
    options = parser.parse_args()
    try:
        if options.tune:
            tuning.tune(print_line=_print_line)
        report = run(options.count, options.seed, not options.no_timing, options.report)
    except (RuntimeError, OSError) as error:
        print(f"selftest: {error}", file=sys.stderr)
        return 2
    print(f"report: {options.report} (paste it into an issue)")
    return 0 if report["passed"] else 1


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
