"""What `make test` leaves to the night."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = """
import pytest

@pytest.mark.nightly
def test_long():
    pass

@pytest.mark.sampled(4)
@pytest.mark.parametrize("problem", range(12))
def test_problems(problem):
    pass

def test_short():
    pass
"""


@pytest.fixture
def collected(tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)

    def collect(*options: str) -> list:
        command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "--rootdir", tmp_path, tmp_path, *options]
        return [
            line.split("::")[1] for line in subprocess.check_output(command, text=True).splitlines() if "::" in line
        ]

    return collect


def test_by_day_a_sample_and_at_night_all(collected):
    names = collected()
    assert names == collected()
    assert "test_short" in names and "test_long" not in names
    problems = [name for name in names if name.startswith("test_problems")]
    assert len(problems) == 3 and problems != [f"test_problems[{i}]" for i in (0, 4, 8)]
    assert len(collected("--nightly")) == 2 + 12
