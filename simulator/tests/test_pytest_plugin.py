"""The pytest plugin: findings fail the test that launched."""

import pathlib

import metal_simulator
import pytest

pytest_plugins = ["pytester"]

KERNEL = """
    import numpy as np
    from metal_simulator import Library

    TEXT = '''#include <metal_stdlib>
    kernel void f(device float* out, uint i [[thread_position_in_grid]]) { out[i / SHARE] = i; }'''

    def launch(tmp_path, share, groups=1):
        path = tmp_path / "f.metal"
        path.write_text(TEXT.replace("SHARE", str(share)))
        Library(path).kernel("f").launch([np.zeros(64, np.float32)], (groups, 1, 1), (32, 1, 1))
"""
TESTS = """
    from helper import launch

    def test_right(tmp_path, metal_simulator):
        launch(tmp_path, 1)
        assert metal_simulator.launches == 1

    def test_racing(tmp_path, metal_simulator):
        launch(tmp_path, 2)

    def test_ignoring(tmp_path, metal_simulator):
        launch(tmp_path, 32, groups=2)
        assert {f.kind for f in metal_simulator.findings} == {"race: two writes"}
        metal_simulator.ignore("race")

    def test_unchecked(tmp_path):
        launch(tmp_path, 2)
"""


@pytest.fixture
def project(pytester, monkeypatch):
    simulator = pathlib.Path(metal_simulator.__file__).parent.parent
    monkeypatch.setenv("PYTHONPATH", str(simulator))
    pytester.makepyfile(helper=KERNEL, test_it=TESTS)
    return pytester


def test_findings_fail_the_test(project):
    result = project.runpytest_subprocess("-p", "metal_simulator.pytest_plugin")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*checker found:*", "race: two writes: buffer 0 (out), element 0*f.metal:2*"])


def test_option_checks_every_test(project):
    result = project.runpytest_subprocess("-p", "metal_simulator.pytest_plugin", "--metal-check")
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*FAILED*test_unchecked*"])
