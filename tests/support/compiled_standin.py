"""The compiled launcher on Linux: launch.mm and the binding, unmodified, on the stand-ins of standin/metal.mm."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
import typecheck
from metal_simulator.toolchain.clang import find_clang

STANDIN = Path(__file__).parents[1] / "launchers" / "standin"
NAMESPACE = "metal_flash_sdpa_standin"


def build(folder: Path) -> Path:
    """Compiles the launcher and the stand-ins into a shared library in `folder`."""
    sources = [*typecheck.SOURCES, STANDIN / "metal.mm"]
    libraries = Path(torch.__file__).parent / "lib"
    options = [
        "-fobjc-runtime=gcc", "-fPIC", "-shared", "-O0",
        f"-I{typecheck.APPLE}", *typecheck.OPTIONS,
        *(option for header in typecheck.torch_headers() for option in ("-isystem", str(header))),
        f"-DTORCH_EXTENSION_NAME={NAMESPACE}",
        f"-L{libraries}", "-ltorch", "-ltorch_cpu", "-lc10", "-lstdc++",
        f"-Wl,-rpath,{libraries}", "-Wl,--no-undefined",
    ]  # fmt: skip
    library = folder / "standin.so"
    command = [find_clang().path, *map(str, sources), *options, "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return library
