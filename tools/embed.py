"""Write the text of the kernels that no build compiles ahead of time into the package: a step of `make build`.

torch-ext/metal_flash_sdpa/launching/unit_text.py, which every variant carries, as the kernel builder installs Python
files and the binary alone. A test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "flash_sdpa"
MODULE = ROOT / "torch-ext" / "metal_flash_sdpa" / "launching" / "unit_text.py"
SOURCES = ("attention_forward_unit.metal", "unit_check.metal")
FILES = (*SOURCES, "instances_unit.h", "unit.h")  # of no library: build.toml does not list them

HEAD = """\
\"\"\"The kernels that use the matrix unit, which are compiled at run time only. Written by tools/embed.py from
flash_sdpa/, where they are to be changed.\"\"\"

# ruff: noqa: E501

TEXTS = {
"""


def embedded() -> str:
    """The module's text."""
    entries = [f'    "{source}": r"""{_without_own_includes(source, set())}""",\n' for source in SOURCES]
    return HEAD + "".join(entries) + "}\n"


def _without_own_includes(name: str, seen: set[str]) -> str:
    """A file's text with each `#include "..."` replaced by that file, once; that of the instances stays, as the
    launcher puts the one that it needs in its place."""
    seen.add(name)

    def contents(include: re.Match) -> str:
        included = include[1]
        if included.startswith("instances"):
            return include[0]
        return "" if included in seen else _without_own_includes(included, seen)

    text = (KERNELS / name).read_text(encoding="ascii").replace("#pragma once\n", "")
    return re.sub(r'#include "(.*)"\n', contents, text)


def main() -> None:
    MODULE.write_text(embedded(), encoding="ascii")
    print(f"{MODULE}: {', '.join(SOURCES)}")


if __name__ == "__main__":
    main()
