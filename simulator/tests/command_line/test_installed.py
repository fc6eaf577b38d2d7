"""`pip install` of the package into a clean environment: what it holds, and that it runs there."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest
from metal_simulator import __version__

PROJECT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Packed from a copy, as setuptools leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    generated = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(PROJECT, folder / "source", ignore=generated)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"]
    subprocess.run(line, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_whole(wheel):
    assert wheel.name == f"metal_simulator-{__version__}-py3-none-any.whl"
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}
    files = [path for path in (PROJECT / "metal_simulator").rglob("*") if path.is_file()]
    assert packed == {str(path.relative_to(PROJECT)) for path in files if "__pycache__" not in path.parts}


def test_a_clean_environment(wheel, tmp_path):
    venv.create(tmp_path / "environment", with_pip=True)
    programs = tmp_path / "environment" / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", wheel], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    guide = (PROJECT / "README.md").read_text().split("`scale.metal`:\n\n")[1].split("\n\nOn the command line")[0]
    (tmp_path / "scale.metal").write_text("".join(f"{line[4:]}\n" for line in guide.splitlines()))
    launch = ["scale.metal", "scale", "x:half[100]=random", "out:half[100]=zeros", "count:uint=100"]
    launch += ["--grid", "4", "--threads", "32", "--constant", "factor=2.0", "--json", "-"]

    def run(*line):
        done = subprocess.run([programs / line[0], *line[1:]], cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    assert run("metal-simulator", "check", "scale.metal", "--json", "-") == {"diagnostics": []}
    assert run("python", "-m", "metal_simulator", "run", *launch)["findings"] == []
    assert run("metal-simulator", "report", *launch)["profile"]["kernel"] == "scale"
