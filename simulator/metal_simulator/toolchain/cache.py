"""Compiled files, kept by content: a name is the hash of everything that went in, so a file never changes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Optional

from ..errors import ToolchainError
from .paths import PACKAGE


def folder() -> Path:
    """$METAL_SIMULATOR_CACHE, else metal_simulator in $XDG_CACHE_HOME or ~/.cache."""
    chosen = os.environ.get("METAL_SIMULATOR_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "metal_simulator"


@functools.lru_cache(maxsize=None)
def simulator_digest() -> str:
    """Hash of the simulator's own files, and of the processor code is made for."""
    total = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            data = path.read_bytes()
            total.update(f"{path.relative_to(PACKAGE)}\0{len(data)}\0".encode() + data)
    total.update(platform.machine().encode() + _processor())
    return total.hexdigest()


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return b""
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


def key(*parts: object) -> str:
    """A file name for these parts."""
    return hashlib.sha256(json.dumps([simulator_digest(), *parts], sort_keys=True, default=str).encode()).hexdigest()[
        :40
    ]


def read(name: str) -> Optional[dict]:
    try:
        return json.loads((folder() / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None


def write(name: str, value: dict) -> None:
    put(f"{name}.json", json.dumps(value).encode())


def put(name: str, data: bytes) -> Path:
    """Stores a file under its final name at once, so that concurrent processes see all of it or nothing.

    Raises ToolchainError when it cannot."""
    target = folder() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, target)
    except OSError as error:
        place = "METAL_SIMULATOR_CACHE names another folder"
        raise ToolchainError(f"cannot write compiled kernels to {target.parent}: {error.strerror}; {place}") from None
    return target
