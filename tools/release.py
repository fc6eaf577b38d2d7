"""The dry run of a release, and what its workflow publishes: `make release-check`.

    dist/release/flash-sdpa-metal/*.whl   the pure-Python wheel
    dist/release/metal-simulator/*.whl    the simulator's
    dist/release/notes.md                 the version's section of CHANGELOG.md

Exits with status 1 when version, build.toml, CHANGELOG.md and tag disagree, when metadata that the package index shows
is missing, or when a wheel does not work in a new environment. docs/releasing.md has the steps of a release.
"""

from __future__ import annotations

import argparse
import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple, Optional

import torch
from stage import ROOT, python_name
from wheel import DISTRIBUTION, version_of, write_wheel

SIMULATOR = "metal-simulator"
UNRELEASED = "Not released yet."
FIELDS = ("Version", "Summary", "Requires-Python", "Requires-Dist")
CALL = """
import torch, metal_flash_sdpa
query = torch.randn(2, 9, 4, 32)
expected = torch.nn.functional.scaled_dot_product_attention(*(query.transpose(1, 2),) * 3, is_causal=True)
output = metal_flash_sdpa.flash_attn_func(query, query, query, causal=True)
assert (output - expected.transpose(1, 2)).abs().max() < 1e-5
"""
LAUNCH = """
import pathlib, numpy, metal_simulator
pathlib.Path("double.metal").write_text('''#include <metal_stdlib>
kernel void twice(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { x[i] *= 2; }
''')
x = numpy.arange(32, dtype=numpy.float32)
metal_simulator.Library("double.metal").kernel("twice").launch([x], grid=(1, 1, 1), threads=(32, 1, 1))
assert (x == 2 * numpy.arange(32)).all()
"""


class Wheel(NamedTuple):
    """A wheel, the distribution that it must be of, and a program that uses it."""

    path: Path
    distribution: str
    program: str


def changes(root: Path, version: str) -> str:
    """The text below the heading of `version` in CHANGELOG.md; empty if there is no such heading."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## (\S+)\n", text, flags=re.MULTILINE)
    return dict(zip(sections[1::2], sections[2::2])).get(version, "").strip()


def disagreements(root: Path, tag: Optional[str]) -> list[str]:
    """Where build.toml, CHANGELOG.md and `tag`, if there is one, differ from `__version__`."""
    build = tomllib.loads((root / "build.toml").read_text(encoding="utf-8"))
    version = version_of(root / "torch-ext" / python_name(build))
    found = []
    if version.split(".")[0] != str(build["general"]["version"]):
        found.append(f"build.toml: version must be the first number of {version}, got {build['general']['version']}")
    section = changes(root, version)
    if not section.removeprefix(UNRELEASED).strip():
        found.append(f"CHANGELOG.md: the section of {version} is missing or empty")
    if tag is not None and tag != f"v{version}":
        found.append(f"--tag must be v{version}, as __version__ says, got {tag!r}")
    if tag is not None and section.startswith(UNRELEASED):
        found.append(f"CHANGELOG.md: {version} has a tag, but the section says: {UNRELEASED}")
    return found


def build_wheels(destination: Path, root: Path = ROOT) -> list[Wheel]:
    """Build both wheels, each in a folder of its own, as each is published by itself."""
    simulator = destination / SIMULATOR
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(simulator)]
    subprocess.run([*command, str(root / "simulator")], check=True)
    [simulators] = simulator.glob("*.whl")
    return [
        Wheel(write_wheel(destination / DISTRIBUTION, root), DISTRIBUTION, CALL),
        Wheel(simulators, SIMULATOR, LAUNCH),
    ]


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        return email.message_from_bytes(archive.read(name))


def metadata_problems(wheel: Wheel) -> list[str]:
    """What the page of the package index would lack."""
    found, name = metadata(wheel.path), wheel.path.name
    problems = [f"{name}: {field} is missing" for field in FIELDS if not found[field]]
    if found["Name"] != wheel.distribution:
        problems.append(f"{name}: Name must be {wheel.distribution}, got {found['Name']}")
    if not (found["License-Expression"] or found["License"]):
        problems.append(f"{name}: the licence is missing")
    if found["Description-Content-Type"] != "text/markdown" or not str(found.get_payload()).startswith("# "):
        problems.append(f"{name}: the description must be Markdown with a title")
    return problems


def does_not_work(wheel: Wheel, dependencies: bool) -> list[str]:
    """Install the wheel in a new environment and run its program there, away from the sources and user settings.

    Its dependencies are installed, too, or, as torch is large, found where this Python has them.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "environment", "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python.parents[1])], check=True)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", str(wheel.path)]
        subprocess.run([*command, *([] if dependencies else ["--no-deps", "--no-index"])], env=clean, check=True)
        if not dependencies:
            [packages] = python.parents[1].glob("lib/python*/site-packages")
            (packages / "dependencies.pth").write_text(str(Path(torch.__file__).parents[1]))
        command = [str(python), "-I", "-c", wheel.program]
        result = subprocess.run(command, env=clean, cwd=folder, stderr=subprocess.PIPE, text=True)
    return [f"{wheel.path.name}: does not work\n{result.stderr}"] if result.returncode else []


def main() -> int:
    parser = argparse.ArgumentParser(description="Build both wheels of a release and check what Linux can check.")
    parser.add_argument("destination", nargs="?", type=Path, default=ROOT / "dist" / "release", help="is made anew")
    parser.add_argument("--tag", help="of the release: must be v and the version, which CHANGELOG.md calls released")
    parser.add_argument("--dependencies", action="store_true", help="install torch and NumPy with the wheels")
    options = parser.parse_args()
    if found := disagreements(ROOT, options.tag):
        print(*found, sep="\n", file=sys.stderr)
        return 1
    shutil.rmtree(options.destination, ignore_errors=True)
    for wheel in build_wheels(options.destination):
        found += metadata_problems(wheel) or does_not_work(wheel, options.dependencies)
        print(f"[loader] {wheel.path.name}: {'not right' if found else 'built, installed and used'}")
    version = version_of(ROOT / "torch-ext" / "metal_flash_sdpa")
    (options.destination / "notes.md").write_text(changes(ROOT, version) + "\n", encoding="utf-8")
    print(*found, f"[loader] release {version}: {len(found) or 'no'} problems", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
