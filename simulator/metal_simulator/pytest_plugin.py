"""Findings of the checker as test failures.

def test_kernel(metal_simulator):            # this test's launches are checked
    kernel.launch(...)                       # a finding fails the test, wherever it was launched

pytest --metal-check                         # so are those of every test
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Iterator, List, Tuple

import pytest

from .checker.findings import Finding
from .library import Kernel


class CheckedLaunches:
    """The launches of a test. findings: what they found, apart from what the test ignores."""

    def __init__(self) -> None:
        self.launches = 0
        self._findings: List[Finding] = []
        self._ignored: Tuple[str, ...] = ()

    def ignore(self, *kinds: str) -> None:
        """Findings whose kind starts with one of these are no failure: "race between threadgroups", for instance."""
        self._ignored += kinds

    @property
    def findings(self) -> List[Finding]:
        return [finding for finding in self._findings if not finding.kind.startswith(self._ignored)]

    def record(self, report) -> None:
        self.launches += 1
        self._findings += report.findings


@contextlib.contextmanager
def checked_launches() -> Iterator[CheckedLaunches]:
    """Inside it every launch is checked, and its findings are kept."""
    checked, original = CheckedLaunches(), Kernel.launch
    signature = inspect.signature(original)

    @functools.wraps(original)
    def launch(*arguments, **keywords):
        bound = signature.bind(*arguments, **keywords)
        bound.arguments["check"] = True
        report = original(*bound.args, **bound.kwargs)
        checked.record(report)
        return report

    Kernel.launch = launch
    try:
        yield checked
    finally:
        Kernel.launch = original


_CHECKED = pytest.StashKey[CheckedLaunches]()


def pytest_addoption(parser) -> None:
    parser.addoption("--metal-check", action="store_true", help="check every launch of the Metal simulator")


def pytest_collection_modifyitems(config, items) -> None:
    for item in items if config.getoption("--metal-check") else ():
        if "metal_simulator" not in getattr(item, "fixturenames", ["metal_simulator"]):
            item.fixturenames.insert(0, "metal_simulator")


@pytest.fixture
def metal_simulator(request) -> Iterator[CheckedLaunches]:
    """Checks this test's launches; findings fail it."""
    with checked_launches() as checked:
        request.node.stash[_CHECKED] = checked
        yield checked


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    outcome = yield
    checked = item.stash.get(_CHECKED, None)
    if checked and checked.findings and outcome.excinfo is None:
        text = "\n".join(map(str, checked.findings))
        outcome.force_exception(pytest.fail.Exception(f"the Metal simulator's checker found:\n{text}", pytrace=False))
