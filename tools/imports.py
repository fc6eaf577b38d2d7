"""Check that the package's imports go one way: python tools/imports.py

Every module belongs to a floor and imports only modules of that floor or of those below; no chain of imports leads back
to where it began; no module of the package is imported inside a function, or by an absolute name, which a loaded kernel
does not have. Prints what breaks these rules, and exits with status 1 if anything does.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE_NAME = "metal_flash_sdpa"
PACKAGE = ROOT / "torch-ext" / PACKAGE_NAME

# From the lowest. A name stands for a module or for all modules of a folder. The package itself is above all.
FLOORS = (
    ("_ops", "call"),
    ("checks", "planning"),
    ("cpu", "launching"),
    ("operators",),
    ("interface",),
    ("selftest",),
)


class Import(NamedTuple):
    importer: str  # "planner", "selftest.cases"; "" is the package itself
    imported: str
    line: int
    fault: str = ""  # of the statement itself


def imports_of(package: Path) -> List[Import]:
    """What a package's modules import of it, statement by statement."""
    modules = {_module(path.relative_to(package)): path for path in sorted(package.rglob("*.py"))}
    known = {*modules, "_ops"}  # which is generated
    return [found for name, path in modules.items() for found in _imports(name, path, known)]


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, path: Path, known: set) -> Iterator[Import]:
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
            if other.split(".")[0] == PACKAGE_NAME:
                yield Import(name, other.partition(".")[2], node.lineno, "by an absolute name")
        if isinstance(node, ast.Import) or node.level == 0:
            continue
        base = folder[: len(folder) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            imported = whole if whole in known else ".".join(base)
            yield Import(name, imported, node.lineno, "inside a function" if id(node) in inside else "")


def faults(imports: List[Import], floors=FLOORS) -> List[str]:
    """What breaks the rules, a line each."""
    found = []
    levels = {name: level for level, names in enumerate(floors) for name in names}

    def level(module: str):
        while module not in levels and "." in module:
            module = module.rpartition(".")[0]
        return levels.get(module)

    for edge in imports:
        place = f"{edge.importer or '__init__'} line {edge.line}: imports {edge.imported or 'the package'}"
        if edge.fault:
            found.append(f"{place} {edge.fault}")
        if edge.importer and level(edge.importer) is None:
            found.append(f"{edge.importer} has no floor")
        elif edge.importer and (level(edge.imported) is None or level(edge.imported) > level(edge.importer)):
            found.append(f"{place}, which is on no floor or above it")
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


def main() -> int:
    imports = imports_of(PACKAGE)
    found = faults(imports)
    for line in found:
        print(line, file=sys.stderr)
    if not found:
        print(f"{len(imports)} imports of {len({edge.importer for edge in imports})} modules go one way")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
