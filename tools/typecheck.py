"""Type check of the compiled launcher for arm64 macOS, on Linux: a part of `make check`.

clang parses the Objective-C++ against torch's own headers and the declarations in tools/apple/, and generates nothing.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from metal_simulator.toolchain import find_clang

ROOT = Path(__file__).resolve().parent.parent
APPLE = ROOT / "tools" / "apple"
SOURCES = (ROOT / "flash_sdpa" / "launch.mm", ROOT / "torch-ext" / "torch_binding.cpp")

# What the builder generates: macros, and the header with the bytes of the Metal library.
GENERATED = {
    "registration.h": """\
#pragma once
#define TORCH_LIBRARY_EXPAND(NAME, MODULE) TORCH_LIBRARY(NAME, MODULE)
#define REGISTER_EXTENSION(NAME)
""",
    "library.h": """\
#pragma once
#import <Metal/Metal.h>
namespace embedded {
inline id<MTLLibrary> createLibrary(id<MTLDevice> device, NSError** error = nullptr) {
  return [device newLibraryWithData:dispatch_data_create("", 0, dispatch_get_main_queue(), ^{}) error:error];
}
}  // namespace embedded
""",
}
OPTIONS = (  # the builder's options, without ARC, and more warnings
    "-std=gnu++20", "-fblocks", "-Wall", "-Wextra", "-Werror",
    "-DMETAL_KERNEL",
    "-DTORCH_EXTENSION_NAME=metal_flash_sdpa_compiled",
    '-DEMBEDDED_METALLIB_HEADER="library.h"',
    "-DEMBEDDED_METALLIB_NAMESPACE=embedded",
)  # fmt: skip


def typecheck(source: Path, options: Sequence[str] = ()) -> list[str]:
    """The errors and warnings of clang in a .mm or .cpp file, a line each; none if all is well."""
    result = compile_for_macos(source, [*options, "-fsyntax-only"])
    found = [line for line in result.stderr.splitlines() if ": error: " in line or ": warning: " in line]
    return found if result.returncode == 0 or found else [result.stderr]


def compile_for_macos(source: Path, options: Sequence[str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as generated:
        for name, text in GENERATED.items():
            Path(generated, name).write_text(text)
        language = "objective-c++-header" if source.suffix == ".h" else "objective-c++"
        command = [find_clang().path, *target_options(), *OPTIONS, f"-I{generated}", "-x", language]
        return subprocess.run([*command, *options, str(source)], capture_output=True, text=True, check=False)


@functools.lru_cache(maxsize=1)
def target_options() -> tuple[str, ...]:
    """For arm64 macOS with the headers of this machine's C and C++ libraries, corrected where the two systems differ.

    clang predefines __nonnull for macOS, a name that glibc uses otherwise; g++ defines _GNU_SOURCE.
    """
    headers = [APPLE / "libc", APPLE, *system_headers(), *torch_headers()]
    options = ["-target", "arm64-apple-macos26", "-nostdinc", "-U__nonnull", "-D_GNU_SOURCE"]
    return (*options, *(option for header in headers for option in ("-isystem", str(header))))


def system_headers() -> list[str]:
    """Where this machine's clang finds the headers of C and C++."""
    command = [find_clang().path, "-x", "c++", "-fsyntax-only", "-v", "/dev/null"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return [line.strip() for line in lines if line.startswith(" /") and Path(line.strip()).is_dir()]


def torch_headers() -> tuple[Path, Path]:
    include = Path(importlib.util.find_spec("torch").origin).parent / "include"
    return include, include / "torch" / "csrc" / "api" / "include"


def main() -> int:
    if sys.platform != "linux":
        print("[host check] only on Linux: on a Mac, the builder compiles the launcher")
        return 0
    count = 0
    for source in SOURCES:
        found = typecheck(source)
        print(*found, f"[host check] {source.name}: {len(found) or 'no'} diagnostics", sep="\n")
        count += len(found)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
