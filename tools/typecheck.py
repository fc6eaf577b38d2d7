"""Type check of the compiled launcher for arm64 macOS, on Linux: a part of `make check`.

clang parses the Objective-C++ against torch's own headers and the declarations in tools/apple/, and generates nothing.
On a Mac, `make mac` does the same with Apple's clang and headers.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from metal_simulator.toolchain.clang import find_clang

ROOT = Path(__file__).resolve().parent.parent
APPLE = ROOT / "tools" / "apple"
SOURCES = (ROOT / "flash_sdpa" / "launch.mm", ROOT / "torch-ext" / "torch_binding.cpp")

OPTIONS = (  # the builder's options, without ARC, and more warnings
    "-std=gnu++20", "-fblocks", "-Wall", "-Wextra", "-Werror", f"-I{APPLE / 'generated'}",
    "-DMETAL_KERNEL",
    '-DEMBEDDED_METALLIB_HEADER="library.h"',
    "-DEMBEDDED_METALLIB_NAMESPACE=embedded_metal",
)  # fmt: skip


def typecheck(source: Path, options: Sequence[str] = (), include: Path | None = None) -> list[str]:
    """The errors and warnings of clang in a .mm or .cpp file, a line each; none if all is well.

    options: more of clang's; include: the folder of torch's headers, by default those of the torch that is installed.
    """
    result = compile_for_macos(source, [*options, "-fsyntax-only"], include)
    found = [line for line in result.stderr.splitlines() if ": error: " in line or ": warning: " in line]
    return found if result.returncode == 0 or found else [result.stderr]


def compile_for_macos(source: Path, options: Sequence[str], include: Path | None = None) -> subprocess.CompletedProcess:
    """clang predefines __nonnull for macOS, a name that glibc uses otherwise; g++ defines _GNU_SOURCE."""
    headers = [APPLE / "libc", APPLE, *system_headers(), *torch_headers(include)]
    language = "objective-c++-header" if source.suffix == ".h" else "objective-c++"
    command = [find_clang().path, "-target", "arm64-apple-macos26", "-nostdinc", "-U__nonnull", "-D_GNU_SOURCE"]
    command += [option for header in headers for option in ("-isystem", str(header))]
    command += [*OPTIONS, "-DTORCH_EXTENSION_NAME=metal_flash_sdpa_compiled", "-x", language, *options, str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def command_with_sdk(source: Path) -> list[str]:
    """The same by Apple's clang and headers, on a Mac. No warning is an error there: clang's versions differ."""
    command = ["xcrun", "-sdk", "macosx", "clang++", "-target", "arm64-apple-macos26", *OPTIONS, "-Wno-error"]
    command += [option for header in torch_headers() for option in ("-isystem", str(header))]
    command += ["-DTORCH_EXTENSION_NAME=metal_flash_sdpa_compiled", "-x", "objective-c++", "-fsyntax-only", str(source)]
    return command


@functools.lru_cache(maxsize=1)
def system_headers() -> list[str]:
    """Where this machine's clang finds the headers of C and C++."""
    command = [find_clang().path, "-x", "c++", "-fsyntax-only", "-v", "/dev/null"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return [line.strip() for line in lines if line.startswith(" /") and Path(line.strip()).is_dir()]


def torch_headers(include: Path | None = None) -> tuple[Path, Path]:
    if include is None:
        torch = importlib.util.find_spec("torch")
        if torch is None or torch.origin is None:
            raise RuntimeError("the headers of torch are wanted, but torch is not installed")
        include = Path(torch.origin).parent / "include"
    return include, include / "torch" / "csrc" / "api" / "include"


def main() -> int:
    parser = argparse.ArgumentParser(description="Type check of the compiled launcher for arm64 macOS.")
    parser.add_argument("--headers", type=Path, help="torch/include of another torch; default: the one installed")
    include = parser.parse_args().headers
    if include and not (include / "ATen" / "mps" / "MPSStream.h").is_file():
        parser.error(f"--headers must be a folder with torch's headers, got {include}")
    if sys.platform != "linux":
        print("[host check] only on Linux: on a Mac, make mac checks the launcher with Apple's headers")
        return 0
    count = 0
    for source in SOURCES:
        found = typecheck(source, include=include)
        print(*found, f"[host check] {source.name}: {len(found) or 'no'} diagnostics", sep="\n")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
