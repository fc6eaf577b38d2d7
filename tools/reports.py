"""Reports of the self-test: check one, or make the table of chips.

    python tools/reports.py check FILE     exit status 1, with the reasons, for what is no whole report
    python tools/reports.py table          write docs/chips.md from reports/*.json

FILE may be selftest.json, the text of an issue that has it in a block ```json, or - for stdin.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "chips.md"
LARGEST = 2**20  # characters of a report
MACHINE = {"os": str, "machine": str, "python": str, "torch": str, "build": str}
INTRODUCTION = """\
# What self-tests found on Apple GPUs

Made from `reports/*.json` by `python tools/reports.py table`. Level: Apple GPU, as told by the people who ran it. To
add yours, run the self-test ([README](../README.md)) and open an issue with the form "Self-test report".

"""
NONE = "No report has come yet: nothing here was ever run on an Apple GPU.\n"
HEADER = """\
| chip | cores | macOS | torch | launcher | problems | right | largest error | times faster than SDPA (median, least) |
|---|---|---|---|---|---|---|---|---|
"""


class BadReport(ValueError):
    """What is wrong with a report, in a line."""


def report_in(text: str) -> dict:
    """The report in the text of a file or an issue. Raises BadReport."""
    if len(text) > LARGEST:
        raise BadReport(f"the report has {len(text)} characters; at most {LARGEST} are read")
    block = re.search(r"```json\s*\n(.*?)\n```", text, re.DOTALL)
    try:
        report = json.loads(block[1] if block else text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadReport(f"no JSON: {error}") from None
    _check(report)
    return report


def _check(report: object) -> None:
    """Raises BadReport unless it is a whole report of an Apple GPU."""
    fields = _object(report, "the report")
    if fields.get("format") != 1:
        raise BadReport(f"format must be 1, got {fields.get('format')!r}")
    machine = _object(fields.get("machine"), "machine")
    for name, kind in MACHINE.items():
        if not isinstance(machine.get(name), kind):
            raise BadReport(f"machine.{name} must be a string, got {machine.get(name)!r}")
    if not isinstance(machine.get("gpu"), str):
        raise BadReport("machine.gpu is missing: this is a report of the CPU implementation")
    launchers = _object(fields.get("launchers"), "launchers")
    if not launchers:
        raise BadReport("launchers is empty: nothing was tested")
    for name, launcher in launchers.items():
        _check_launcher(_object(launcher, f"launchers.{name}"), f"launchers.{name}")
    if not isinstance(fields.get("passed"), bool):
        raise BadReport(f"passed must be true or false, got {fields.get('passed')!r}")


def _check_launcher(launcher: dict, where: str) -> None:
    groups = _object(launcher.get("groups"), f"{where}.groups")
    if not groups:
        raise BadReport(f"{where}.groups is empty: no problem was solved")
    for name, group in groups.items():
        for field in ("problems", "failed", "output_error"):
            _number(_object(group, f"{where}.groups.{name}").get(field), f"{where}.groups.{name}.{field}")
    for name, timing in _object(launcher.get("timings"), f"{where}.timings").items():
        if "failed" not in _object(timing, f"{where}.timings.{name}"):
            _number(timing.get("ours_ms"), f"{where}.timings.{name}.ours_ms")
            if timing.get("sdpa_ms") is not None:
                _number(timing["sdpa_ms"], f"{where}.timings.{name}.sdpa_ms")


def _object(value: object, where: str) -> dict:
    if not isinstance(value, dict):
        raise BadReport(f"{where} must be an object, got {type(value).__name__}")
    return value


def _number(value: object, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise BadReport(f"{where} must be a number that is not negative, got {value!r}")


def rows(report: dict) -> list[str]:
    """One row of the table for each launcher."""
    machine, lines = report["machine"], []
    for name, launcher in report["launchers"].items():
        groups = launcher["groups"].values()
        ratios = sorted(
            timing["sdpa_ms"] / timing["ours_ms"]
            for timing in launcher["timings"].values()
            if timing.get("sdpa_ms") and timing.get("ours_ms")
        )
        compared = f"{ratios[len(ratios) // 2]:.2f}, {ratios[0]:.2f}" if ratios else "-"
        problems, failed = (sum(group[field] for group in groups) for field in ("problems", "failed"))
        error = max(group["output_error"] for group in groups)
        cells = machine["gpu"], machine.get("cores", "?"), machine["os"], machine["torch"], name
        state = "yes" if launcher.get("passed") is True else f"NO: {failed} failed"
        line = [*cells, problems, state, f"{error:.2f} of what is allowed", compared]
        lines.append("| " + " | ".join(re.sub(r"[|\s`<>\[\]]+", " ", str(cell)).strip()[:80] for cell in line) + " |\n")
    return lines


def table(folder: Path) -> str:
    """The page. Raises BadReport, with the file's name, for a file that is no report."""
    lines = []
    for path in sorted(folder.glob("*.json")):
        try:
            lines += rows(report_in(path.read_text(encoding="utf-8")))
        except BadReport as error:
            raise BadReport(f"{path.name}: {error}") from None
    return INTRODUCTION + (HEADER + "".join(sorted(lines)) if lines else NONE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Reports of the self-test.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="say whether a report is whole").add_argument("file")
    commands.add_parser("table", help="write docs/chips.md from reports/*.json")
    options = parser.parse_args()
    try:
        if options.command == "table":
            PAGE.write_text(table(ROOT / "reports"), encoding="utf-8")
            return 0
        text = sys.stdin.read() if options.file == "-" else Path(options.file).read_text(encoding="utf-8")
        report = report_in(text)
    except (BadReport, OSError, UnicodeDecodeError) as error:
        print(f"not a whole report: {error}")
        return 1
    print("".join([HEADER, *rows(report)]), end="")
    print("\nEverything is right." if report["passed"] else "\nNOT everything is right.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
