"""tools/release.py: what must agree before a release, and wheels that do not work."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import release
from release import CALL, LAUNCH, SIMULATOR, Wheel, changes, disagreements, does_not_work, metadata_problems
from stage import ROOT
from wheel import DISTRIBUTION, version_of, write_wheel

PACKAGE = "torch-ext/metal_flash_sdpa"
VERSION = version_of(ROOT / PACKAGE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The files that must agree, as they are at a release of 2.3.4."""
    (tmp_path / PACKAGE).mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text('__version__ = "2.3.4"\n')
    (tmp_path / "build.toml").write_text('[general]\nname = "metal-flash-sdpa"\nversion = 2\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## 2.3.4\n\n2026-12-24\n\n* New.\n\n## 2.3.3\n\n* Old.\n")
    return tmp_path


def test_the_version_has_one_place() -> None:
    """Without a tag, as nothing is released yet."""
    assert disagreements(ROOT, None) == []


def test_a_release_that_agrees(copy: Path) -> None:
    assert disagreements(copy, "v2.3.4") == []
    assert changes(copy, "2.3.4") == "2026-12-24\n\n* New."
    assert changes(copy, "2.3.3") == "* Old."


@pytest.mark.parametrize("tag", ["v2.3.5", "2.3.4", "v2.3.4.0", "v2.3.4rc1", "V2.3.4", ""])
def test_the_tag_of_a_release_is_the_version(copy: Path, tag: str) -> None:
    assert disagreements(copy, tag) == [f"--tag must be v2.3.4, as __version__ says, got {tag!r}"]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("build.toml", "version = 2", "version = 1", "build.toml: version must be the first number of 2.3.4, got 1"),
        ("CHANGELOG.md", "## 2.3.4", "## 2.3.40", "CHANGELOG.md: the section of 2.3.4 is missing or empty"),
        ("CHANGELOG.md", "## 2.3.4", "### 2.3.4", "CHANGELOG.md: the section of 2.3.4 is missing or empty"),
        ("CHANGELOG.md", "2026-12-24\n\n* New.\n", "\n", "CHANGELOG.md: the section of 2.3.4 is missing or empty"),
        ("CHANGELOG.md", "2026-12-24", "Not released yet.", "CHANGELOG.md: 2.3.4 has a tag, but the section says: "),
    ],
)
def test_what_disagrees_is_told(copy: Path, file: str, old: str, new: str, said: str) -> None:
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    [found] = disagreements(copy, "v2.3.4")
    assert found.startswith(said)


def test_nothing_is_built_for_a_wrong_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "kept").touch()
    monkeypatch.setattr("sys.argv", ["release.py", str(tmp_path), "--tag", "v0.0.1"])
    assert release.main() == 1
    assert f"--tag must be v{VERSION}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("dist"))


def changed(wheel: Path, folder: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of the wheel with each file as `change` returns it, or without it."""
    path = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if (contents := change(name, old.read(name))) is not None:
                new.writestr(name, contents)
    return path


def test_its_metadata_is_complete(wheel: Path) -> None:
    assert metadata_problems(Wheel(wheel, DISTRIBUTION, CALL)) == []
    [problem] = metadata_problems(Wheel(wheel, SIMULATOR, LAUNCH))
    assert problem.endswith("Name must be metal-simulator, got flash-sdpa-metal")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Version: ", "Version is missing"), ("Summary: ", "Summary is missing"),
        ("Requires-Python: ", "Requires-Python is missing"), ("Requires-Dist: ", "Requires-Dist is missing"),
        ("License-Expression: ", "the licence is missing"),
        ("Description-Content-Type: ", "the description must be Markdown"),
        ("# metal-flash-sdpa", "the description must be Markdown"),
    ],
)  # fmt: skip
def test_what_its_metadata_lacks_is_told(wheel: Path, tmp_path: Path, line: str, said: str) -> None:
    def without(name: str, contents: bytes) -> bytes:
        kept = [one for one in contents.decode().split("\n") if not one.startswith(line)]
        return "\n".join(kept).encode() if name.endswith("/METADATA") else contents

    [problem] = metadata_problems(Wheel(changed(wheel, tmp_path, without), DISTRIBUTION, CALL))
    assert said in problem


def test_a_wheel_without_a_module_does_not_work(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Path
) -> None:
    """Also where pip and Python find the same distribution elsewhere, as a build leaves it beside its sources."""
    module = "metal_flash_sdpa/planning/tiles.py"
    shutil.copytree(build / "torch-cpu", tmp_path / "sources" / "metal_flash_sdpa")
    information = tmp_path / "sources" / f"flash_sdpa_metal-{VERSION}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {VERSION}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sources"))

    def without(name: str, contents: bytes) -> bytes | None:
        return None if name == module else contents

    broken = Wheel(changed(wheel, tmp_path, without), DISTRIBUTION, CALL)
    [problem] = does_not_work(broken, dependencies=False)
    assert "No module named 'metal_flash_sdpa.planning.tiles'" in problem
