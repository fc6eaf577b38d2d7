"""Registers and spills in the native code of a kernel, which `xcrun metal-tt` makes of a metallib without a GPU.

Apple documents none of this. By public tools that read the same files, calibrated on kernels of known pressure, each
native object is a Mach-O with a section __GPU_METADATA,__compute, which holds a FlatBuffer whose largest table has the
registers of a thread in field 0 and the bytes that are spilled, if any, in field 14. So the figures are hints: printed,
never judged. No such file has been read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_MACH_O = b"\xcf\xfa\xed\xfe"
_SEGMENT_64 = 0x19
_REGISTERS, _SPILLED = 0, 14


class Usage(NamedTuple):
    registers: int
    spilled_bytes: int


def usages(binary: bytes) -> list[Usage]:
    """Of each native object in a file of metal-tt; empty if there is nothing that is understood."""
    found = []
    at = binary.find(_MACH_O)
    while at >= 0:
        for metadata in _sections(binary[at:], b"__GPU_METADATA", b"__compute"):
            table = max(_tables(metadata), key=len, default={})
            if _REGISTERS in table:
                found.append(Usage(table[_REGISTERS], table.get(_SPILLED, 0)))
        at = binary.find(_MACH_O, at + 4)
    return found


def _sections(binary: bytes, segment: bytes, name: bytes) -> Iterator[bytes]:
    """<mach-o/loader.h>: mach_header_64, segment_command_64, section_64. Stops where the file does not hold."""
    if len(binary) < 32:
        return
    [count], at = struct.unpack_from("<I", binary, 16), 32
    for _ in range(count):
        if at + 8 > len(binary):
            return
        command, size = struct.unpack_from("<2I", binary, at)
        if command == _SEGMENT_64:
            for entry in range(at + 72, min(at + size, len(binary)) - 79, 80):
                own, its_segment, _, length, offset = struct.unpack_from("<16s16s2QI", binary, entry)
                if (its_segment.rstrip(b"\0"), own.rstrip(b"\0")) == (segment, name):
                    yield binary[offset : offset + length]
        if not size:
            return
        at += size


def _tables(buffer: bytes) -> Iterator[dict[int, int]]:
    """Fields, by number, of what looks like a table of a FlatBuffer.

    It begins with the distance to its vtable, which lies right before it and begins with its own size.
    """
    for table in range(4, len(buffer) - 3, 2):
        [size] = struct.unpack_from("<i", buffer, table)
        if size < 4 or size % 2 or size > table:
            continue
        own_size, length, *places = struct.unpack_from(f"<{size // 2}H", buffer, table - size)
        if own_size == size and 4 <= length <= len(buffer) - table:
            yield {
                field: int.from_bytes(buffer[table + place : table + min(place + 4, length)], "little")
                for field, place in enumerate(places)
                if 4 <= place < length
            }
