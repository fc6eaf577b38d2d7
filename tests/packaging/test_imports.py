"""The package's imports go one way, and the check of it finds what does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import imports
import pytest

# By what is planted: module, the line that is added to it, what is said.
PLANTED = {
    "a circle on one floor": (
        "planning/tuned.py",
        "from .tiles import Tile",
        "circle: planning.tiles -> planning.tuned",
    ),
    "a circle of folders": ("call.py", "from .planning import forward", "circle: "),
    "a circle through the package": ("planning/device.py", "from .. import operators", "circle: "),
    "an import of itself by name": ("planning/plan.py", "from . import plan", "circle: planning.plan -> planning.plan"),
    "an import from above": (
        "cpu/weights.py",
        "from ..interface import calls",
        "cpu.weights line .*: imports interface",
    ),
    "an upward import without a circle": ("checks/scalars.py", "from ..cpu import careful", "which is on no floor or"),
    "an import inside a function": ("cpu/careful.py", "def late():\n    from .. import call", "inside a function"),
    "an import inside a method": (
        "cpu/careful.py",
        "class Late:\n    def late(self):\n        from .weights import Chunk",
        "imports cpu.weights inside a function",
    ),
    "an import by absolute name": ("call.py", "import metal_flash_sdpa.planning", "by an absolute name"),
    "an absolute import of names": ("call.py", "from metal_flash_sdpa.planning import tiles", "by an absolute name"),
    "of the whole package": ("operators/flops.py", "from .. import flash_attn_func", "imports the package"),
}


@pytest.fixture
def package(tmp_path) -> Path:
    return shutil.copytree(imports.PACKAGE, tmp_path / imports.PACKAGE.name)


def test_imports_go_one_way() -> None:
    found = imports.imports_of(imports.PACKAGE)
    assert imports.faults(found) == []
    assert len(found) > 100 and {"operators", "planning.forward", ""} <= {edge.importer for edge in found}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(package, name) -> None:
    path, line, message = PLANTED[name]
    with (package / path).open("a") as source:
        source.write(f"\n{line}\n")
    found = imports.faults(imports.imports_of(package))
    assert any(re.search(message, fault) for fault in found), found


def test_a_new_folder_needs_a_floor(package) -> None:
    (package / "attic").mkdir()
    (package / "attic" / "__init__.py").write_text("from ..call import Call\n")
    assert imports.faults(imports.imports_of(package)) == ["attic has no floor"]


def test_the_command(package, monkeypatch, capsys) -> None:
    assert imports.main() == 0 and "go one way" in capsys.readouterr().out
    monkeypatch.setattr(imports, "PACKAGE", package)
    with (package / "call.py").open("a") as source:
        source.write("\nfrom .planning import forward\n")
    assert imports.main() == 1 and "circle: " in capsys.readouterr().err
