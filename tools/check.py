"""Strict check of every shader by the simulator's front end: the last part of `make check`.

Prints one line per diagnostic and exits with status 1 if there is any.
"""

from __future__ import annotations

import sys
from pathlib import Path

from metal_simulator import Library

LANGUAGE = "metal3.1"  # what macOS 14 compiles at run time
SHADERS = Path(__file__).resolve().parent.parent / "flash_sdpa"


def check(folder: Path) -> int:
    """Checks the .metal files of `folder`, prints what is wrong with them and returns how many things are.

    Raises `FileNotFoundError` when there is none: nothing checked is not nothing wrong.
    """
    shaders = sorted(folder.glob("*.metal"))
    if not shaders:
        raise FileNotFoundError(f"no .metal file in {folder}")
    count = 0
    for shader in shaders:
        diagnostics = Library(shader, include=(folder,)).check(LANGUAGE)
        for found in diagnostics:
            print(f"{found.file}:{found.line}:{found.column}: {found.severity}: {found.message}")
        print(f"[front end] {shader.name}: {len(diagnostics) or 'no'} diagnostics")
        count += len(diagnostics)
    return count


if __name__ == "__main__":
    sys.exit(1 if check(SHADERS) else 0)
