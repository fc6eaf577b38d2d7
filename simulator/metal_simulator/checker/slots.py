"""Threadgroup memory of a checking build: every variable and every [[threadgroup(n)]] argument lies in a slot of
address space of its own, so that an index past one of them is in no other.

In the other builds variables lie side by side in a section of the shared object, and code adds a variable's place there
to the address of the threadgroup's memory. Here the text of the module gets the slot's place instead, and a table of
the variables for the launch.
"""

from __future__ import annotations

import ctypes
import re
from typing import List, NamedTuple, Sequence

SLOT_SHIFT = 37
_SECTION = "metal_threadgroup"
_START = f"@__start_{_SECTION}"
_VARIABLE = re.compile(rf'^(@[\w.$]+) = .*? global (\S+|%"[^"]*") \S+, section "{_SECTION}".*, align (\d+)')
# Padding follows if alignas asks for more than the variable is long.
_TYPE = re.compile(r'^(%\S+|%"[^"]*") = type \{ \[(\d+) x i8\](?:, \[\d+ x i8\])? \}')
_NAME = re.compile(r"__threadgroup_variableI((?:A\d+_)*).*?Li(\d+)ELi\d+EE")
_TABLE = "metal_threadgroup_variables"


class Slot(NamedTuple):
    """A threadgroup variable or argument. element: bytes of one element, 0 when not known; alignment: what its type
    promises."""

    name: str
    bytes: int
    element: int
    alignment: int


def separated(lines: Sequence[str]) -> List[str]:
    """Lines of a module whose threadgroup variables lie 2**SLOT_SHIFT bytes apart, in the order of the text."""
    sizes = {m.group(1): int(m.group(2)) for m in map(_TYPE.match, lines) if m}
    found = [m for m in map(_VARIABLE.match, lines) if m]
    places = {m.group(1): (number << SLOT_SHIFT) + int(m.group(3)) for number, m in enumerate(found)}
    rows = [[*_numbers(m.group(1), sizes[m.group(2)]), int(m.group(3))] for m in found]
    return [*_replaced(lines, places), *_table(rows)]


def _replaced(lines: Sequence[str], places: dict) -> List[str]:
    address = re.compile(rf"ptrtoint \(ptr ({'|'.join(map(re.escape, [_START, *places]))}) to i64\)")
    values = {_START: "0", **{name: str(place) for name, place in places.items()}}
    edited, own = [], False
    for line in lines:
        if line.startswith("define "):
            own = "@metal_static_bytes" in line or "@metal_threadgroup_start" in line
        edited.append(line if own else address.sub(lambda match: values[match.group(1)], line))
    return edited


def _numbers(symbol: str, size: int) -> List[int]:
    """Number of a variable among the file's, its bytes, and bytes of one element."""
    match = _NAME.search(symbol)
    count = 1
    for extent in re.findall(r"\d+", match.group(1)):
        count *= int(extent)
    return [int(match.group(2)), size, size // max(1, count)]


def _table(rows: List[List[int]]) -> List[str]:
    numbers = [len(rows), *(number for row in rows for number in row)]
    values = ", ".join(f"i32 {number}" for number in numbers)
    return [f"@{_TABLE} = constant [{len(numbers)} x i32] [{values}]"]


def slots(code: ctypes.CDLL, description: dict, dynamic: Sequence[int]) -> List[Slot]:
    """Slots of a loaded checking build: its variables, then its arguments, of these sizes."""
    count = ctypes.c_uint32.in_dll(code, _TABLE).value
    numbers = list((ctypes.c_uint32 * (1 + 4 * count)).in_dll(code, _TABLE))[1:]
    names = [name.removeprefix("__metal_name_") for name in description["threadgroup_variables"]]
    found = []
    for i in range(0, len(numbers), 4):
        number, size, element, alignment = numbers[i : i + 4]
        found.append(Slot(names[number] if number < len(names) else "", size, element, alignment))
    arguments = {p["index"]: (i, p) for i, p in enumerate(description["parameters"]) if p["kind"] == "threadgroup"}
    for index, size in enumerate(dynamic):
        number, parameter = arguments.get(index, (0, None))
        element = code.metal_element_bytes(number) if parameter else 0
        found.append(Slot(parameter["name"] if parameter else "", size, element, 16))
    return found
