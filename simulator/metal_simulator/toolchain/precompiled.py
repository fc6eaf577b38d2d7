"""The stand-in headers, parsed once by a clang for each set of flags: they take longer than most kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import List, Tuple

from ..errors import ToolchainError
from . import cache
from .clang import Clang, run


def divided(text: str, file: Path) -> Tuple[str, str]:
    """Preprocessed text: the headers in front of the user's file, and the rest of it."""
    headers, returned, own = text.partition(f'# 1 "{file}" 2\n')  # clang's marker behind the headers
    return (headers, f'# 1 "{file}"\n{own}') if returned else ("", text)


def precompiled(clang: Clang, command: List[str], headers: str) -> List[str]:
    """Flags by which the command, of this clang, begins with these headers.

    Raises ToolchainError if it refuses them."""
    folder = cache.folder().absolute()  # clang looks for the text where it was
    name = f"headers-{cache.key(clang.version, command, headers, folder)}"
    path, written = folder / f"{name}.pch", folder / f"{name}.clcpp"
    if not (path.exists() and written.exists()):
        cache.put(written.name, headers.encode())
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / path.name
            done = run([*command, "-Xclang", "-emit-pch", "-c", str(written), "-o", str(built)])
            if done.returncode:
                raise ToolchainError(f"{clang.path} does not read the simulator's headers:\n{done.stderr[:2000]}")
            cache.put(path.name, built.read_bytes())
    return ["-include-pch", str(path), "-Xclang", "-fno-validate-pch"]
