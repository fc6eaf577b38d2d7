"""Edits of the LLVM IR that clang makes of a kernel, before it is optimised for NVPTX."""

from __future__ import annotations

import re
from typing import List, NamedTuple

from .program import ENTRY, UNSET

_GLOBAL = r'@(?:"[^"]*"|[-\w.$]+)'
_THREADGROUP = re.compile(rf'^({_GLOBAL}) = .*section "metal_threadgroup".*$', re.MULTILINE)
_UNSET = re.compile(r"^(@metal_unset_\w+) = external .*?(?:global|constant) (\S+?)(?:, align \d+)?$", re.MULTILINE)
_LINKAGE = r"(?:linkonce_odr|weak_odr|weak|dso_local|hidden|internal|private|noundef)\s+"
_MATH = re.compile(r"@llvm\.(exp2?|log(?:2|10)?|a?(?:sin|cos|tan)|(?:sin|cos|tan)h|pow|sqrt)\.f32\(")


class Edited(NamedTuple):
    text: str
    unset: List[str]  # function constants that nobody has set: variables for the host to fill


def edited(text: str) -> Edited:
    """What differs between the simulator's own machine and this one: address spaces, linkage, threadgroup memory.

    Constant memory is device memory here. Threadgroup variables go to shared memory; the front end places them by their
    distance from the start of all of them, which is address 0 of that memory.
    """
    text = text.replace("addrspace(4)", "addrspace(1)").replace("spir_kernel ", "").replace("spir_func ", "")
    text = _calling_library(_without_comdats(text))
    text = _threadgroup_variables(text)
    text = re.sub(r"@__st(?:art|op)_metal_threadgroup\b(?! =)", "null", text)
    text = re.sub(r"^@__st(?:art|op)_metal_threadgroup = .*\n", "", text, flags=re.MULTILINE)
    unset = [name[len(UNSET) + 1 :] for name, _ in _UNSET.findall(text)]
    text = _UNSET.sub(r"\1 = addrspace(1) externally_initialized global \2 0", text)
    return Edited(_internal(text), unset)


def _without_comdats(text: str) -> str:
    text = re.sub(r"^\$.* = comdat any\n", "", text, flags=re.MULTILINE)
    return re.sub(r",? comdat(?:\(\$(?:\"[^\"]*\"|[^)]*)\))?(?=[ ,\n])", "", text)


def _calling_library(text: str) -> str:
    """Functions that NVPTX has no instruction for, by their names in C."""
    text, known = _MATH.sub(r"@\1f(", text), set()
    for declaration in re.findall(r"^declare .*@(\w+)\(.*\n", text, re.MULTILINE):
        if declaration in known:  # as a function and as an intrinsic
            text = re.sub(rf"^declare .*@{declaration}\(.*\n", "", text, count=1, flags=re.MULTILINE)
        known.add(declaration)
    return text


def _threadgroup_variables(text: str) -> str:
    for match in _THREADGROUP.finditer(text):
        name = match.group(1)
        text = text.replace(f"ptr addrspace(1) {name} ", f"ptr addrspace(3) {name} ")
        text = re.sub(rf"ptr addrspace\(1\) {re.escape(name)}(?=[,)])", f"ptr addrspace(3) {name}", text)
    return _THREADGROUP.sub(_as_shared, text)


def _as_shared(match: re.Match) -> str:
    kind = re.search(r"addrspace\(1\) global (.*?) (?:zeroinitializer|undef)", match.group(0)).group(1)
    alignment = re.search(r"align \d+", match.group(0)).group(0)
    return f"{match.group(1)} = internal addrspace(3) global {kind} undef, {alignment}"


def _internal(text: str) -> str:
    """Every function but the entry point is internal and inlined, also one that the user or clang, as clang 22 a
    kernel's body, keeps apart: kernels have no stack."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("define ") and f"@{ENTRY}(" not in line:
            line = "define internal " + re.sub(rf"^define (?:{_LINKAGE})*", "", line)
            line = re.sub(r"\)( (?:local_)?unnamed_addr)?( #\d+)", r")\1 alwaysinline\2", line, count=1)
        elif line.startswith("attributes #"):
            line = re.sub(r" (?:noinline|optnone)(?= )", "", line)
        lines.append(line)
    return "\n".join(lines)
