"""From a kernel to a cubin: the simulator's front end, clang for NVPTX, ptxas."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from ..errors import CompileError, ToolchainError
from ..library import Library
from ..limits import MAX_THREADS, THREADGROUP_LIMIT
from ..source.declarations import Function
from ..source.diagnostics import parse_diagnostics, summary
from ..toolchain import cache
from ..toolchain.clang import Clang, language_flags, run
from ..translate.function_constants import spell_constants
from ..translate.rewrite import for_run
from .module import Edited, edited
from .program import ENTRY, Program, slots
from .tools import Assembler, find_assembler

HERE = Path(__file__).parent
ARCHITECTURE = "sm_90"
MATRIX_MODES = ("exact", "fast")  # fp32 in shuffles and multiply-adds; tensor cores
TARGET = ["--target=nvptx64-nvidia-cuda", "-Xclang", "-target-cpu", "-Xclang", ARCHITECTURE]
TARGET += ["-Xclang", "-target-feature", "-Xclang", "+ptx78"]
_LINES = ["-Xclang", "-debug-info-kind=line-directives-only"]


def build(
    library: Library,
    host_name: str,
    constants: Optional[Mapping[str, object]] = None,
    threads: int = MAX_THREADS,
    matrix: str = "exact",
    lines: bool = False,
) -> Program:
    """Compiles a kernel of a library for NVIDIA GPUs, or takes it from the cache.

    constants: function constants by name; those not given are variables that the host sets after loading.
    threads: most threads of a threadgroup that it will be launched with. matrix: "exact", 8x8 products in fp32
    multiply-adds; or "fast", by tensor cores, which round fp32 operands to tf32 (half and bfloat ones are exact).
    lines: name the .metal file's lines in the cubin, for NVIDIA's checkers (twice the size, the same code).

    The description holds parameters (as Kernel.parameters), gates, unset (names of constants not given), threads,
    architecture, and resources: registers, threadgroup_bytes, spilled_bytes, stack_bytes, generic_accesses,
    and the level of ptxas's optimisation.
    Raises CompileError like Library.kernel, for more threadgroup memory than Metal has, and for a library with
    fast_math; ToolchainError without ptxas.
    """
    if library.fast_math:
        raise CompileError("there is no fast-math build for NVIDIA GPUs")
    if matrix not in MATRIX_MODES:
        raise CompileError(f"matrix is one of {', '.join(MATRIX_MODES)}, not {matrix!r}")
    constants = dict(constants or {})
    assembler = find_assembler()
    typed = sorted((name, repr(value)) for name, value in constants.items())
    parts = (
        library.clang.version,
        assembler.version,
        library.digest,
        host_name,
        typed,
        threads,
        matrix,
        lines,
    )
    name = "nvidia-" + cache.key(*parts)
    description, cubin = cache.read(name), cache.folder() / f"{name}.cubin"
    if description is None or not cubin.exists():
        description = _build(library, assembler, host_name, constants, threads, matrix, lines, cubin.name)
        cache.write(name, description)
    return Program(cubin.read_bytes(), description)


def max_threads(library: Library, host_name: str) -> Optional[int]:
    """What the kernel's max_total_threads_per_threadgroup says; None where that is not a number or the name of one."""
    function = library.declarations.kernels()[host_name][0]
    for attribute in function.attributes:
        if attribute.name == "max_total_threads_per_threadgroup" and len(attribute.arguments) == 1:
            text = attribute.arguments[0].text
            named = re.search(rf"\bconstexpr\s+\w+\s+{re.escape(text)}\s*=\s*(\d+)\s*;", library.text)
            return int(named.group(1)) if named else int(text) if text.isdigit() else None
    return None


def _build(library, assembler: Assembler, host_name, constants, threads, matrix, lines, name: str) -> dict:
    kernel = library.function(host_name)
    function = kernel[0]
    spelled = spell_constants(library.declarations.constants, constants)
    rewritten = for_run(library.shared, kernel, spelled)
    if rewritten.unread:
        raise CompileError(summary(library.source.path, "cannot be read", rewritten.unread, ""), rewritten.unread)
    text = rewritten.text + _entry(function)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        module = _front(library, text, lines, folder)
        assembly = _optimised(library.clang, assembler, module, threads, matrix, folder)
        cubin, resources = _assembled(assembler, assembly, lines, folder)
    if resources["threadgroup_bytes"] > THREADGROUP_LIMIT:
        used = resources["threadgroup_bytes"]
        raise CompileError(
            f"kernel {host_name} uses {used} bytes of threadgroup memory; the limit is {THREADGROUP_LIMIT}"
        )
    cache.put(name, cubin)
    fields = ("name", "kind", "index", "space", "constant", "gate")
    return {
        "parameters": [{field: getattr(p, field) for field in fields} for p in function.parameters],
        "gates": {p.gate: bool(constants.get(p.gate, True)) for p in function.parameters if p.gate},
        "unset": module.unset,
        "threads": threads,
        "architecture": ARCHITECTURE,
        "resources": resources,
    }


GRID = ["uint width", "uint height", "uint depth"]
_CONTEXT = """
# 1 "<entry point for NVIDIA GPUs>"
extern "C" {
uint metal_group(void);
uint metal_threads(uint axis);
uint metal_thread_index(void);
ulong metal_dynamic_memory(void);
}
extern "C" __kernel void ENTRY(PARAMETERS) {
  const ulong buffers[] = {BUFFERS}, arguments[] = {ARGUMENTS};
  const uint linear = metal_group();
  const uint x = metal_threads(0), y = metal_threads(1), z = metal_threads(2), i = metal_thread_index();
  const uint group[] = {linear % width, linear / width % height, linear / (width * height)};
  const uint shape[] = {group[0], group[1], group[2], width, height, depth, x, y, z, (x * y * z + 31) / 32, 1, 1};
  const uint px = i % x, py = i / x % y, pz = i / (x * y);
  const metal::__context context = {
      (ulong)buffers, (ulong)arguments, (ulong)shape, i, i % 32, i / 32, 0,
      {px, py, pz}, {group[0] * x + px, group[1] * y + py, group[2] * z + pz}};
  metal_entry(&context);
}
"""


def _entry(function: Function) -> str:
    """The entry point: addresses of all buffers, the places of threadgroup arguments in their memory, then the grid's
    size in threadgroups, which are launched in one row: NVIDIA's other axes end at 65,535."""
    buffers, arguments = slots((p.kind, p.index) for p in function.parameters)
    names = [f"b{i}" for i in range(buffers)], [f"t{i}" for i in range(arguments)]
    text = _CONTEXT.replace("ENTRY", ENTRY)
    text = text.replace("PARAMETERS", ", ".join([f"ulong {name}" for name in names[0] + names[1]] + GRID))
    text = text.replace("BUFFERS", ", ".join(names[0] or ["0"]))
    return text.replace("ARGUMENTS", ", ".join([f"metal_dynamic_memory() + {name}" for name in names[1]] or ["0"]))


def _front(library: Library, text: str, lines: bool, folder: Path) -> Edited:
    """LLVM IR of the kernel, not optimised."""
    written, built = folder / "kernel.clcpp", folder / "kernel.ll"
    extensions = ["-Xclang", "-cl-ext=+__cl_clang_function_pointers"]
    flags = [
        *language_flags(run_time=True),
        *TARGET,
        *extensions,
        *(_LINES if lines else []),
        "-w",
        "-O2",
        "-ffp-contract=on",
    ]
    flags += ["-Xclang", "-disable-llvm-passes", "-S", "-emit-llvm"]
    written.write_text(text)
    done = run([library.clang.path, *flags, str(written), "-o", str(built)])
    if done.returncode:
        diagnostics = parse_diagnostics(done.stderr)
        raise CompileError(summary(library.source.path, "does not compile", diagnostics, done.stderr), diagnostics)
    module = built.read_text()
    if "@metal_matrix_unit(" in module:
        header = "MetalPerformancePrimitives/MetalPerformancePrimitives.h"
        raise CompileError(f"{library.source.path}: products of <{header}> are not there on NVIDIA GPUs")
    return edited(module)


@functools.lru_cache(maxsize=None)
def _runtime(clang: Clang, matrix: str) -> str:
    """Path of the runtime's bitcode."""
    name = f"nvidia-runtime-{cache.key(clang.version, matrix)}.bc"
    if not (cache.folder() / name).exists():
        with tempfile.TemporaryDirectory() as scratch:
            built = Path(scratch) / name
            define = ["-DMATRIX_FAST"] if matrix == "fast" else []
            flags = ["-x", "c", *TARGET, *define, "-O2", "-ffreestanding", "-nostdinc", "-fconvergent-functions", "-w"]
            done = run([clang.path, *flags, "-emit-llvm", "-c", str(HERE / "runtime.c"), "-o", str(built)])
            if done.returncode:
                raise ToolchainError(f"{clang.path} cannot compile for NVIDIA GPUs:\n{done.stderr[:2000]}")
            cache.put(name, built.read_bytes())
    return str(cache.folder() / name)


def _optimised(clang: Clang, assembler: Assembler, module: Edited, threads: int, matrix: str, folder: Path) -> str:
    """PTX of the module, with the runtime inside."""
    written, built = folder / "module.ll", folder / "kernel.ptx"
    written.write_text(module.text)
    link = [f for path in (_runtime(clang, matrix), assembler.libdevice) for f in ("-mlink-builtin-bitcode", path)]
    link = [f for flag in link for f in ("-Xclang", flag)]
    done = run([clang.path, "-x", "ir", *TARGET, "-O3", "-w", *link, "-S", str(written), "-o", str(built)])
    if done.returncode:
        raise CompileError(f"clang cannot make PTX of the kernel:\n{done.stderr[:2000]}")
    return re.sub(
        rf"(\.entry {ENTRY}\([^)]*\)\s*)\{{", rf"\1.maxntid {threads}, 1, 1\n.minnctapersm 1\n{{", built.read_text()
    )


def _assembled(assembler: Assembler, assembly: str, lines: bool, folder: Path) -> Tuple[bytes, Dict[str, int]]:
    """The cubin, and what it uses. Where ptxas spills registers it is asked again for less optimisation."""
    written, built = folder / "kernel.ptx", folder / "kernel.cubin"
    written.write_text(assembly)
    for level in (3, 1):
        flags = [f"-arch={ARCHITECTURE}", f"-O{level}", "-v", *(["-lineinfo"] if lines else [])]
        done = run([assembler.path, *flags, str(written), "-o", str(built)])
        if done.returncode:
            raise CompileError(f"ptxas does not assemble the kernel:\n{(done.stdout + done.stderr)[:2000]}")
        resources = _resources(done.stdout + done.stderr, assembly)
        if not resources["spilled_bytes"]:
            break
    return built.read_bytes(), {**resources, "optimisation": level}


def _resources(report: str, assembly: str) -> Dict[str, int]:
    def total(pattern: str) -> int:
        return sum(map(int, re.findall(pattern, report)))

    accesses = re.findall(r"^\s+(?:@\S+\s+)?((?:ld|st|atom|red)\.[\w.:]+)", assembly, re.MULTILINE)
    spaces = {"global", "shared", "param", "local", "const"}
    return {
        "registers": total(r"Used (\d+) registers"),
        "threadgroup_bytes": total(r"(\d+) bytes smem"),
        "spilled_bytes": total(r"(\d+) bytes spill"),
        "stack_bytes": total(r"(\d+) bytes stack frame"),
        "generic_accesses": sum(not spaces & set(access.split(".")) for access in accesses),
    }
