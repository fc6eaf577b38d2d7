"""Finding NVIDIA's assembler and its library of mathematical functions."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from ..errors import ToolchainError
from ..toolchain.clang import run

PACKAGE = "nvidia-cuda-nvcc-cu12"
ADVICE = f"Install it (pip install {PACKAGE}) or set METAL_SIMULATOR_PTXAS to its path."


class Assembler(NamedTuple):
    path: str
    version: str  # part of every cache key
    libdevice: str  # bitcode of the mathematical functions


def find_assembler() -> Assembler:
    """The ptxas to use: METAL_SIMULATOR_PTXAS, else that of the Python package nvidia-cuda-nvcc-cu12, else the one on
    the PATH or in CUDA_HOME; with libdevice from the same installation, else from another of these.

    Raises ToolchainError when there is none.
    """
    wish = os.environ.get("METAL_SIMULATOR_PTXAS")
    return _find(wish, os.environ.get("PATH", ""), os.environ.get("CUDA_HOME"))


@functools.lru_cache(maxsize=None)
def _find(wish: Optional[str], path: str, cuda: Optional[str]) -> Assembler:
    if wish and not shutil.which(wish):
        raise ToolchainError(f"METAL_SIMULATOR_PTXAS names {wish!r}, which is not an executable")
    homes = list(_homes(cuda))
    candidates = [wish] if wish else [str(home / "bin" / "ptxas") for home in homes] + ["ptxas"]
    found = next((shutil.which(candidate) for candidate in candidates if shutil.which(candidate)), None)
    if found is None:
        raise ToolchainError(f"no ptxas found: kernels for NVIDIA GPUs are assembled with it. {ADVICE}")
    done = run([found, "--version"])
    if done.returncode or not re.search(r"release \d+", done.stdout):
        raise ToolchainError(f"{found} is not ptxas: --version says {(done.stdout + done.stderr).strip()[:200]!r}")
    for home in [Path(found).resolve().parent.parent, *homes]:
        libdevice = home / "nvvm" / "libdevice" / "libdevice.10.bc"
        if libdevice.exists():
            return Assembler(found, done.stdout.splitlines()[-1], str(libdevice))
    raise ToolchainError(f"no libdevice.10.bc (NVIDIA's mathematical functions) found beside {found}. {ADVICE}")


def _homes(cuda: Optional[str]) -> Iterator[Path]:
    """Folders that may hold bin/ptxas and nvvm/libdevice."""
    try:
        wheel = importlib.util.find_spec("nvidia.cuda_nvcc")
    except ModuleNotFoundError:
        wheel = None
    if wheel and wheel.submodule_search_locations:
        yield Path(list(wheel.submodule_search_locations)[0])
    if cuda:
        yield Path(cuda)
    yield from sorted(Path("/usr/local").glob("cuda*"), reverse=True)
