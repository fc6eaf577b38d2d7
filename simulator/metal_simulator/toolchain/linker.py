"""The linker, run as clang runs it, but without clang: that takes longer to find the linker than the linker to link."""

from __future__ import annotations

import functools
import shlex
import tempfile
from pathlib import Path
from typing import List

from ..errors import ToolchainError
from .clang import Clang, run

OBJECT, SHARED = "kernel.o", "kernel.so"


def link(clang: Clang, folder: Path):
    """Makes SHARED of OBJECT, both in this folder; returns the finished process.

    Raises ToolchainError if there is no linker."""
    command = _command(clang)
    try:
        return run(command, cwd=folder)
    except OSError as error:
        raise ToolchainError(f"{clang.path} has no linker: {command[0]}: {error.strerror}") from None


@functools.lru_cache(maxsize=None)
def _command(clang: Clang) -> List[str]:
    """What this clang would run, which it prints in its last line. Raises ToolchainError if it prints none.

    Without the C library, of which a kernel needs memcpy and the like at most: they are in the process already, and to
    read its symbols takes as long as all the rest."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / OBJECT).touch()
        asked = run([clang.path, "-###", "-shared", "-nolibc", OBJECT, "-lm", "-o", SHARED], cwd=scratch)
    lines = asked.stderr.splitlines()
    if asked.returncode or not lines or SHARED not in lines[-1]:
        raise ToolchainError(f"{clang.path} does not say how it links:\n{asked.stderr[:2000]}")
    return shlex.split(lines[-1])
