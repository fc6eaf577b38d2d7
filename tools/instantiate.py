"""Write the instances of the kernels from the tables of tiles in planning/: the first step of `make build`.

flash_sdpa/instances.h, and one such file for each backward kernel that has tiles. One line for each kernel; a test
compares. Prints how many there are.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Callable, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torch-ext" / "metal_flash_sdpa"
FOLDER = ROOT / "flash_sdpa"

HEAD = """\
// The kernels, a line each. Written by tools/instantiate.py from planning/{module}.py, which has the reasons; a test
// compares.
"""


class File(NamedTuple):
    """A file of instances, and the table that they come from."""

    name: str
    module: str  # of planning
    table: str  # the module's: host name to (tile, dtype)

    def text(self, modules: Callable[[str], types.ModuleType]) -> str:
        """modules: by name, those of planning."""
        kernels = getattr(modules(self.module), self.table)
        lines = [tile.instance(dtype) for tile, dtype in kernels.values()]
        return HEAD.format(module=self.module) + "".join(lines)


FILES = (
    File("instances.h", "tiles", "KERNELS"),
    File("instances_unit.h", "tiles", "UNIT_KERNELS"),
    File("instances_backward_queries.h", "backward_tiles", "QUERIES_KERNELS"),
    File("instances_backward_keys.h", "backward_tiles", "KEYS_KERNELS"),
    File("instances_backward_unit.h", "backward_tiles", "UNIT_KERNELS"),
)


def tiles(package: Path = PACKAGE) -> types.ModuleType:
    """The module planning.tiles of the sources, without the package around it, which only a staged build has whole."""
    return planning("tiles", package)


def planning(module: str, package: Path = PACKAGE) -> types.ModuleType:
    """A module of planning as `tiles` is."""
    name = f"sources_{abs(hash(package)):x}"
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(package)]
    return importlib.import_module(f"{name}.planning.{module}")


def main() -> None:
    for file in FILES:
        text = file.text(planning)
        (FOLDER / file.name).write_text(text, encoding="ascii")
        print(f"{FOLDER / file.name}: {text.count('INSTANTIATE')} kernels")


if __name__ == "__main__":
    main()
