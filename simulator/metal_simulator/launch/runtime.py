"""The runtime in C: compiled on first use, loaded, and compared with what Python knows of it."""

from __future__ import annotations

import ctypes
import functools
import tempfile
from pathlib import Path
from typing import Dict, List

from .. import limits
from ..checker import findings, slots
from ..errors import ToolchainError
from ..llvm_ir import dataflow
from ..profiler import counters, instruction_classes
from ..toolchain import cache
from ..toolchain.clang import Clang, machine_flags, run
from ..toolchain.paths import RUNTIME
from . import matrix_unit, request

FLAGS = [
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
# By their names in C.
STRUCTS = {
    "Request": request.Request,
    "Region": request.Region,
    "Slot": request.Slot,
    "Finding": findings.Record,
    "Counters": counters.Counters,
}
CONSTANTS = {
    "LANES": limits.LANES,
    "MAX_THREADS": limits.MAX_THREADS,
    "MAX_BUFFERS": limits.MAX_BUFFERS,
    "ARENA_BYTES": limits.THREADGROUP_LIMIT,
    "MAX_FINDINGS": request.MAX_FINDINGS,
    "SLOT_SHIFT": slots.SLOT_SHIFT,
    "LINE_BYTES": counters.LINE_BYTES,
    "WIDTHS": len(counters.WIDTHS),
    **{name: number for number, name in enumerate(instruction_classes.collectives())},
    **findings.NUMBERS,
    **{f"LAYOUT_{name.upper()}": number for number, name in enumerate(matrix_unit.LAYOUTS)},
    **{f"SPACE_{name.upper()}": number for number, name in enumerate(counters.SPACES)},
    **{f"TOTAL_{name.upper()}": number for number, name in enumerate(counters.TOTALS)},
    **{f"ROW_{name.upper()}": number for number, name in enumerate(counters.ROW_FIELDS)},
    **{f"offsetof(Context, {name})": offset for name, offset in dataflow.OFFSETS.items()},
}


@functools.lru_cache(maxsize=None)
def load(clang: Clang) -> ctypes.CDLL:
    """The runtime; its functions are visible to the kernels loaded after it.

    Raises ToolchainError if it does not compile, or if a struct or constant is not in C what it is in Python.
    """
    expected = layout()
    expressions = sorted(expected)
    name = f"runtime-{cache.key(clang.version, expressions)}.so"
    target = cache.folder() / name
    if not target.exists():
        with tempfile.TemporaryDirectory() as scratch:
            built, measured = Path(scratch) / name, Path(scratch) / "layout.c"
            measured.write_text(_measure(expressions))
            sources = [str(p) for p in (*sorted(RUNTIME.glob("*.c")), measured)]
            done = run([clang.path, *FLAGS, f"-I{RUNTIME}", *sources, "-lm", "-ldl", "-o", str(built)])
            if done.returncode:
                raise ToolchainError(f"{clang.path} cannot compile the simulator's runtime:\n{done.stderr[:2000]}")
            cache.put(name, built.read_bytes())
    found = (ctypes.c_int64 * len(expected)).in_dll(ctypes.CDLL(str(target)), "metal_layout")
    compared = zip(expressions, found)
    wrong = [f"{what} is {c} in C, {expected[what]} in Python" for what, c in compared if c != expected[what]]
    if wrong:
        raise ToolchainError(f"the simulator's runtime does not fit its Python: {'; '.join(wrong[:5])}")
    return ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)


def layout() -> Dict[str, int]:
    """What C and Python must agree on: expressions of C, and their values by Python."""
    expected = dict(CONSTANTS)
    for name, struct in STRUCTS.items():
        expected[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            expected[f"offsetof({name}, {field})"] = getattr(struct, field).offset
            expected[f"sizeof((({name}*)0)->{field})"] = getattr(struct, field).size
    return expected


def _measure(expressions: List[str]) -> str:
    return f'#include "runtime.h"\nconst int64_t metal_layout[] = {{{", ".join(expressions)}}};\n'
