"""Every code block of README and docs/ runs on the CPU, or says why not; figures are those of commands."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
import recorded
import torch
from check_build import card
from metal_simulator.profiler.report import chip_named
from mutants import MUTANTS
from wheel import write_wheel

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]
DOCUMENTS.append("CARD.md")
LANGUAGES = ("python", "sh", "text")
MARKER = re.compile(r"<!-- not run: *(.*?) *-->")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def text_of(document: str) -> str:
    """What a reader gets: of the card, what the builder makes of its template."""
    return card(ROOT) if document == "CARD.md" else (ROOT / document).read_text()


class Block(NamedTuple):
    line: int  # of the document, that of the fence; the first is 1
    language: str
    text: str
    reason: Optional[str]  # why it is not run; None if it is


def blocks(document: str) -> list[Block]:
    """The code blocks of a document's text. Raises ValueError for what could escape this test."""
    found: list[Block] = []
    fence, reason, before = None, None, ""
    for number, line in enumerate(document.split("\n"), 1):
        if fence is not None:
            if line == "```":
                found.append(fence)
                fence = None
            elif line.lstrip().startswith("```"):
                raise ValueError(f"line {number}: a fence within a block")
            else:
                fence = fence._replace(text=f"{fence.text}{line}\n")
        elif line.lstrip().startswith(("```", "~~~")):
            language = line[3:]
            if not line.startswith("```") or language not in LANGUAGES:
                raise ValueError(f"line {number}: {line!r} begins no block of {', '.join(LANGUAGES)}")
            fence, reason = Block(number, language, "", reason), None
        elif reason is not None:
            raise ValueError(f"line {number}: the marker of the line before has no code block")
        elif line.startswith(("    ", "\t")) and not before.strip():
            raise ValueError(f"line {number}: an indented block, which is not looked at: use a fence")
        elif "not run:" in line:
            marker = MARKER.fullmatch(line)
            if marker is None or not marker[1]:
                raise ValueError(f"line {number}: a marker without a reason: {line!r}")
            reason = marker[1]
        before = line
    if fence is not None or reason is not None:
        raise ValueError("the last fence is not closed, or the last marker has no block")
    return found


def program(document: str) -> str:
    """The Python that runs, each line at the place that it has in the document."""
    lines = [""] * (document.count("\n") + 1)
    for block in blocks(document):
        if block.language == "python" and block.reason is None:
            code = block.text.split("\n")
            lines[block.line : block.line + len(code)] = code
    return "\n".join(lines).rstrip() + "\n"


def complaints(shell: str, wheel: str) -> list[str]:
    """What is wrong with a shell block; wheel: the name of the file that is built."""
    syntax = subprocess.run(["bash", "-n"], input=shell, capture_output=True, text=True, check=False)
    if syntax.returncode:
        return [syntax.stderr.strip()]
    found = []
    for line in shell.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            if complaint := _complaint(words[:end], wheel):
                found.append(f"{line}: {complaint}")
            words = words[end + 1 :]
    return found


def _complaint(words: list[str], wheel: str) -> Optional[str]:
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    command, *rest = words
    if command == "export":
        return None
    if command == "make":
        wrong = [word for word in rest if "=" not in word and word not in TARGETS]
        return f"no target {', '.join(wrong)}" if wrong or not rest else None
    if command == "python" and rest[:1] == ["-m"]:
        module = Path("torch-ext", *rest[1].split("."))
        exists = (ROOT / module).with_suffix(".py").exists() or (ROOT / module / "__main__.py").exists()
        return None if exists else f"no module {rest[1]}"
    if command == "python":
        return None if rest and (ROOT / rest[0]).is_file() else f"no file {rest[:1]}"
    if [command, *rest[:1]] == ["pip", "install"]:
        wrong = [word for word in rest[1:] if word not in ("kernels", "torch", f"dist/{wheel}")]
        return f"nobody can install {', '.join(wrong)}" if wrong else None
    return "a command that this test does not know: teach it, or mark the block as not run"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wheel(tmp_path_factory.mktemp("dist"))


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if program(text_of(name)).strip()])
def test_python_runs(build: Path, wheel: Path, tmp_path: Path, document: str) -> None:
    """The blocks of a document one after another, in a process of their own: as a reader types them."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    script = tmp_path / f"{Path(document).stem}.py"
    script.write_text(program(text_of(document)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    environment |= {"LOCAL_KERNELS": f"org/metal-flash-sdpa={build}", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(tmp_path / "installed")
    done = subprocess.run(
        [sys.executable, script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS)
def test_shell_is_understood(wheel: Path, document: str) -> None:
    shell = [block.text for block in blocks(text_of(document)) if (block.language, block.reason) == ("sh", None)]
    assert [complaint for text in shell for complaint in complaints(text, wheel.name)] == []


def test_most_blocks_run() -> None:
    found = [block for name in DOCUMENTS for block in blocks(text_of(name)) if block.language != "text"]
    assert len([block for block in found if block.reason]) <= 4 < len(found) - 4


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("<!-- not run: -->\n```python\n1\n```", "a marker without a reason"),
        ("<!-- not run -->\n<!-- not run:-->\n```sh\nmake\n```", "a marker without a reason"),
        ("not run: because\n```python\n1\n```", "a marker without a reason"),
        ("<!-- not run: it is long -->\n\n```python\n1\n```", "has no code block"),
        ("<!-- not run: it is long -->", "has no block"),
        ("```\nmake test\n```", "begins no block"),
        ("```py\n1\n```", "begins no block"),
        ("* item\n  ```python\n  1\n  ```", "begins no block"),
        ("~~~python\n1\n~~~", "begins no block"),
        ("```python\n1", "not closed"),
        ("```python\n1\n```python\n2\n```", "a fence within"),
        ("Then:\n\n    make test\n", "an indented block"),
    ],
)
def test_no_block_escapes(document: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        blocks(document)


def test_blocks_are_at_their_lines() -> None:
    document = "# A\n\n```python\na = 1\n```\n\n<!-- not run: it is long -->\n```python\nb\n```\n"
    document += "```text\nc\n```\n```python\na / 0\n```\n"
    assert [(block.line, block.language, block.reason) for block in blocks(document)] == [
        (3, "python", None), (8, "python", "it is long"), (11, "text", None), (14, "python", None),
    ]  # fmt: skip
    assert program(document) == "\n" * 3 + "a = 1" + "\n" * 11 + "a / 0\n"


@pytest.mark.parametrize(
    "shell",
    [
        "make demos", "make", "make test tests", "python tools/no_such.py", "python", "python -m metal_flash_sdpa.test",
        "make test && python no.py", "pip install dist/other.whl", "pip install torches", "rm -rf build", "echo 'a",
        "PYTHONPATH=simulator python x.py", "make demo\nfrobnicate",
    ],
)  # fmt: skip
def test_wrong_commands_are_seen(shell: str) -> None:
    assert complaints(shell, "right.whl")


def test_right_commands_are_understood() -> None:
    shell = "make demo  # and more\nA=1 python tools/stage.py --x && pip install dist/right.whl\nexport A=$(printf b)\n"
    assert complaints(shell + "python -m metal_flash_sdpa.selftest --json\nmake test JOBS=1\n", "right.whl") == []


def test_bytes_are_those_of_the_command(build: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """If not: make build && python benchmarks/memory.py, whose output is in README.md and docs/performance.md."""
    main = runpy.run_path(str(ROOT / "benchmarks" / "memory.py"))["main"]
    monkeypatch.setitem(main.__globals__, "BUILD", build)
    monkeypatch.setattr(sys, "argv", ["memory.py"])
    main()
    printed = capsys.readouterr().out
    assert f"```text\n{printed}```" in (ROOT / "docs/performance.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for tokens, _, _, ours, composite, _ in re.findall(r"^ +(\d+)" + r" +([\d.]+)" * 5 + "$", printed, re.MULTILINE):
        assert f"\n| {int(tokens):,} | {ours} | {composite} |\n" in readme


def test_the_picture_is_that_of_its_figures() -> None:
    """And both the picture and its caption say at which level they were obtained."""
    folder = ROOT / "docs" / "pictures"
    drawn = runpy.run_path(str(folder / "predicted.py"))["drawn"]
    picture = (folder / "predicted.svg").read_text(encoding="utf-8")
    assert picture == drawn(json.loads((folder / "predicted.json").read_text()))
    assert "not measured on a Mac" in picture
    assert re.search(
        r"predicted\.svg\)\n\n\*Predicted by the project's cost model, not measured on a Mac\.",
        (ROOT / "README.md").read_text(),
    )


def test_the_picture_is_of_the_kernels_that_are_planned(kernel) -> None:
    """If not, the tables of tiles have changed: python docs/pictures/predicted.py, and docs/performance.md anew."""
    data = json.loads((ROOT / "docs/pictures/predicted.json").read_text())
    for call, chips in data["kernels"].items():
        if call.startswith("decode"):
            heads, heads_kv = map(int, re.search(r"(\d+)/(\d+) heads", call).groups())
            shapes = (1, 1, heads, 128), (1, data["keys"], heads_kv, 128)
        else:
            shapes = [(1, data["tokens"], data["heads"], int(call.rpartition("d")[2]))] * 2
        query, key = (torch.zeros(shape, dtype=torch.float16) for shape in shapes)
        for name, kernels in chips.items():
            chip, plans = chip_named(name), recorded.Plans()
            with kernel.launchers.use_launcher(plans, kernel.device.Device(chip.family, chip.cores)):
                kernel.flash_attn_func(query, key, key, causal="causal" in call)
            assert [plan.kernel for plan, _ in plans.seen] == kernels, (call, name)
    assert sum(call.startswith("decode") for call in data["kernels"]) == 2


def test_the_picture_agrees_with_the_page() -> None:
    """Both are counted by benchmarks/peers.py: python docs/pictures/predicted.py, and make bench-peers."""
    page = (ROOT / "docs/performance.md").read_text()
    data = json.loads((ROOT / "docs/pictures/predicted.json").read_text())
    for call, chips in data["microseconds"].items():
        for chip, times in chips.items():
            row = next(line for line in page.splitlines() if line.startswith(f"| {call} | {chip} |"))
            assert [row.split(" | ")[place] for place in (2, 4)] == [
                str(times["metal-flash-sdpa"]), str(times["PyTorch"]),
            ]  # fmt: skip


def test_the_mutants_are_counted() -> None:
    equivalent = sum(mutant.expected == "equivalent" for mutant in MUTANTS)
    said = f"{len(MUTANTS)} bugs that were seeded into them, {equivalent} change nothing"
    assert said in " ".join((ROOT / "README.md").read_text().split())
    assert (
        f"{len(MUTANTS)} seeded bugs, and what finds each; {equivalent} of them"
        in (ROOT / "docs/proofs.md").read_text()
    )


def test_the_versions_are_those_that_are_tested() -> None:
    pinned = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-torch.txt").read_text()
    tested = {
        name: re.search(rf"^{name}==([\d.]+)$", pinned, re.MULTILINE)[1]
        for name in ("torch", "transformers", "kernels", "diffusers")
    }
    said = "Tested together: torch {torch}, transformers {transformers}, kernels {kernels} and diffusers {diffusers}."
    assert said.format(**tested) in " ".join((ROOT / "README.md").read_text().split())
    row = "| {torch} | 5.20.0 to {transformers} | {kernels} | {diffusers} | tested with {transformers} |"
    assert row.format(**tested) in (ROOT / "docs/models.md").read_text()


def test_the_card_says_what_the_readme_says() -> None:
    """In short: the state, the macOS and torch of each build; and nothing that is not on the hub."""
    readme, rendered = ((" ".join(text_of(name).split())) for name in ("README.md", "CARD.md"))
    for said in ("**State: nothing here has run on an Apple GPU yet.**", "| macOS 14 or newer, torch 2.12 or newer"):
        assert said in readme and said in rendered
    for said in ("macOS 26 or newer", "M5 or A19 and macOS 26.2 or newer"):
        assert said in readme and said in rendered
    assert "](" not in rendered and "![" not in rendered  # the hub has the card and the build, no docs/
