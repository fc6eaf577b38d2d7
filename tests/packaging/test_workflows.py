"""The workflows pass their linter, which finds mistakes; what they run exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import mac
import pytest
from metal_simulator.toolchain import clang

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


def lint(folder: Path) -> subprocess.CompletedProcess:
    zizmor = Path(sys.executable).parent / "zizmor"
    command = [zizmor, "--offline", "--no-config", "--format", "plain", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_linter_finds_nothing() -> None:
    assert lint(WORKFLOWS).returncode == 0, lint(WORKFLOWS).stdout


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"checkout@[0-9a-f]{40} # v7.0.1", "checkout@v7", "unpinned-uses"),
        (r"permissions:\n      contents: read", "permissions: write-all", "excessive-permissions"),
        (r"persist-credentials: false", "fetch-depth: 1", "artipacked"),
        (r'"\$GITHUB_REF_NAME"', '"${{ github.ref_name }}"', "template-injection"),
    ],
)
def test_the_linter_finds_a_mistake(tmp_path: Path, old: str, new: str, rule: str) -> None:
    folder = tmp_path / ".github" / "workflows"
    shutil.copytree(WORKFLOWS, folder)
    text, count = re.subn(old, lambda _: new, (folder / "release.yml").read_text())
    assert count
    (folder / "release.yml").write_text(text)
    result = lint(folder)
    assert result.returncode != 0 and rule in result.stdout


def test_apple_s_compiler_is_asked_at_every_push_and_pull_request() -> None:
    text = (WORKFLOWS / "test.yml").read_text()
    assert re.search(r"^on:\n  push:\n  pull_request:\n\n", text, re.MULTILINE)  # whatever the branch or the files
    job = text.partition("\n  mac:\n")[2]
    for line in ("runs-on: macos-26", "timeout-minutes: 30", "run: make mac PYTHON=python"):
        assert job.count(f"    {line}\n") == 1, line
    assert not re.search(r"continue-on-error|secrets\.|^    if:", job, re.MULTILINE)
    written = re.search(r"(?m)^ *path: (\S+)$", job)[1]
    assert mac.REPORT == ROOT / written


def test_without_a_mac_the_command_says_so(tmp_path: Path) -> None:
    command = ["make", "-C", str(ROOT), "mac", f"ENVIRONMENT={tmp_path / 'environment'}"]
    result = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "make mac: this needs a Mac with Xcode 26; elsewhere, make check" in result.stderr
    assert not (tmp_path / "environment").exists()  # nothing is set up in vain


def test_what_they_run_exists() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS.glob("*.yml"))
    files = set(re.findall(r"(?<![\w./])(?:tools|\.ci)/[\w./]+", text))
    assert {".ci/run", "tools/kernel_builder.sh", "tools/selftest.py", "tools/release.py"} <= files
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def builder(folder: Path, **commands: str) -> subprocess.CompletedProcess:
    """tools/kernel_builder.sh with stand-ins, shell scripts, for other commands."""
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    command = [str(ROOT / "tools" / "kernel_builder.sh"), "upload", "--quiet"]
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_builder_is_run_at_the_pinned_revision(tmp_path: Path) -> None:
    for system in ({}, {"uname": "echo Darwin", "xcodebuild": "exit 0"}):
        printed = builder(tmp_path, nix='echo "$@"', **system).stdout
        assert re.fullmatch(r"run github:huggingface/kernels/[0-9a-f]{40}#kernel-builder -- upload --quiet\n", printed)


def test_without_nix_the_builder_says_so(tmp_path: Path) -> None:
    result = builder(tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("kernel_builder: nix is not installed")


def test_without_the_metal_toolchain_the_builder_says_so(tmp_path: Path) -> None:
    result = builder(tmp_path, nix="exit 0", uname="echo Darwin", xcodebuild="exit 66")
    assert result.returncode == 2 and "run xcodebuild -downloadComponent MetalToolchain" in result.stderr


def test_every_clang_is_tested_at_night() -> None:
    text = (WORKFLOWS / "nightly.yml").read_text()
    versions = [
        int(version) for version in re.findall(r'"(\d+)"', re.search(r"^ +clang: \[(.*)\]", text, re.MULTILINE)[1])
    ]
    assert versions == list(range(clang.OLDEST, clang.NEWEST + 1))
