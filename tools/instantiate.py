"""Write flash_sdpa/instances.h from the tables of tiles in planning/tiles.py: the first step of `make build`.

One line for each kernel; a test compares. Prints how many there are.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torch-ext" / "metal_flash_sdpa"
INSTANCES = ROOT / "flash_sdpa" / "instances.h"

HEAD = """\
// The kernels, a line each. Written by tools/instantiate.py from planning/tiles.py, which has the reasons; a test
// compares.
"""


def tiles(package: Path = PACKAGE) -> types.ModuleType:
    """The module planning.tiles of the sources, without the package around it, which only a staged build has whole."""
    name = f"sources_{abs(hash(package)):x}"
    if name not in sys.modules:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(package)]
    return importlib.import_module(f"{name}.planning.tiles")


def text(table: types.ModuleType) -> str:
    """The text of instances.h for a module planning.tiles."""
    return HEAD + "".join(tile.instance(dtype) for tile, dtype in table.KERNELS.values())


def main() -> None:
    table = tiles()
    INSTANCES.write_text(text(table), encoding="ascii")
    print(f"{INSTANCES}: {len(table.KERNELS)} kernels")


if __name__ == "__main__":
    main()
