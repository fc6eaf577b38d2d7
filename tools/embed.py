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
SOURCES = ("attention_forward_unit.metal", "attention_backward_unit.metal", "unit_check.metal")
FILES = (  # of no library: build.toml does not list them
    *SOURCES,
    "instances_backward_unit.h",
    "instances_unit.h",
    "unit.h",
    "unit_gradients.h",
)

HEAD = """\
\"\"\"The kernels that use the matrix unit, which are compiled at run time only, and all that they include. Written by
tools/embed.py from flash_sdpa/, where they are to be changed.\"\"\"

# ruff: noqa: E501

TEXTS = {
"""


def embedded() -> str:
    """The module's text."""
    return HEAD + "".join(f'    "{name}": r"""{text}""",\n' for name, text in sorted(_texts().items())) + "}\n"


def _texts() -> dict[str, str]:
    """By name, the files and those that they include; but for the instances: the launcher puts the one that it needs in
    their place."""
    texts: dict[str, str] = {}
    names = list(SOURCES)
    while names:
        name = names.pop()
        if name not in texts:
            texts[name] = (KERNELS / name).read_text(encoding="ascii")
            names += [
                included for included in re.findall(r'#include "(.*)"\n', texts[name]) if "instances" not in included
            ]
    return texts


def main() -> None:
    MODULE.write_text(embedded(), encoding="ascii")
    print(f"{MODULE}: {', '.join(SOURCES)}")


if __name__ == "__main__":
    main()
