"""Where LLVM's types lie in memory. Addresses of members are counted in bytes by some versions of clang, and by the
types that they go through by others."""

from __future__ import annotations

import re
from typing import Dict, Iterator, Tuple

from . import ir

_SEQUENCE = re.compile(r"[\[<](\d+) x (.*)[\]>]")


def size_of(kind: str, types: Dict[str, str]) -> int:
    """Bytes from one element of an array of this type to the next."""
    return _size_and_alignment(kind, types)[0]


def offset_of(address: ir.Instruction, types: Dict[str, str]) -> int:
    """Bytes that the constant indices of a getelementptr add."""
    kind = address.element_type()
    offset = (ir.integer(address.operands[1]) or 0) * size_of(kind, types)
    for index in address.operands[2:]:
        number, kind = ir.integer(index) or 0, types.get(kind.strip(), kind.strip())
        sequence = _SEQUENCE.fullmatch(kind)
        if sequence:
            kind = sequence.group(2)
            offset += number * size_of(kind, types)
        else:
            start, _, kind = list(_members(kind, types))[number]
            offset += start
    return offset


def _size_and_alignment(kind: str, types: Dict[str, str]) -> Tuple[int, int]:
    kind = types.get(kind.strip(), kind.strip())
    array = _SEQUENCE.fullmatch(kind) if kind.startswith("[") else None
    if array:
        size, alignment = _size_and_alignment(array.group(2), types)
        return int(array.group(1)) * size, alignment
    if kind.startswith(("{", "<{")):
        members = list(_members(kind, types))
        end = max((start + size_of(member, types) for start, _, member in members), default=0)
        alignment = max((alignment for _, alignment, _ in members), default=1)
        return _rounded(end, alignment), alignment
    size = (ir.bits(kind) + 7) // 8
    alignment = 1 << max(size - 1, 0).bit_length()
    return _rounded(size, alignment), alignment


def _members(kind: str, types: Dict[str, str]) -> Iterator[Tuple[int, int, str]]:
    """Offset, alignment and type of each member of a struct; of a packed one they are not aligned."""
    end = 0
    for member in ir.split(kind[kind.index("{") + 1 : kind.rindex("}")]):
        size, alignment = _size_and_alignment(member, types)
        alignment = 1 if kind.startswith("<") else alignment
        start = _rounded(end, alignment)
        yield start, alignment, member
        end = start + size


def _rounded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
