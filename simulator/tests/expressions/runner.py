"""Runs programs, many in one Metal file, and says what became of each of them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from metal_simulator import CompileError, Library, SimulatorError

from .program import Program
from .types import SCALARS, TYPES, Type, memory, words

WORDS = 8  # of a result: two for each component


class Outcome(NamedTuple):
    """kind: "right", "differs", "refused" (by the reader or clang), "lost" (a kernel is not found) or "failed" (while
    it ran); found: the words of the result of each lane, where it ran"""

    kind: str
    message: str = ""
    found: np.ndarray = np.zeros(0)


RIGHT = Outcome("right")


def run(programs: Sequence[Program]) -> List[Outcome]:
    """All in one file; a file that does not run is divided until it is known whose fault it is."""
    try:
        found = _launch(programs)
    except (SimulatorError, _Lost) as error:
        return _divided(programs, error)
    outcomes = []
    for program, result in zip(programs, found):
        expected = words(program.type, program.expected)
        same = np.array_equal(result[:, : expected.shape[1]], expected)
        outcomes.append(RIGHT if same else Outcome("differs", "", result[:, : expected.shape[1]]))
    return outcomes


class _Lost(Exception):
    """The file has kernels that the library does not list."""


def _divided(programs: Sequence[Program], error: Exception) -> List[Outcome]:
    if len(programs) == 1:
        kind = "lost" if isinstance(error, _Lost) else "refused" if isinstance(error, CompileError) else "failed"
        messages = [d.message for d in getattr(error, "diagnostics", ()) if d.severity == "error"]
        text = "clang crashes" if "Stack dump:" in str(error) else str(error)
        return [Outcome(kind, (messages or [text])[0])]
    outcomes: Dict[int, Outcome] = {}
    for d in getattr(error, "diagnostics", ()):
        i = next((i for i, (first, last) in enumerate(_lines(programs)) if first <= d.line < last), None)
        if i is not None and d.severity == "error":
            outcomes.setdefault(i, Outcome("refused", d.message))
    rest = [i for i in range(len(programs)) if i not in outcomes]
    half = rest[: len(rest) // 2]
    for group in [rest] if outcomes else [half, rest[len(half) :]]:
        if group:
            outcomes |= zip(group, run([programs[i] for i in group]))
    return [outcomes[i] for i in range(len(programs))]


def file_text(programs: Sequence[Program]) -> str:
    """Two kernels, so that one that is lost is noticed: run() computes all results, after() none."""
    fields, _, _ = _inputs(programs)
    parts = [_HEADER, *(program.named(f"p{i}") for i, program in enumerate(programs))]
    calls = []
    for i, program in enumerate(programs):
        given = ", ".join(f"in.{fields[_key(a)]}" for a in program.arguments)
        calls.append(f"  put(out + (i * {len(programs)} + {i}) * {WORDS}, p{i}({given}));")
    declared = "".join(f" {key[0]} {name};" for key, name in fields.items())
    parts.append(f"struct Inputs {{{declared} char end; }};")
    parts.append(
        "kernel void run(device const Inputs* inputs [[buffer(0)]], device uint* out [[buffer(1)]],\n"
        "                uint i [[thread_position_in_grid]]) {\n  device const Inputs& in = inputs[i];"
    )
    return "\n".join([*parts, *calls, "}\n\nkernel void after(device uint* out [[buffer(0)]]) { out[0] = 1; }\n"])


def _lines(programs: Sequence[Program]) -> List[Tuple[int, int]]:
    """First line of each program, and the first line after it."""
    line, found = _HEADER.count("\n") + 2, []
    for program in programs:
        end = line + program.text.count("\n") + 1
        found.append((line, end))
        line = end
    return found


def _key(argument) -> Tuple[str, str]:
    return str(argument.type), hashlib.sha256(memory(argument.type, argument.values).tobytes()).hexdigest()


def _inputs(programs: Sequence[Program]):
    """Names of the fields of Inputs by type and content, their bytes, and the bytes of the struct."""
    arguments = {_key(a): a for program in programs for a in program.arguments}
    names, data, offset = {}, [], 0
    for i, (key, argument) in enumerate(arguments.items()):
        names[key] = f"f{i}"
        offset = -(-offset // argument.type.bytes) * argument.type.bytes
        data.append((offset, memory(argument.type, argument.values)))
        offset += argument.type.bytes
    alignment = max([a.type.bytes for a in arguments.values()], default=1)
    return names, data, -(-(offset + 1) // alignment) * alignment


def _launch(programs: Sequence[Program]) -> np.ndarray:
    lanes = len(programs[0].expected)
    _, data, size = _inputs(programs)
    inputs = np.zeros((lanes, size), np.uint8)
    for offset, raw in data:
        inputs[:, offset : offset + raw.shape[1]] = raw
    out = np.full((lanes, len(programs), WORDS), 0xDEADBEEF, np.uint32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "programs.metal"
        file.write_text(file_text(programs))
        library = Library(file)
        if library.kernels != ("run", "after"):
            raise _Lost(f"kernels found: {library.kernels}, not run and after")
        library.kernel("run").launch([inputs, out], (1, 1, 1), (lanes, 1, 1), workers=1)
    return out.swapaxes(0, 1)


def _put(type: Type) -> str:
    scalar = type.scalar
    if type.size > 1:
        body = " ".join(f"put(out + {2 * k}, v.{'xyzw'[k]});" for k in range(type.size))
    elif scalar == "float":
        body = "out[0] = as_type<uint>(v); out[1] = 0;"
    elif scalar in ("half", "bfloat"):
        body = "out[0] = as_type<ushort>(v); out[1] = 0;"
    elif SCALARS[scalar].bits == 64:
        body = "out[0] = uint(v & 0xffffffff); out[1] = uint((v >> 32) & 0xffffffff);"
    else:
        body = "out[0] = uint(v); out[1] = 0;"
    return f"static inline void put(device uint* out, {type} v) {{ {body} }}"


_HEADER = "\n".join(
    [
        "#include <metal_stdlib>",
        "using namespace metal;",
        *(_put(type) for type in TYPES),
        *(f"static inline int which({type} v) {{ return {i}; }}" for i, type in enumerate(TYPES)),
    ]
)


def scratch_cache(set_variable=os.environ.__setitem__) -> tempfile.TemporaryDirectory:
    """A cache for kernels that nobody needs again; the simulator uses it until the directory is cleaned up."""
    folder = tempfile.TemporaryDirectory(prefix="expressions-")
    set_variable("METAL_SIMULATOR_CACHE", folder.name)
    return folder
