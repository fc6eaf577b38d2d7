"""tools/reports.py: what it takes for a report of the self-test, and the table of chips."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
from stage import ROOT

import reports


@pytest.fixture(scope="module")
def of_cpu(kernel):
    return kernel.selftest.run(count=3, timed=False, print_line=lambda line: None)


@pytest.fixture
def report(of_cpu):
    """As a Mac would send it."""
    found = copy.deepcopy(of_cpu)
    found["machine"] |= {"gpu": "Apple M9", "cores": 10, "os": "macOS 26.2"}
    launcher = found["launchers"]["run-time"] = found["launchers"].pop("CPU implementation")
    launcher["timings"] = {
        "one": {"ours_ms": 2.0, "sdpa_ms": 5.0, "error": 0.1},
        "two": {"ours_ms": 2.0, "sdpa_ms": 3.0, "error": 0.1},
        "three": {"ours_ms": 1.0, "sdpa_ms": 4.0, "error": 0.1},
        "no SDPA": {"ours_ms": 1.0, "sdpa_ms": None, "error": 0.1},
        "failed": {"failed": "RuntimeError"},
    }
    return found


def test_a_row(report):
    [row] = reports.rows(reports.report_in(json.dumps(report)))
    cells = [cell.strip() for cell in row.strip("|\n ").split("|")]
    assert cells[:3] == ["Apple M9", "10", "macOS 26.2"] and cells[4:7] == ["run-time", "3", "yes"]
    assert cells[8] == "2.50, 1.50" and len(cells) == reports.HEADER.splitlines()[0].count("|") - 1


def test_an_issue_has_it_in_a_block(report):
    text = f"### selftest.json\n\n```json\n{json.dumps(report, indent=1)}\n```\n\n### Anything else\n\n_No response_"
    assert reports.report_in(text) == report


def test_what_failed_is_told(report):
    launcher = report["launchers"]["run-time"]
    next(iter(launcher["groups"].values()))["failed"] = 1
    launcher["passed"] = False
    assert "| NO: 1 failed |" in reports.rows(report)[0]


def test_a_report_of_the_cpu_is_none_of_a_chip(of_cpu):
    with pytest.raises(reports.BadReport, match="a report of the CPU implementation"):
        reports.report_in(json.dumps(of_cpu))


def change(*path, to):
    def apply(report):
        for key in path[:-1]:
            report = report[key] if key else next(iter(report.values()))
        report[path[-1]] = to

    return apply


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (change("format", to=2), "format must be 1, got 2"),
        (change("machine", to=[]), "machine must be an object, got list"),
        (change("machine", "torch", to=3), "machine.torch must be a string, got 3"),
        (change("launchers", to={}), "launchers is empty"),
        (change("launchers", "run-time", "groups", to={}), "no problem was solved"),
        (change("launchers", "run-time", "groups", "", "failed", to="0"), "failed must be a number"),
        (change("launchers", "run-time", "groups", "", "problems", to=True), "problems must be a number"),
        (change("launchers", "run-time", "timings", "one", "ours_ms", to=-1), "ours_ms must be a number"),
        (change("launchers", "run-time", "timings", "one", "sdpa_ms", to=float("nan")), "sdpa_ms must be a number"),
        (change("passed", to="yes"), "passed must be true or false"),
    ],
)
def test_what_is_no_whole_report(report, spoil, reason):
    spoil(report)
    with pytest.raises(reports.BadReport, match=reason):
        reports.report_in(json.dumps(report))


@pytest.mark.parametrize("text", ["", "no report", "```json\n{\n```", "[" * 10**5, "1" * (2**20 + 1)])
def test_what_is_no_json(text):
    with pytest.raises(reports.BadReport):
        reports.report_in(text)


def test_a_cell_is_text_and_nothing_else(report):
    report["machine"]["gpu"] = "x | y\n| <img src=a> [link](http://b) `" + "z" * 500
    [row] = reports.rows(report)
    assert row.count("|") == reports.HEADER.splitlines()[0].count("|") and row.count("\n") == 1
    assert not set("<>[]`") & set(row) and len(row) < 400


def test_the_page_is_made_from_the_reports():
    assert reports.PAGE.read_text() == reports.table(ROOT / "reports"), "python tools/reports.py table"


def test_a_table_of_two(report, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(report))
    report["machine"]["gpu"] = "Apple M1"
    (tmp_path / "two.json").write_text(json.dumps(report))
    page = reports.table(tmp_path)
    assert page.index("| Apple M1 |") < page.index("| Apple M9 |") and reports.NONE not in page
    (tmp_path / "three.json").write_text("{}")
    with pytest.raises(reports.BadReport, match="three.json: format must be 1"):
        reports.table(tmp_path)


def test_the_command(report):
    command = [sys.executable, str(ROOT / "tools" / "reports.py"), "check", "-"]
    good = subprocess.run(command, input=json.dumps(report), capture_output=True, text=True, check=False)
    assert good.returncode == 0 and "Apple M9" in good.stdout and "Everything is right." in good.stdout
    bad = subprocess.run(command, input="{}", capture_output=True, text=True, check=False)
    assert bad.returncode == 1 and bad.stdout == "not a whole report: format must be 1, got None\n"
