"""The documents and settings say what is true of the repository."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import textwrap
from pathlib import Path

import imports
import pytest
from check_build import card
from metal_simulator.command_line import main as command_line

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CARD.md", "CONTRIBUTING.md", "CHANGELOG.md", "simulator/README.md"]
DOCUMENTS += sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob("docs/*.md"), *ROOT.glob("simulator/docs/*.md")]
)
GENERATED = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
}
TEXT = {".py", ".md", ".toml", ".txt", ".metal", ".h", ".c", ".cpp", ".mm", ".nix", ".sh", ".yml", ""}


def text_files() -> list[Path]:
    """Every text file of the repository that is not generated."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in GENERATED]
        found += [Path(folder, name) for name in names if Path(name).suffix in TEXT and name not in GENERATED]
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_alone_lists_every_command() -> None:
    listed = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^  make ([\w-]+) +\S", listed, re.MULTILINE)) == make_targets()


def test_only_commands_that_exist_are_mentioned() -> None:
    mentioned = {}
    for path in text_files():
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"`make ([\w-]+)", text)
        if path.suffix == ".md":
            names += re.findall(r"^(?: {4,}|```sh\n)make ([\w-]+)", text, re.MULTILINE)
        mentioned |= dict.fromkeys(names, path)
    assert {"check", "check-build", "bench-peers", "bench-tiles"} <= set(mentioned)
    assert {name: path for name, path in mentioned.items() if name not in make_targets()} == {}


def test_the_layout_names_what_exists() -> None:
    layout = (ROOT / "CONTRIBUTING.md").read_text().partition("## Layout")[2].partition("\n## ")[0]
    names = re.findall(r"^    (\S+)", layout, re.MULTILINE)
    assert names and [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        meant = (ROOT / document).parent / path if path else ROOT / document
        assert meant.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", meant.read_text(), re.MULTILINE)
            titles = [re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in headings]
            assert heading in titles, target


def blocks(document: str) -> list[str]:
    """The indented blocks of a document, without their indentation."""
    found = re.findall(r"(?:^    .*\n|^\n)+", (ROOT / document).read_text(), re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") for block in found if block.strip()]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    """Paths with a folder, of the repository or of a package."""
    text = (ROOT / document).read_text()
    bases = (ROOT, ROOT / "torch-ext/metal_flash_sdpa", ROOT / "simulator/metal_simulator")
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|c|h|mm|json|md|metal))`", text)
    named += re.findall(r"\bpython ([\w./-]+\.py)", text)
    missing = [name for name in named if not any((base / name).exists() for base in bases)]
    assert [name for name in missing if "NAME" not in name] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_the_simulator_are_understood(document: str) -> None:
    text = (ROOT / document).read_text().replace("\\\n", "")
    for line in re.findall(r"^    (?:PYTHONPATH=\S+ )?python -m metal_simulator (.*)", text, re.MULTILINE):
        command_line._parser().parse_args(shlex.split(line, comments=True))  # exits for what it does not know


def test_the_counters_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Its Python after the README's, with the figures beside it; its command."""
    monkeypatch.chdir(tmp_path)
    readme, page = blocks("simulator/README.md"), blocks("simulator/docs/counters.md")
    (tmp_path / "scale.metal").write_text(next(block for block in readme if block.startswith("#include")))
    names: dict = {}
    exec(next(block for block in readme if block.startswith("import")), names)
    python = next(block for block in page if block.startswith("profile ="))
    capsys.readouterr()
    exec(python, names)
    shown = re.findall(r"^print.*\)  +# ([{R].*)$", python, re.MULTILINE)
    assert len(shown) == 2 and capsys.readouterr().out.splitlines()[:2] == shown
    command = (
        next(block for block in page if block.startswith("python")).replace("\\\n", "").replace("--plot out.png", "")
    )
    assert command_line.main(shlex.split(command)[3:]) == 0
    assert json.loads((tmp_path / "out.json").read_text())


def test_the_rooms_are_those_that_are_checked() -> None:
    one_way = " > ".join(", ".join(rooms) for rooms in reversed(imports.SIMULATOR.floors))
    assert one_way in blocks("simulator/docs/architecture.md")


def test_the_picture_shows_what_the_command_prints() -> None:
    """And the script beside it draws it."""
    script = runpy.run_path(str(ROOT / "simulator/docs/picture.py"))
    assert (ROOT / "simulator/docs/finding.svg").read_text() == script["drawn"](script["finding"]())


def test_no_path_belongs_to_one_machine() -> None:
    machine = re.compile(r"(?<![\w./$}])/" + r"(home|Users|root|work|tmp|private)/")
    assert [str(path) for path in text_files() if machine.search(path.read_text(encoding="utf-8"))] == []


def test_no_file_names_a_package_index() -> None:
    """Where packages come from is the user's setting."""
    index = re.compile("--(extra-)?" + "index-url|--find-" + "links|PIP_" + "INDEX")
    assert [str(path) for path in text_files() if index.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("requirements", ["requirements-torch.txt", "requirements.txt"])
def test_requirements_are_pinned(requirements: str) -> None:
    lines = [line for line in (ROOT / requirements).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r'-r \S+|[\w-]+==[\w.]+(; sys_platform == "linux")?', line) for line in lines)
    assert all(line.endswith('; sys_platform == "linux"') for line in lines if line.startswith("nvidia-"))  # no Mac's


def test_the_builder_is_pinned_by_revision() -> None:
    assert re.search(r'"github:huggingface/kernels/[0-9a-f]{40}"', (ROOT / "flake.nix").read_text())


def test_the_card_renders() -> None:
    rendered = card(ROOT)
    assert rendered.startswith("---\nlibrary_name: kernels\nlicense: apache-2.0\ntags:\n")
    assert 'get_kernel("org/metal-flash-sdpa", version=1' in rendered
    assert "- `flash_attn_func`\n" in rendered
    assert "kernels benchmark org/metal-flash-sdpa --version 1" in rendered
    assert "Layers" not in rendered
