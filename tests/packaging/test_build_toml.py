"""build.toml: what the builder's own parser checks, and what it does not notice."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from check_build import COMPILED, EDITION, TORCH_VERSIONS, is_chosen, main, problems
from kernels._rust import Backend, Build

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "flash_sdpa"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of build.toml and the kernels, to be broken."""
    shutil.copy(ROOT / "build.toml", tmp_path)
    shutil.copytree(KERNELS, tmp_path / "flash_sdpa")
    for src in tomllib.loads((ROOT / "build.toml").read_text())["torch"].get("src", []):
        (tmp_path / src).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / src, tmp_path / src)
    return tmp_path


def edit(root: Path, old: str, new: str) -> None:
    text = (root / "build.toml").read_text()
    assert old in text
    (root / "build.toml").write_text(text.replace(old, new, 1))


def test_the_builder_parses_it() -> None:
    assert Build.open(ROOT).general.backends == [Backend.Metal]


def test_no_problems() -> None:
    assert problems(ROOT) == []


def test_the_name_is_the_package_s() -> None:
    name = tomllib.loads((ROOT / "build.toml").read_text())["general"]["name"]
    assert (ROOT / "torch-ext" / name.replace("-", "_") / "__init__.py").is_file()


def test_an_unknown_key_is_refused(copy: Path) -> None:
    edit(copy, "[kernel.metal_flash_sdpa]", "[kernel.metal_flash_sdpa]\nflags = []")
    with pytest.raises(ValueError, match="flags"):
        Build.open(copy)


def test_a_missing_source_is_found(copy: Path) -> None:
    (copy / "flash_sdpa" / "tile.h").unlink()
    assert problems(copy) == ["flash_sdpa/tile.h does not exist"]


@pytest.mark.parametrize("suffix", COMPILED)
def test_an_unlisted_source_is_found(copy: Path, suffix: str) -> None:
    (copy / "flash_sdpa" / f"forgotten{suffix}").touch()
    assert problems(copy) == [f"flash_sdpa/forgotten{suffix} is not listed"]


def test_a_source_for_run_time_only_is_found(copy: Path) -> None:
    edit(copy, "src = [\n", 'src = [\n    "flash_sdpa/unit.h",\n')
    assert problems(copy) == ["flash_sdpa/unit.h is listed, but for run time only"]


def test_a_listed_backend_without_kernel_is_found(copy: Path) -> None:
    edit(copy, 'backends = ["metal"]', 'backends = ["metal", "cpu"]')
    assert problems(copy) == ["backend cpu is listed but has no kernel"]


def test_a_kernel_of_an_unlisted_backend_is_found(copy: Path) -> None:
    text = (copy / "build.toml").read_text()
    (copy / "build.toml").write_text(text + '\n[kernel.other]\nbackend = "cpu"\ndepends = ["torch"]\nsrc = []\n')
    assert problems(copy) == ["backend cpu has a kernel but is not listed"]


def test_a_missing_edition_is_found(copy: Path) -> None:
    edit(copy, "edition = 5\n", "")
    assert problems(copy) == ["edition is not 5"]


def test_edition_6_is_not_known_yet(copy: Path) -> None:
    """If it is, kernels was raised: build.toml and the pinned builder move with it, as docs/releasing.md says."""
    changed = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "releasing.md").read_text(), re.DOTALL)[1]
    for old, new in re.findall(r"^-(.*)\n\+(.*)$", changed, re.MULTILINE):
        edit(copy, f"\n{old}\n", f"\n{new}\n")
    build = tomllib.loads((copy / "build.toml").read_text())
    assert (build["general"]["edition"], build["kernel"]["metal_flash_sdpa"]["language"]) == (EDITION + 1, "cpp-metal")
    with pytest.raises(ValueError, match="unsupported build edition 6"):
        Build.open(copy)


def test_a_repeated_shader_name_is_found(copy: Path) -> None:
    other = copy / "flash_sdpa" / "other"
    other.mkdir()
    shutil.copy(copy / "flash_sdpa" / "attention_forward.metal", other)
    edit(copy, "src = [\n", 'src = [\n    "flash_sdpa/other/attention_forward.metal",\n')
    assert problems(copy) == ["several shaders are called attention_forward"]


def test_a_source_that_is_not_ascii_is_found(copy: Path) -> None:
    with (copy / "flash_sdpa" / "tile.h").open("a", encoding="utf-8") as header:
        header.write("// 2 \N{MULTIPLICATION SIGN} 2\n")
    assert problems(copy) == ["flash_sdpa/tile.h is not ASCII"]


def test_an_unlisted_binding_is_found(copy: Path) -> None:
    edit(copy, '    "torch-ext/torch_binding.h",\n', "")
    assert problems(copy) == ["torch-ext/torch_binding.h is not listed"]


@pytest.mark.parametrize("torch_version", TORCH_VERSIONS)
def test_the_loader_chooses_the_compiled_variant_for_its_own_torch_on_macos_26(torch_version: str) -> None:
    assert is_chosen(torch_version, "26.1", built_for=torch_version)
    assert not is_chosen(torch_version, "15.6", built_for=torch_version)
    assert not is_chosen("2.11", "26.1", built_for=torch_version)


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    assert main() == 0
    printed = capsys.readouterr().out
    assert "no problems that the parser does not notice" in printed
    assert "torch213-metal-aarch64-darwin: chosen on macOS 26 with torch 2.13" in printed
