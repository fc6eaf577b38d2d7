"""Function constants: their values from Python to C++, and their declarations."""

from __future__ import annotations

import difflib
import math
import operator
import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import CompileError
from ..source.declarations import Constant
from .edits import Edit

_RANGES = {
    "char": (-128, 127),
    "int8_t": (-128, 127),
    "uchar": (0, 255),
    "uint8_t": (0, 255),
    "short": (-(2**15), 2**15 - 1),
    "int16_t": (-(2**15), 2**15 - 1),
    "ushort": (0, 2**16 - 1),
    "uint16_t": (0, 2**16 - 1),
    "int": (-(2**31), 2**31 - 1),
    "int32_t": (-(2**31), 2**31 - 1),
    "uint": (0, 2**32 - 1),
    "uint32_t": (0, 2**32 - 1),
    "unsigned": (0, 2**32 - 1),
    "unsigned int": (0, 2**32 - 1),
    "long": (-(2**63), 2**63 - 1),
    "int64_t": (-(2**63), 2**63 - 1),
    "ulong": (0, 2**64 - 1),
    "uint64_t": (0, 2**64 - 1),
    "size_t": (0, 2**64 - 1),
}
_VECTOR = re.compile(r"([a-z]+)([234])|vec<(\w+),([234])>")
_FLOATS = ("half", "float", "bfloat")


class Derived(NamedTuple):
    """A constant at namespace scope in whose value others are named."""

    statement: Tuple[int, int]  # where it stands
    place: int  # of its name
    end: int  # of its value
    name: str
    type: str
    uses: List[int]  # places of the others


def near(name: str, names: Sequence[str]) -> str:
    """A hint for a misspelt name."""
    close = difflib.get_close_matches(name, names, 3, 0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known are {', '.join(sorted(names)[:8]) or 'none'}"


def spell_constants(declared: Sequence[Constant], values: Mapping[str, object]) -> Dict[str, str]:
    """C++ text of each given value. Raises CompileError for unknown names and values of the wrong type."""
    by_name = {c.name: c for c in declared}
    for name in values:
        if name not in by_name:
            raise CompileError(f"no function constant {name!r} in this file{near(name, list(by_name))}")
    return {name: _spell(by_name[name], value) for name, value in values.items()}


def _spell(constant: Constant, value: object) -> str:
    kind = constant.type.replace("metal :: ", "").replace(":: ", "")
    wrong = CompileError(f"function constant {constant.name} is {kind}, not {value!r}")
    vector = _VECTOR.fullmatch(kind.replace(" ", ""))
    if vector:
        scalar, count = vector.group(1) or vector.group(3), int(vector.group(2) or vector.group(4))
        if not isinstance(value, (tuple, list)) or len(value) != count:
            raise wrong
        parts = ", ".join(_spell(constant._replace(type=scalar), part) for part in value)
        return f"{'::metal::' if scalar == 'bool' else ''}{scalar}{count}{{{parts}}}"
    boolean = isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")
    if kind == "bool":
        if not boolean:
            raise wrong
        return "true" if value else "false"
    if boolean:
        raise wrong
    if kind in _RANGES:
        try:
            number = operator.index(value)
        except TypeError:
            raise wrong from None
        low, high = _RANGES[kind]
        if not low <= number <= high:
            raise CompileError(f"function constant {constant.name} is {kind}: {number} is out of range")
        return (
            f"({kind})({number}{'u' if number > 2**63 - 1 else ''}l)"
            if number > low
            else f"({kind})({number + 1}l - 1)"
        )
    if kind in _FLOATS:
        return f"({kind})({_spell_float(value, wrong)})"
    raise CompileError(f"function constant {constant.name} has type {kind}; only scalars and vectors can be given")


def _spell_float(value: object, wrong: CompileError) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise wrong from None
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    return f"{number.hex()}f"


def derived_edits(text: str, constants: Sequence[Derived], unset: Mapping[int, str]) -> List[Edit]:
    """Constants computed from function constants without a value have none either. unset: those, by place"""
    roots = dict(unset)
    for made in constants:
        root = next((roots[use] for use in made.uses if use in roots), None)
        if root is not None:
            roots[made.place] = root
    edits = []
    for start, end in sorted({made.statement for made in constants if made.place in roots}):
        ours = [made for made in constants if made.statement == (start, end)]
        head = text[start : ours[0].place]
        edits.append(Edit(start, end, " ".join(_declaration(text, head, made, roots.get(made.place)) for made in ours)))
    return edits


def _declaration(text: str, head: str, made: Derived, root: Optional[str]) -> str:
    if root is None:
        return f"{head} {text[made.place : made.end]};"
    return f'extern __constant const {made.type} {made.name} __asm__("metal_unset_{root}");'


def definition(constant: Constant, values: Dict[str, str], optional) -> str:
    if constant.name in values:
        return f"static __constant const {constant.type} {constant.name} = {values[constant.name]};"
    if constant.name in optional:  # guarded by is_function_constant_defined
        return f"static __constant const {constant.type} {constant.name} = {constant.type}();"
    return f'extern __constant const {constant.type} {constant.name} __asm__("metal_unset_{constant.name}");'
