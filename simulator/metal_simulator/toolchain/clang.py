"""Finding clang, and the flags with which it reads Metal."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import List, NamedTuple, Optional

from ..errors import ToolchainError
from . import cache
from .paths import INCLUDE

OLDEST, NEWEST, PREFERRED = 17, 22, 19
FAST_MATH = [  # all of -ffast-math but contraction; by that name, clang may change the host's treatment of denormals
    "-fno-honor-infinities",
    "-fno-honor-nans",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
    "-fapprox-func",
    "-fno-trapping-math",
    "-fno-math-errno",
]
PREDEFINED = ["__METAL__=1", "__METAL_VERSION__=400", "__METAL_MACOS__=1", "__HAVE_BFLOAT__=1"]


class Clang(NamedTuple):
    path: str
    version: str  # the whole first line of --version: part of every cache key

    @property
    def major(self) -> int:
        return int(re.search(r"version (\d+)", self.version).group(1))


def find_clang() -> Clang:
    """The clang to use: METAL_SIMULATOR_CLANG, else clang-19, else another clang-17 ... clang-22, else clang, else that
    of the Python package ziglang.

    METAL_SIMULATOR_CLANG is an executable, a number such as 17 (for clang-17), or ziglang.
    Raises ToolchainError when there is none, or it is too old.
    """
    wish = os.environ.get("METAL_SIMULATOR_CLANG")
    return _find_clang(wish, os.environ.get("PATH", ""))


@functools.lru_cache(maxsize=None)
def _find_clang(wish: Optional[str], path: str) -> Clang:
    if wish:
        named = _zig_clang() if wish == "ziglang" else shutil.which(f"clang-{wish}" if wish.isdigit() else wish)
        if not named:
            raise ToolchainError(f"METAL_SIMULATOR_CLANG names {wish!r}, which is not an executable")
        return _describe(named)
    versions = [PREFERRED] + [v for v in range(NEWEST, OLDEST - 1, -1) if v != PREFERRED]
    for name in [f"clang-{v}" for v in versions] + ["clang"]:
        found = shutil.which(name)
        if found:
            return _describe(found)
    if _zig_clang():
        return _describe(_zig_clang())
    raise ToolchainError(
        f"no clang found: the simulator compiles Metal with stock clang {OLDEST} to {NEWEST}. "
        "Install it (Debian, Ubuntu: apt-get install clang-19; Fedora: dnf install clang; else: pip install ziglang) "
        "or set METAL_SIMULATOR_CLANG to its path."
    )


@functools.lru_cache(maxsize=None)
def _zig_clang() -> Optional[str]:
    """A command that runs the clang inside the Python package ziglang, with clang's own headers; None without it."""
    found = importlib.util.find_spec("ziglang")
    folder = Path(found.submodule_search_locations[0]) if found else None
    if folder is None or not (folder / "zig").exists():
        return None
    command = Path(tempfile.mkdtemp(prefix="metal_simulator_")) / "clang"
    command.write_text(f'#!/bin/sh\nexec "{folder}/zig" clang "$@" -isystem "{folder}/lib/include"\n')
    command.chmod(0o700)
    atexit.register(shutil.rmtree, command.parent, True)
    return str(command)


def _version(path: str) -> str:
    """The first line of --version; remembered, as asking takes longer than to load a kernel."""
    try:
        file = os.stat(path)
        name = cache.key("clang", os.path.realpath(path), file.st_size, file.st_mtime_ns)
        known = cache.read(name)
        if known is not None:
            return known["version"]
        text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ToolchainError(f"{path} --version fails: {error}") from None
    version = text.splitlines()[0] if text else ""
    with contextlib.suppress(ToolchainError):  # a folder that cannot be written is told where a kernel needs it
        cache.write(name, {"version": version})
    return version


def _describe(path: str) -> Clang:
    clang = Clang(path, _version(path))
    if not re.search(r"clang version \d+", clang.version):
        raise ToolchainError(f"{path} is not clang: it says {clang.version!r}")
    if clang.major < OLDEST:
        raise ToolchainError(f"{path} is clang {clang.major}; the simulator needs {OLDEST} or newer")
    return clang


def language_flags(run_time: bool) -> List[str]:
    """Flags for C++ for OpenCL as a stand-in for Metal.

    run_time: with variables at program scope, of which compiled kernels are made; the check rejects them.
    """
    extensions = "-all,+cl_khr_fp16,+__cl_clang_function_pointers,+__opencl_c_generic_address_space"
    if run_time:
        extensions += ",+__opencl_c_program_scope_global_variables"
    return [
        "-x",
        "clcpp",
        "-cl-std=clc++2021",
        "-cl-no-stdinc",
        "-nostdinc",
        "-fdeclspec",
        "-cl-single-precision-constant",
        "-Xclang",
        f"-cl-ext={extensions}",
        *(f"-D{name}" for name in PREDEFINED),
        f"-I{INCLUDE}",
        "-fno-color-diagnostics",
        "-fdiagnostics-print-source-range-info",
        "-ferror-limit=0",
        "-Wno-unknown-attributes",
        "-Wno-ignored-attributes",
        "-Wno-pragma-once-outside-header",
        "-Wno-unknown-pragmas",
        "-Wno-double-promotion",
        "-Wno-unused",
    ]


def machine_flags(major: int = NEWEST) -> List[str]:
    """Code for this very machine, by clang of this major version; 17 cannot use the bfloat instructions of x86."""
    if platform.machine() == "aarch64":
        return ["-mcpu=native"]
    return ["-march=native", *(["-mno-avx512bf16"] if major < 18 else [])]


def run(command: List[str], **keywords) -> subprocess.CompletedProcess:
    """Runs a tool and captures its text; the caller looks at the return code."""
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **keywords)
