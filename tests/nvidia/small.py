"""Stage `small`: the tests of the public interface, of dropout, of ranges and of the gradients, on the GPU, within the
bounds that they have everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple, Set

from package import ROOT, Specialisation

TESTS = (
    "attention",
    "features",
    "named_cases",
    "isolation",
    "kv_cache",
    "cache_append",
    "flash_attn_2",
    "merging",
    "padding",
)
TESTS += ("qkv_packed", "dropout", "ranges", "row_softmax")
BACKWARD = ("gradients", "dropout", "chunks", "large")
PROCESSES = 8


class TestRun(NamedTuple):
    passed: int
    failures: list  # names and first lines
    launches: int
    unspecialised: int
    specialisations: Set[Specialisation]
    log: str


def run_tests(mode: str) -> TestRun:
    """The tests by pytest; mode as pytest_nvidia has it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, report = pathlib.Path(scratch), pathlib.Path(scratch) / "report.xml"
        folders = ("simulator", "tools", "tests", "tests/support", "tests/nvidia")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [*(str(ROOT / folder) for folder in folders), os.environ.get("PYTHONPATH", "")]
            ),
            "NVIDIA_TESTS": mode,
            "NVIDIA_TESTS_FOLDER": scratch,
        }
        several = mode == "run" and importlib.util.find_spec("xdist")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_nvidia", "-k", "not cpu", f"--junitxml={report}"]
        command += ["-p", "no:cacheprovider", *(["-n", str(PROCESSES)] if several else [])]
        command += [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS]
        command += [str(ROOT / "tests" / "backward" / f"test_{name}.py") for name in BACKWARD]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        log = done.stdout[-6000:] + done.stderr[-3000:]
        if not report.exists():
            raise RuntimeError(f"pytest did not run:\n{log}")
        cases = list(ElementTree.parse(report).iter("testcase"))
        counts = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    bad = {case.get("name"): node.get("message", "")[:300] for case in cases for node in case if _is_bad(node)}
    skipped = sum(node.tag == "skipped" for case in cases for node in case)
    seen = {
        Specialisation(source, kernel, tuple(map(tuple, constants)), threads)
        for count in counts
        for source, kernel, constants, threads in count["specialisations"]
    }
    sums = (sum(count[name] for count in counts) for name in ("launches", "unspecialised"))
    return TestRun(len(cases) - len(bad) - skipped, sorted(bad.items()), *sums, seen, log)


def _is_bad(node) -> bool:
    return node.tag in ("failure", "error")


def specialisations() -> Set[Specialisation]:
    """What the tests would launch."""
    return run_tests("record").specialisations


def run(_archive) -> dict:
    """On the GPU."""
    done = run_tests("run")
    return {
        "failed": bool(done.failures) or not done.passed or not done.launches,
        "rows": [
            ("tests passed", done.passed),
            ("tests failed", len(done.failures)),
            ("launches", done.launches),
            ("of them with constants set after loading", done.unspecialised),
        ],
        "failures": done.failures,
        "log": done.log if done.failures or not done.passed else "",
    }
