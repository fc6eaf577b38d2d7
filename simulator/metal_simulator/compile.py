"""From Metal to a shared object, and the runtime that it needs."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from .checker import checking
from .errors import CompileError
from .limits import MAX_THREADS
from .profiler import counting
from .source.declarations import Function, Instantiation
from .source.diagnostics import parse_diagnostics, summary
from .source.files import Source
from .toolchain import cache
from .toolchain.clang import FAST_MATH, Clang, language_flags, machine_flags, run
from .toolchain.linker import OBJECT, SHARED, link
from .toolchain.precompiled import divided, precompiled
from .translate.entry_point import in_scope
from .translate.rewrite import Shared, for_run

_FLAGS_OF = {
    "run": ["-fmax-type-align=1"],
    "count": ["-fmax-type-align=1", *counting.FLAGS],
    "check": checking.FLAGS,
    "nan": checking.FLAGS,
}
BUILDS = tuple(_FLAGS_OF)
_IR = "kernel.ll"


def compile_kernel(
    clang: Clang,
    source: Source,
    file: Shared,
    kernel: Tuple[Function, Instantiation],
    constants: Dict[str, str],
    mode: str,
    fast_math: bool,
    name: str,
) -> dict:
    """Compiles one kernel into <cache>/<name>.so; returns what the launch must know about it.

    mode: "run", "check" (every access calls the checker), "nan" (so does every floating-point result) or "count".
    fast_math: with clang's fast math.
    """
    rewritten = for_run(file, kernel, constants)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        headers, own = divided(rewritten.text, source.path)
        own = _number_files(own, list(source.files)) + _ELEMENT_BYTES + _element_bytes(kernel)
        done = _compile(clang, mode, fast_math, _number_files(headers, [source.path]), own, folder)
        if done.returncode:
            messages = _name_files(done.stderr, source)
            diagnostics = parse_diagnostics(messages)
            raise CompileError(summary(source.path, "does not compile", diagnostics, messages), diagnostics)
        if rewritten.unread:
            raise CompileError(summary(source.path, "cannot be read", rewritten.unread, ""), rewritten.unread)
        counted = _finish(clang, mode, folder)
        binary = (folder / SHARED).read_bytes()
    unset = sorted({m.decode() for m in re.findall(rb"metal_unset_(\w+)\x00", binary)})
    if unset:
        raise CompileError(f"function constant {', '.join(unset)} has no value, and the kernel uses it")
    cache.put(f"{name}.so", binary)
    return {
        "parameters": [
            {name: getattr(p, name) for name in ("name", "kind", "index", "space", "constant", "gate")}
            for p in kernel[0].parameters
        ],
        "max_threads": _max_threads(kernel[0]),
        "threadgroup_variables": file.threadgroup_names,
        **counted,
        "byte_accesses": b"__tsan_read1\0" in binary or b"__tsan_write1\0" in binary or b"__tsan_mem" in binary,
    }


def _number_files(text: str, files: Sequence[Path]) -> str:
    """Line markers that name the source's files by number, so that the result does not depend on where they lie."""
    for number, path in enumerate(files):
        text = text.replace(f'"{path}"', f'"metal:{number}"')
    return text


def _name_files(messages: str, source: Source) -> str:
    """The inverse, in clang's messages."""
    files = list(source.files)
    return re.sub(r"\bmetal:(\d+):(?=\d+:\d+:)", lambda match: f"{files[int(match.group(1))]}:", messages)


def _compile(clang: Clang, mode: str, fast_math: bool, headers: str, own: str, folder: Path):
    """Makes an object; of a build that is edited, LLVM IR in its place."""
    command = [clang.path, *_flags(clang), *(FAST_MATH if fast_math else []), *_FLAGS_OF[mode]]
    (folder / "kernel.clcpp").write_text(own)
    command = [*command, *precompiled(clang, command, headers), str(folder / "kernel.clcpp")]
    made = ["-c", "-o", str(folder / OBJECT)] if mode == "run" else ["-S", "-emit-llvm", "-o", str(folder / _IR)]
    return run([*command, *made])


def _finish(clang: Clang, mode: str, folder: Path) -> dict:
    """Edits what is edited, and goes on to a shared object; returns what a counting build says of its counts."""
    said: dict = {}
    if mode != "run":
        middle = folder / _IR
        text = middle.read_text()
        if mode == "count":
            text, said = counting.counted(text)
        else:
            text = checking.edited(text, mode == "nan")
        middle.write_text(text)
        flags = [*machine_flags(clang.major), "-O2", "-fPIC", "-fno-plt", "-w", "-Xclang", "-disable-llvm-passes"]
        _succeed(run([clang.path, "-x", "ir", *flags, "-c", str(middle), "-o", str(folder / OBJECT)]), mode)
    _succeed(link(clang, folder), mode)
    return said


def _succeed(done, mode: str) -> None:
    if done.returncode:
        raise CompileError(f"cannot make the {mode} build of the kernel:\n{done.stderr[:2000]}")


# Bytes of what each parameter points to, so that findings can count in elements.
_ELEMENT_BYTES = """
# 1 "<element sizes>"
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
namespace metal {
template <typename T> constexpr uint __size() {
  if constexpr (__is_void(T)) return 1;
  else return sizeof(T);
}
template <typename T> struct __pointed { static constexpr uint bytes = 0; };
template <typename T> struct __pointed<__global T*> { static constexpr uint bytes = __size<T>(); };
template <typename T> struct __pointed<__constant T*> { static constexpr uint bytes = __size<T>(); };
template <typename T> struct __pointed<__local T*> { static constexpr uint bytes = __size<T>(); };
template <typename F> struct __parameters;
template <typename R, typename... A> struct __parameters<R(A...)> {
  static __attribute__((always_inline)) uint bytes(uint i) {
    const uint all[] = {__pointed<A>::bytes..., 0};
    return all[i];
  }
};
template <typename R, typename... A> struct __parameters<R(A...) noexcept> : __parameters<R(A...)> {};
}
"""


def _element_bytes(kernel: Tuple[Function, Instantiation]) -> str:
    function, instantiation = kernel
    name = f"::{function.qualified}" + (f"<{instantiation.arguments}>" if instantiation else "")
    bytes_of = (
        'extern "C" __attribute__((no_sanitize("thread"))) '  # the host calls it
        f"uint metal_element_bytes(uint i) {{ return ::metal::__parameters<decltype({name})>::bytes(i); }}"
    )
    return (
        f"{in_scope(instantiation, bytes_of)}\n"
        'extern "C" ulong metal_threadgroup_start(void) { return (ulong)metal::__start_metal_threadgroup; }\n'
    )


def _flags(clang: Clang) -> List[str]:
    return [
        *language_flags(run_time=True),
        "-w",
        "-O2",
        *machine_flags(clang.major),
        "-fPIC",
        "-fno-plt",  # a thread that is stopped in a stub would have no source line
        "-ffp-contract=on",
        "-fno-math-errno",
        "-Xclang",
        "-ffloat16-excess-precision=none",
        "-Xclang",
        "-fbfloat16-excess-precision=none",
        *("-Xclang", "-cl-ext=+__cl_clang_function_pointers"),  # for _ELEMENT_BYTES
        "-ftrivial-auto-var-init=pattern",  # an unset float is NaN, not by chance what was wanted
        "-fno-stack-protector",
        "-fno-optimize-sibling-calls",  # a collective's return address tells where it is
        "-fstack-clash-protection",
        "-fno-finite-loops",  # a loop that never ends is a finding, not undefined behaviour
        "-gline-tables-only",
    ]


def _max_threads(function: Function) -> int:
    for attribute in function.attributes:
        if attribute.name == "max_total_threads_per_threadgroup" and len(attribute.arguments) == 1:
            text = attribute.arguments[0].text
            if text.isdigit():
                return int(text)
    return MAX_THREADS
