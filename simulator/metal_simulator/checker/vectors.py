"""Loads of vectors in a checking build: which elements of each count as read.

clang loads a whole vector where a kernel reads a component, and four elements where it reads a vector of three. What is
not used is no access: others may write it, and nobody need have.
"""

from __future__ import annotations

import re
from typing import Dict, List, Set

from ..llvm_ir.ir import bits

_LOAD = re.compile(r"^  (%\S+) = load (<(\d+) x (\w+)>), ptr ([%@][\w.$-]+), align (\d+)")
_TAKEN = re.compile(r"^  %\S+ = extractelement <\d+ x \w+> (%\S+), i(?:32|64) (\d+)\b")
_NAME = re.compile(r"%[\w.$-]+")


class Vectors:
    """The loads of a module's functions, which are entered one after the other."""

    def __init__(self, text: str):
        self._three = "<3 x " in text  # vectors of three elements may be loaded as four
        self._functions = [self._used(part.split("\n")) for part in re.split(r"^(?=define )", text, flags=re.MULTILINE)]
        self._present: Dict[str, Set[int]] = {}
        self._entered = self._parts = 0

    @staticmethod
    def _used(lines: List[str]) -> Dict[str, Set[int]]:
        """Elements that are used of every vector that is loaded."""
        counts = {m.group(1): int(m.group(3)) for m in map(_LOAD.match, lines) if m}
        used: Dict[str, Set[int]] = {name: set() for name in counts}
        for line in lines if counts else ():
            taken = _TAKEN.match(line)
            if taken and taken.group(1) in used:
                used[taken.group(1)].add(int(taken.group(2)))
                continue
            for name in _NAME.findall(line.partition(" = ")[2] or line):
                if name in used:
                    used[name].update(range(counts[name]))
        return used

    def enter(self) -> None:
        """The next function begins."""
        self._entered += 1
        self._present = self._functions[self._entered]

    def hooks(self, line: str, debug: str) -> List[str]:
        """Hooks for the elements that count, if these are not all; none for another instruction."""
        match = _LOAD.match(line)
        if not match:
            return []
        name, kind, count, element, pointer, alignment = match.groups()
        used, size, bytes_ = self._present.get(name), bits(element) // 8, bits(kind) // 8
        if used and len(used) < int(count):
            self._parts += 1
            low, part = min(used) * size, f"%metal.part.{self._parts}"
            return [
                f"  call void @__tsan_alignment(ptr {pointer}, i32 {bytes_}, i32 {alignment}){debug}",
                f"  {part} = getelementptr i8, ptr {pointer}, i64 {low}{debug}",
                f"  call void @__tsan_sized_read(ptr {part}, i64 {(max(used) + 1) * size - low}, i32 1){debug}",
            ]
        if self._three and count == "4":
            return [f"  call void @__tsan_vector_read(ptr {pointer}, i64 {bytes_}, i32 {alignment}){debug}"]
        return []
