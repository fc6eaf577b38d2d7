"""A checking build: LLVM IR, edited after clang's thread sanitizer pass has seen the true alignments.

The alignments go (a misaligned access is reported, and then made), accesses of sizes that the sanitizer does not know
and copies of objects get hooks, threadgroup variables get address space of their own, and on request every
floating-point result is watched for the first NaN.
"""

from __future__ import annotations

import itertools
import re
from typing import Iterator, List, Optional, Tuple

from ..llvm_ir.ir import bits, split
from .slots import separated
from .vectors import Vectors

FLAGS = [
    *("-Xclang", "-fsanitize=thread"),  # only the instrumentation: the hooks are in the runtime
    *("-mllvm", "-tsan-instrument-read-before-write"),
    *("-mllvm", "-tsan-instrument-memintrinsics=0"),  # its hooks do not tell the alignment
    "-fno-vectorize",
    "-fno-slp-vectorize",
]

_HOST = ("metal_element_bytes", "metal_static_bytes", "metal_threadgroup_start")  # called by no thread of the GPU
_ACCESS = re.compile(r"^  (?:%\S+ = )?(?:load|store) (?!atomic)")
_ALIGN = re.compile(r", align \d+")
_HOOK = re.compile(r"^  call void @__tsan_(?:unaligned_)?read\d+\(ptr (\S+)\)")
_COPIED = re.compile(r"^  %\S+ = load i(16|32|64), ptr (\S+), align (\d+)(?!.*!tbaa)")
_UNALIGNED = re.compile(r"^  call void @__tsan_unaligned_(?:read|write)(\d+)\(ptr (\S+)\)")
_ALIGNED = re.compile(r"^  (?:%\S+ = )?(?:load|store) (?!atomic).*?, ptr (\S+), align ([2-9]|\d\d)\b")
_SIZED = re.compile(
    r"^  (?:%\S+ = )?(load|store) (?:volatile )?(<\d+ x \w+>|i\d+)[ ,].*?\bptr ([%@][\w.$-]+), align (\d+)"
)
_BLOCK = re.compile(r"^  (?:tail )?call void @llvm\.mem(cpy|move|set)\b[^(]*\((.*), i1 (?:true|false)\)")
_POINTER = re.compile(r"^ptr (?:(.*) )?([%@][\w.$-]+)$")
_FLAGS = r"(?:(?:tail|notail|musttail|contract|nsz|arcp|afn|reassoc|ninf|noundef) )*"
_FLOAT = r"half|bfloat|float|<\d+ x (?:half|bfloat|float)>"
_VALUE = r"(?:%[\w.$-]+|[-+.\w]+|<[^>]*>|splat \([^)]*\))"
_ARITHMETIC = re.compile(rf"^  (%\S+) = f(?:add|sub|mul|div|rem) {_FLAGS}({_FLOAT}) ({_VALUE}), ({_VALUE})")
_CALL = re.compile(rf"^  (%\S+) = {_FLAGS}call {_FLAGS}({_FLOAT}) (@[\w.$]+)\((.*?)\)(?: #\d+)?(?:, !|$)")
_STORE = re.compile(rf"^  store (?:volatile )?({_FLOAT}) ({_VALUE}), ptr (%[\w.$-]+),")
_DEBUG = re.compile(r", !dbg !\d+")
_NO_SOURCE = (
    "@metal_",
    "@llvm.vector",
    "@llvm.minnum",
    "@llvm.maxnum",
    "@llvm.fabs",
    "@llvm.copysign",
    "@fmin",
    "@fmax",
)
_BITS = {"half": 16, "bfloat": 16, "float": 32}


def edited(text: str, nan: bool) -> str:
    """The text of a module. nan: with calls of metal_nan_made and metal_nan_written."""
    lines: List[str] = []
    numbers = itertools.count()
    host, vectors = False, Vectors(text)
    for line in separated(text.split("\n")):
        if line.startswith("define "):
            host = any(f"@{name}(" in line for name in _HOST)
            vectors.enter()
        if _is_copied(lines, line):
            lines.pop()
        part = vectors.hooks(line, _debug(line)) if lines and _HOOK.match(lines[-1]) else []
        if part:
            lines[-1:] = part
        elif not host:
            lines += _alignment(lines, line) + _copy(line) + _sized(line)
        if nan:
            lines += _written(line, numbers)
        lines.append(_without_alignment(line))
        if nan:
            lines += _made(line, numbers)
    lines += ["declare void @__tsan_alignment(ptr, i32, i32)"]
    hooks = [f"__tsan_{kind}_{access}" for kind in ("memory", "sized") for access in ("read", "write")]
    lines += [f"declare void @{hook}(ptr, i64, i32)" for hook in (*hooks, "__tsan_vector_read")]
    lines += ["declare void @metal_nan_made(i32)", "declare void @metal_nan_written(ptr, i32, i32)"] if nan else []
    return "\n".join(lines) + "\n"


def _debug(line: str) -> str:
    found = _DEBUG.search(line)
    return found.group() if found else ""


def _without_alignment(line: str) -> str:
    if _BLOCK.match(line):
        return re.sub(r"\balign \d+ ", "", line)
    return _ALIGN.sub(", align 1", line) if _ACCESS.match(line) else line


def _is_copied(lines: List[str], line: str) -> bool:
    """Whether a load is a part of an object that is copied, padding included, and has the hook of an ordinary one."""
    hook, load = _HOOK.match(lines[-1]) if lines else None, _COPIED.match(line)
    return bool(hook and load) and hook.group(1) == load.group(2)


def _alignment(lines: List[str], line: str) -> List[str]:
    """A hook for what the type promises of an address, if that is less than the size of the access, but not nothing."""
    hook, access = _UNALIGNED.match(lines[-1]) if lines else None, _ALIGNED.match(line)
    if not hook or not access or hook.group(2) != access.group(1):
        return []
    size, pointer, alignment = hook.group(1), *access.groups()
    return [f"  call void @__tsan_alignment(ptr {pointer}, i32 {size}, i32 {alignment}){_debug(line)}"]


def _sized(line: str) -> List[str]:
    """A hook for an access of a size that the sanitizer does not know: of three elements, or of more than 16 bytes."""
    match = _SIZED.match(line)
    if not match or bits(match.group(2)) // 8 in (1, 2, 4, 8, 16) or bits(match.group(2)) % 8:
        return []
    access = "read" if match.group(1) == "load" else "write"
    pointer, size, alignment = match.group(3), bits(match.group(2)) // 8, match.group(4)
    return [f"  call void @__tsan_sized_{access}(ptr {pointer}, i64 {size}, i32 {alignment}){_debug(line)}"]


def _copy(line: str) -> List[str]:
    """Hooks of an instruction that copies or fills an object."""
    load = _COPIED.match(line)
    if load:
        return [_memory_hook("read", load.group(2), str(int(load.group(1)) // 8), load.group(3), line)]
    match = _BLOCK.match(line)
    if not match:
        return []
    kind, arguments = match.group(1), split(match.group(2))
    size = arguments[2].split()[-1]
    pointers = [("write", arguments[0])] if kind == "set" else [("read", arguments[1]), ("write", arguments[0])]
    hooks = []
    for access, argument in pointers:
        attributes, pointer = _POINTER.match(argument.strip()).groups()
        alignment = re.search(r"align (\d+)", attributes or "")
        hooks.append(_memory_hook(access, pointer, size, alignment.group(1) if alignment else "1", line))
    return hooks


def _memory_hook(access: str, pointer: str, size: str, alignment: str, line: str) -> str:
    return f"  call void @__tsan_memory_{access}(ptr {pointer}, i64 {size}, i32 {alignment}){_debug(line)}"


def _result(line: str) -> Optional[Tuple[str, str, List[str]]]:
    """Name, type and operands (those of the same type) of an instruction that computes floating-point numbers."""
    match = _ARITHMETIC.match(line)
    if match:
        return match.group(1), match.group(2), [match.group(3), match.group(4)]
    match = _CALL.match(line)
    if not match or match.group(3).startswith(_NO_SOURCE):
        return None
    name, kind, _, arguments = match.groups()
    return name, kind, re.findall(rf"(?:^|, ){re.escape(kind)} (?:noundef )?({_VALUE})", arguments)


def _made(line: str, numbers: Iterator[int]) -> List[str]:
    """Code after an instruction that tells the runtime of a NaN, unless an operand is one; unset ones do not count."""
    result = _result(line)
    if not result or not result[2]:
        return []
    name, kind, operands = result
    code = _Code(kind, numbers, _debug(line))
    ordinary = code.fold("and", [code.add(f"fcmp ord {kind} {x}, {x}") for x in operands])
    unset = code.fold("or", [code.all_ones(x) for x in operands])
    nan = code.add(f"fcmp uno {kind} {name}, {name}")
    made = code.any(code.fold("and", [nan, code.fold("or", [ordinary, unset])]))
    return code.lines + [f"  call void @metal_nan_made(i32 {made}){code.debug}"]


def _written(line: str, numbers: Iterator[int]) -> List[str]:
    match = _STORE.match(line)
    if not match:
        return []
    kind, value, pointer = match.groups()
    code = _Code(kind, numbers, _debug(line))
    nan = code.any(code.add(f"fcmp uno {kind} {value}, {value}"))
    return code.lines + [f"  call void @metal_nan_written(ptr {pointer}, i32 {code.bytes}, i32 {nan}){code.debug}"]


class _Code:
    """New instructions on values of one type, their results named apart from the module's own."""

    def __init__(self, kind: str, numbers: Iterator[int], debug: str):
        self.kind, self.numbers, self.debug, self.lines = kind, numbers, debug, []
        vector = re.match(r"<(\d+) x (\w+)>", kind)
        self.lanes, element = (int(vector.group(1)), vector.group(2)) if vector else (1, kind)
        self.bytes = self.lanes * _BITS[element] // 8
        self.mask = f"<{self.lanes} x i1>" if vector else "i1"
        self.integer = f"<{self.lanes} x i{_BITS[element]}>" if vector else f"i{_BITS[element]}"
        ones = ", ".join([f"i{_BITS[element]} -1"] * self.lanes)
        self.ones = f"<{ones}>" if vector else "-1"

    def add(self, instruction: str) -> str:
        name = f"%metal.nan.{next(self.numbers)}"
        self.lines.append(f"  {name} = {instruction}{self.debug}")
        return name

    def fold(self, operation: str, masks: List[str]) -> str:
        total = masks[0]
        for mask in masks[1:]:
            total = self.add(f"{operation} {self.mask} {total}, {mask}")
        return total

    def all_ones(self, value: str) -> str:
        """Whether a value is what unset memory and variables hold."""
        return self.add(
            f"icmp eq {self.integer} {self.add(f'bitcast {self.kind} {value} to {self.integer}')}, {self.ones}"
        )

    def any(self, mask: str) -> str:
        """An i32 that is not 0 where any lane is set."""
        bits = self.add(f"bitcast {self.mask} {mask} to i{self.lanes}")
        return self.add(f"zext i{self.lanes} {bits} to i32")
