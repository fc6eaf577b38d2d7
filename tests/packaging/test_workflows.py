"""The workflows pass their linter, which finds mistakes; what they run exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import mac
import pytest
import yaml
from metal_simulator.toolchain import clang
from release import SIMULATOR
from wheel import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
JOBS = {
    (path.stem, name): job
    for path in sorted(WORKFLOWS.glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}


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
    folders = set(re.findall(r"(?<![\w./])(?:simulator/)?tests/\w+", text))
    assert "tests/operators" in folders
    assert [folder for folder in sorted(folders) if not list((ROOT / folder).glob("test_*.py"))] == []


def test_the_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {combination["target"] for combination in JOBS["nightly", "long"]["strategy"]["matrix"]["include"]}
    called |= set(JOBS["nightly", "long"]["strategy"]["matrix"]["target"])
    assert called >= {"mutants", "fuzz", "launchers", "test-simulator", "test-all"}
    for step in (step for job in JOBS.values() for step in job["steps"]):
        for words in re.findall(r"^make (.*)$", step.get("run", ""), re.MULTILINE):
            called |= {word for word in words.split() if "=" not in word and "$" not in word}
    assert {"mac", "lint", "check-build"} <= called <= targets


def needed(workflow: str, job: str) -> set[str]:
    """The jobs that have passed before this one, and itself."""
    needs = JOBS[workflow, job].get("needs", [])
    return {job}.union(*(needed(workflow, other) for other in ([needs] if isinstance(needs, str) else needs)))


def test_artifacts_come_from_jobs_that_have_passed() -> None:
    def names(job: dict, action: str) -> list[str]:
        return [step["with"]["name"] for step in job["steps"] if f"/{action}@" in step.get("uses", "")]

    found = 0
    for (workflow, name), job in JOBS.items():
        before = needed(workflow, name) - {name}
        for artifact in names(job, "download-artifact"):
            assert any(artifact in names(JOBS[workflow, other], "upload-artifact") for other in before), artifact
            found += 1
    assert found >= 6


def test_an_action_has_one_pin() -> None:
    pins = {step["uses"] for job in JOBS.values() for step in job["steps"] if "uses" in step}
    names = [pin.partition("@")[0] for pin in pins]
    assert sorted(names) == sorted(set(names))


def test_rights_are_given_to_the_jobs_that_need_them() -> None:
    """And a job that can sign in the workflow's name runs no command, only actions."""
    writes = {
        key: {right for right, level in (job.get("permissions") or {}).items() if level == "write"}
        for key, job in JOBS.items()
    }
    assert {key: rights for key, rights in writes.items() if rights} == {
        ("nightly", "report"): {"issues"},
        ("release", "attest"): {"id-token", "attestations"},
        ("release", "release"): {"contents"},
        ("release", "pypi"): {"id-token"},
        ("reports", "check"): {"issues"},
    }
    signing = [job for key, job in JOBS.items() if "id-token" in writes[key]]
    assert [step for job in signing for step in job["steps"] if "run" in step] == []


def test_only_a_tag_publishes_and_after_everything_has_passed() -> None:
    for name in ("attest", "release", "pypi", "publish"):
        before = needed("release", name)
        assert {"linux", "mac"} <= before
        assert any(JOBS["release", job].get("if") == "startsWith(github.ref, 'refs/tags/v')" for job in before)
    assert "attest" in needed("release", "pypi") & needed("release", "release")


def test_each_distribution_is_published_from_an_environment_of_its_own() -> None:
    """PyPI takes a workflow and its environment as the publisher of one new project only."""
    rows = JOBS["release", "pypi"]["strategy"]["matrix"]["include"]
    assert sorted(row["distribution"] for row in rows) == sorted([DISTRIBUTION, SIMULATOR])
    assert len({row["environment"] for row in rows}) == 2
    described = (ROOT / "docs" / "releasing.md").read_text()
    for row in rows:
        assert f"| `{row['distribution']}` | `{row['environment']}` |" in described


def test_every_python_is_tested() -> None:
    """3.12 is the runner's own; the tools need 3.11."""
    assert JOBS["test", "pythons"]["strategy"]["matrix"]["python"] == ["3.11", "3.13", "3.14"]
    [setup] = [step for step in JOBS["test", "wheel"]["steps"] if "/setup-python@" in step.get("uses", "")]
    assert setup["with"]["python-version"] == "3.10"


def test_pip_finds_torch_where_the_repository_says() -> None:
    """Each workflow that sets up an environment: `kernels` loads no CPU variant with torch's build for CUDA."""
    for path in WORKFLOWS.glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        if re.search(r"\.ci/run|make |pip install", str(workflow["jobs"])):
            assert workflow["env"] == {"PIP_EXTRA_INDEX_URL": "${{ vars.PIP_EXTRA_INDEX_URL }}"}, path.name


def test_every_nightly_failure_is_reported() -> None:
    jobs = {name for workflow, name in JOBS if workflow == "nightly"}
    assert needed("nightly", "report") == jobs
    condition = JOBS["nightly", "report"]["if"]
    assert "'failure'" in condition and "'cancelled'" in condition and "!cancelled()" in condition


def report_failure(folder: Path, workflow: str) -> list[list[str]]:
    """The commands of tools/report_failure.sh, with a stand-in for gh that remembers issues by their label."""
    (folder / "gh").write_text(GH)
    (folder / "gh").chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "FOLDER": str(folder), "GITHUB_WORKFLOW": workflow}
    environment |= {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "org/kernel"}
    environment |= {"GITHUB_RUN_ID": "7", "GITHUB_SHA": "abc"}
    subprocess.run([ROOT / "tools" / "report_failure.sh"], env=environment, check=True, capture_output=True)
    lines = (folder / "said").read_text().splitlines()
    (folder / "said").unlink()
    return [line.split("|") for line in lines]


GH = """#!/bin/sh
case "$1 $2" in
    "issue list") [ "$6" != "" ] && cat "$FOLDER/$6" 2>/dev/null; exit 0 ;;
    "issue create") echo 3 > "$FOLDER/$4" ;;
esac
printf '%s|' "$@" >> "$FOLDER/said"; echo >> "$FOLDER/said"
"""


def test_one_issue_is_open_for_a_workflow(tmp_path: Path) -> None:
    said = "nightly failed: https://github.com/org/kernel/actions/runs/7, at abc"
    first, second = report_failure(tmp_path, "nightly")[-1], report_failure(tmp_path, "nightly")[-1]
    assert first[:4] == ["issue", "create", "--label", "nightly"] and said in first
    assert second[:3] == ["issue", "comment", "3"] and said in second
    assert report_failure(tmp_path, "other")[-1][:4] == ["issue", "create", "--label", "other"]
    (tmp_path / "nightly").unlink()  # closed
    assert report_failure(tmp_path, "nightly")[-1][:2] == ["issue", "create"]


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
