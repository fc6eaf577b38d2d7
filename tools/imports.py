"""Check that imports go one way, in the kernel's package and in the simulator: python tools/imports.py

Every module belongs to a room, every room to a floor. A module imports modules of its own room or of floors below; no
chain of imports leads back to where it began; no module of the package is imported inside a function, or by an absolute
name, which a loaded kernel does not have. Among the C files of the simulator's runtime no chain of uses leads back.
Prints the floors, or what breaks these rules, and then exits with status 1.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parent.parent


class Package(NamedTuple):
    """floors: from the lowest; a room is a module or a folder. The package itself is above all of them.

    generated: modules that are not in the repository
    """

    folder: Path
    floors: Tuple[Tuple[str, ...], ...]
    generated: Tuple[str, ...] = ()


KERNEL = Package(
    ROOT / "torch-ext" / "metal_flash_sdpa",
    (
        ("_ops", "call"),
        ("checks", "planning"),
        ("cpu", "launching"),
        ("operators",),
        ("interface",),
        ("doors",),
        ("selftest",),
    ),
    generated=("_ops",),
)
SIMULATOR = Package(
    ROOT / "simulator" / "metal_simulator",
    (
        ("collector", "errors", "limits", "version"),
        ("toolchain",),
        ("source", "llvm_ir"),
        ("translate", "checker", "profiler"),
        ("strict", "compile", "launch"),
        ("library",),
        ("nvidia", "command_line", "pytest_plugin"),
        ("__main__",),
    ),
)
PACKAGES = (KERNEL, SIMULATOR)
RUNTIME = SIMULATOR.folder / "runtime"


class Import(NamedTuple):
    importer: str  # "planner", "selftest.cases"; "" is the package itself
    imported: str
    line: int
    fault: str = ""  # of the statement itself


def imports_of(package: Package) -> List[Import]:
    """What a package's modules import of it, statement by statement."""
    modules = {_module(path.relative_to(package.folder)): path for path in sorted(package.folder.rglob("*.py"))}
    known = {*modules, *package.generated}
    return [found for name, path in modules.items() for found in _imports(name, path, known, package.folder.name)]


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, known: set, package: str) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    parts = name.split(".") if name else []
    folder = parts if path.name == "__init__.py" else parts[:-1]
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            absolute = [alias.name for alias in node.names]
        else:
            absolute = [node.module or ""] if node.level == 0 else []
        for other in absolute:
            if other.split(".")[0] == package:
                yield Import(name, other.partition(".")[2], node.lineno, "by an absolute name")
        if isinstance(node, ast.Import) or node.level == 0:
            continue
        base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            imported = whole if whole in known else ".".join(base)
            yield Import(name, imported, node.lineno, "inside a function" if id(node) in inside else "")


def faults(imports: List[Import], package: Package) -> List[str]:
    """What breaks the rules, a line each."""
    found = []
    floors = {room: floor for floor, rooms in enumerate(package.floors) for room in rooms}
    for edge in imports:
        place = f"{edge.importer or '__init__'} line {edge.line}: imports {edge.imported or 'the package'}"
        if edge.fault:
            found.append(f"{place} {edge.fault}")
        room, other = edge.importer.partition(".")[0], edge.imported.partition(".")[0]
        if room and room not in floors:
            found.append(f"{edge.importer} has no floor")
        elif room and room != other and not floors.get(other, len(floors)) < floors[room]:
            found.append(f"{place}, which is on no floor below")
    return list(dict.fromkeys(found)) + [f"circle: {' -> '.join(circle)}" for circle in circles(imports)]


def circles(imports: List[Import]) -> List[List[str]]:
    """A chain for every import that closes one."""
    below: Dict[str, List[str]] = {}
    for edge in imports:
        below.setdefault(edge.importer, []).append(edge.imported)
    found, done = [], set()

    def visit(module: str, chain: List[str]) -> None:
        if module in chain:
            found.append([*chain[chain.index(module) :], module])
        elif module not in done:
            for other in below.get(module, ()):
                visit(other, [*chain, module])
            done.add(module)

    for module in sorted(below):
        visit(module, [])
    return found


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)
_INCLUDE = re.compile(r"^#\s*include\s*[\"<](?:\S*/)?(\w+\.h)[\">]", re.MULTILINE)
_DEFINED = re.compile(r"^(?!static|extern|typedef)\w[^;{}]*?\b(metal_\w+)(?:\([^;{}]*\)\s*\{|;)", re.MULTILINE)
_USED = re.compile(r"\bmetal_\w+")


def uses_of(folder: Path) -> List[Import]:
    """What the C files of a folder use of one another: headers, and functions and variables named metal_."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.[ch]"))}
    code = {name: _COMMENT.sub("", text) for name, text in texts.items()}
    home = {found: name for name in texts if name.endswith(".c") for found in _DEFINED.findall(code[name])}
    uses = []
    for name, text in texts.items():
        uses += [Import(name, header, 0) for header in _INCLUDE.findall(text) if header in texts]
        used = {home[word] for word in _USED.findall(code[name]) if name.endswith(".c") and word in home}
        uses += [Import(name, other, 0) for other in sorted(used - {name})]
    return uses


def _spell(floors: Tuple[Tuple[str, ...], ...]) -> str:
    return " > ".join(", ".join(rooms) for rooms in reversed(floors))


def main(packages: Tuple[Package, ...] = PACKAGES, runtime: Path = RUNTIME) -> int:
    """The command; returns the exit status."""
    status = 0
    for package in packages:
        imports = imports_of(package)
        found = faults(imports, package)
        for line in found:
            print(f"{package.folder.name}: {line}", file=sys.stderr)
        if found:
            status = 1
            continue
        print(f"{package.folder.name}: {len(imports)} imports, one way: {_spell(package.floors)}")
    uses = uses_of(runtime)
    for circle in circles(uses):
        print(f"{runtime.name}: circle: {' -> '.join(circle)}", file=sys.stderr)
        status = 1
    print(f"{runtime.name}: {len(uses)} uses of one C file or header by another")
    return status


if __name__ == "__main__":
    sys.exit(main())
