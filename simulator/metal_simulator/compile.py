"""From Metal to a shared object, and the runtime that it needs."""

from __future__ import annotations

import ctypes
import functools
import re
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

from . import cache
from .declarations import Declarations, Function, Instantiation
from .errors import CompileError, ToolchainError
from .rewrite import for_run, threadgroup_variables
from .source import Source, parse_diagnostics, summary
from .toolchain import RUNTIME, Clang, language_flags, machine_flags, run

THREADGROUP_LIMIT = 32768


@functools.lru_cache(maxsize=None)
def runtime(clang: Clang) -> ctypes.CDLL:
    """The runtime, compiled on first use; its functions are visible to the kernels loaded after it."""
    name = f"runtime-{cache.key(clang.version)}.so"
    target = cache.folder() / name
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / name
            sources = [str(p) for p in sorted(RUNTIME.glob("*.c"))]
            flags = [
                "-O2",
                *machine_flags(),
                "-ffp-contract=fast",
                "-fPIC",
                "-shared",
                "-pthread",
                "-fno-math-errno",
                "-ftls-model=initial-exec",
                "-fvisibility=default",
                "-w",
            ]
            done = run([clang.path, *flags, *sources, "-lm", "-ldl", "-o", str(built)])
            if done.returncode:
                raise ToolchainError(f"{clang.path} cannot compile the simulator's runtime:\n{done.stderr[:2000]}")
            cache.put(name, built.read_bytes())
    return ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)


def compile_kernel(
    clang: Clang,
    source: Source,
    text: str,
    declarations: Declarations,
    kernel: Tuple[Function, Instantiation],
    constants: Dict[str, str],
    check: bool,
    name: str,
) -> dict:
    """Compiles one kernel into <cache>/<name>.so; returns what the launch must know about it."""
    rewritten = for_run(text, declarations, kernel, constants)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "kernel.clcpp"
        written.write_text(_number_files(rewritten.text, source) if check else rewritten.text)
        built = Path(scratch) / "kernel.so"
        done = run([clang.path, *_flags(clang, check), str(written), "-o", str(built)])
        if done.returncode:
            diagnostics = parse_diagnostics(done.stderr)
            raise CompileError(summary("does not compile", source, diagnostics, done.stderr), diagnostics)
        binary = built.read_bytes()
    unset = sorted({m.decode() for m in re.findall(rb"metal_unset_(\w+)\x00", binary)})
    if unset:
        raise CompileError(f"function constant {', '.join(unset)} has no value, and the kernel uses it")
    cache.put(f"{name}.so", binary)
    variables = threadgroup_variables(declarations.tokens, kernel[0])
    return {
        "parameters": [
            {"name": p.name, "kind": p.kind, "index": p.index, "constant": p.constant, "gate": p.gate}
            for p in kernel[0].parameters
        ],
        "max_threads": _max_threads(kernel[0]),
        "threadgroup_variables": [t.text for v in variables for t in v.names],
        "byte_accesses": b"__tsan_read1\0" in binary or b"__tsan_write1\0" in binary or b"__tsan_mem" in binary,
    }


def _number_files(text: str, source: Source) -> str:
    """Line markers that name the source's files by number, so that the result does not depend on where they lie."""
    for number, path in enumerate(source.files):
        text = text.replace(f'"{path}"', f'"metal:{number}"')
    return text


def _flags(clang: Clang, check: bool) -> List[str]:
    flags = [
        *language_flags(generic=True),
        "-w",
        "-O2",
        *machine_flags(),
        "-fPIC",
        "-shared",
        "-ffp-contract=on",
        "-fno-math-errno",
        "-Xclang",
        "-ffloat16-excess-precision=none",
        "-fmax-type-align=1",
        "-fno-stack-protector",
        "-fstack-clash-protection",
        "-lm",
    ]
    if clang.major >= 17:
        flags += ["-Xclang", "-fbfloat16-excess-precision=none"]
    if check:  # only the instrumentation: the hooks are in the runtime
        flags += ["-Xclang", "-fsanitize=thread", "-fno-vectorize", "-fno-slp-vectorize", "-gline-tables-only"]
    return flags


def _max_threads(function: Function) -> int:
    for attribute in function.attributes:
        if attribute.name == "max_total_threads_per_threadgroup" and len(attribute.arguments) == 1:
            text = attribute.arguments[0].text
            if text.isdigit():
                return int(text)
    return 1024
