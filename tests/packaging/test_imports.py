"""The imports of both packages go one way, and the check of it finds what does not."""

from __future__ import annotations

import re
import shutil

import imports
import pytest
from imports import KERNEL, SIMULATOR

# By what is planted: the package, a module of it, the line that is added, what is said.
PLANTED = {
    "a circle in one room": (
        KERNEL,
        "planning/tuned.py",
        "from .tiles import Tile",
        "circle: planning.tiles -> planning.tuned",
    ),
    "a circle of folders": (KERNEL, "call.py", "from .planning import forward", "circle: "),
    "a circle through the package": (KERNEL, "planning/device.py", "from .. import operators", "circle: "),
    "an import of itself by name": (
        KERNEL,
        "planning/plan.py",
        "from . import plan",
        "circle: planning.plan -> planning.plan",
    ),
    "an import from above": (
        KERNEL,
        "cpu/weights.py",
        "from ..interface import calls",
        "cpu.weights line .*: imports interface",
    ),
    "an upward import without a circle": (
        KERNEL,
        "checks/scalars.py",
        "from ..cpu import careful",
        "which is on no floor below",
    ),
    "an import of another room on the same floor": (
        KERNEL,
        "launching/runtime.py",
        "from ..cpu import careful",
        "launching.runtime line .*: imports cpu.careful, which is on no floor below",
    ),
    "an import inside a function": (
        KERNEL,
        "cpu/careful.py",
        "def late():\n    from .. import call",
        "inside a function",
    ),
    "an import inside a method": (
        KERNEL,
        "cpu/careful.py",
        "class Late:\n    def late(self):\n        from .weights import Chunk",
        "imports cpu.weights inside a function",
    ),
    "an import by absolute name": (KERNEL, "call.py", "import metal_flash_sdpa.planning", "by an absolute name"),
    "an absolute import of names": (
        KERNEL,
        "call.py",
        "from metal_flash_sdpa.planning import tiles",
        "by an absolute name",
    ),
    "of the whole package": (KERNEL, "operators/flops.py", "from .. import flash_attn_func", "imports the package"),
    "the simulator: a circle in one room": (
        SIMULATOR,
        "toolchain/cache.py",
        "from .clang import Clang",
        r"circle: toolchain\.c\w+ -> toolchain\.c\w+ -> toolchain",
    ),
    "the simulator: an import from above": (
        SIMULATOR,
        "launch/canaries.py",
        "from ..library import Library",
        "launch.canaries line .*: imports library, which is on no floor below",
    ),
    "the simulator: of another room on the same floor": (
        SIMULATOR,
        "profiler/plot.py",
        "from ..checker import slots",
        "profiler.plot line .*: imports checker.slots",
    ),
    "the simulator: an import inside a function": (
        SIMULATOR,
        "toolchain/clang.py",
        "def late():\n    from . import cache",
        "inside a function",
    ),
}


def copied(package, folder):
    return package._replace(folder=shutil.copytree(package.folder, folder / package.folder.name))


@pytest.mark.parametrize("package", imports.PACKAGES, ids=lambda package: package.folder.name)
def test_imports_go_one_way(package) -> None:
    found = imports.imports_of(package)
    assert imports.faults(found, package) == []
    rooms = {edge.importer.partition(".")[0] for edge in found}
    assert len(found) > 100 and rooms >= {"", *package.floors[-1], *package.floors[-3]}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_are_found(tmp_path, name) -> None:
    package, path, line, message = PLANTED[name]
    package = copied(package, tmp_path)
    with (package.folder / path).open("a") as source:
        source.write(f"\n{line}\n")
    found = imports.faults(imports.imports_of(package), package)
    assert any(re.search(message, fault) for fault in found), found


def test_a_new_folder_needs_a_floor(tmp_path) -> None:
    package = copied(KERNEL, tmp_path)
    (package.folder / "attic").mkdir()
    (package.folder / "attic" / "__init__.py").write_text("from ..call import Call\n")
    assert imports.faults(imports.imports_of(package), package) == ["attic has no floor"]


@pytest.mark.parametrize(
    "path, text, circle",
    [
        ("fail.c", "void f(void) { metal_complete(0); }", "collectives.c -> .*fail.c"),
        ("request.h", '#include "shadow.h"', "request.h -> .*shadow.h"),
    ],
)
def test_a_circle_in_c(tmp_path, path, text, circle) -> None:
    runtime = shutil.copytree(imports.RUNTIME, tmp_path / "runtime")
    assert imports.circles(imports.uses_of(runtime)) == []
    with (runtime / path).open("a") as source:
        source.write(f"\n{text}\n")
    found = [" -> ".join(names) for names in imports.circles(imports.uses_of(runtime))]
    assert any(re.search(circle, names) for names in found), found


def test_what_is_no_use_in_c(tmp_path) -> None:
    (tmp_path / "a.c").write_text('// metal_b\nvoid metal_a(void) { say("metal_b"); }\n')
    (tmp_path / "b.c").write_text("void metal_b(int of,\n             int lines) {\n  metal_a();\n}\n")
    assert [use[:2] for use in imports.uses_of(tmp_path)] == [("b.c", "a.c")]


def test_the_command(tmp_path, capsys) -> None:
    assert imports.main() == 0
    printed = capsys.readouterr().out
    assert "one way: selftest > doors > interface > operators" in printed and "> toolchain > collector" in printed
    package = copied(KERNEL, tmp_path)
    with (package.folder / "call.py").open("a") as source:
        source.write("\nfrom .planning import forward\n")
    assert imports.main((SIMULATOR, package)) == 1
    assert "metal_flash_sdpa: circle: " in capsys.readouterr().err
