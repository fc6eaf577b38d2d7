"""Arithmetic on bfloat with clang 16, to which __bf16 converts to and from float, and no more.

clang 16 says which operations it refuses; there the operands go through functions of the stand-in header bfloat.h,
which leave other types as they are (in a template one text serves several):

a * b                   ->  ::metal::__operand_of(a) * ::metal::__operand_of(b)
a += b                  ->  a = ::metal::__assigned<decltype(a)>(::metal::__operand_of(a) + ::metal::__operand_of(b))
static_cast<int>(a)     ->  static_cast<int>(::metal::__converted(a))

The result is a bfloat again, so what an expression is part of is refused, and put differently, in the next turn. What
clang 16 takes and gets wrong, ++ and --, is put right in the LLVM IR (`edited`).
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Tuple

from ..errors import Diagnostic
from ..source.tokens import matching, tokenise
from ..toolchain.clang import Clang
from . import repairs
from .repairs import Refusal, arguments_of, refusals

OPERAND, TARGET, ASSIGNED, CONVERTED, WIDENED = (
    f"::metal::__{name}" for name in ("operand_of", "target", "assigned", "converted", "widened")
)


class _Around(NamedTuple):
    """Text before and behind text[start:end), in whose place `before` stands for the first `dropped` letters."""

    start: int
    end: int
    before: str
    behind: str = ")"
    dropped: int = 0


def is_needed(clang: Clang) -> bool:
    return clang.major < 17


def repaired(clang: Clang, text: str, stderr: str) -> str:
    """`repairs.repaired`, and before it what clang 16 refuses of bfloat."""
    if is_needed(clang):
        edits: Dict[Tuple[int, int], _Around] = {}
        for refusal in refusals(text, stderr):
            for edit in _edits(text, refusal):
                edits.setdefault((edit.start, edit.end), edit)
        if edits:
            return _applied(text, edits.values())
    return repairs.repaired(text, stderr)


def _applied(text: str, edits: Iterable[_Around]) -> str:
    """Edits nest: of those that end at one place the inner come first, of those that start there the outer."""
    pieces = [(e.end, 0, -e.start, e.end, e.behind) for e in edits]
    pieces += [(e.start, 1, -e.end, e.start + e.dropped, e.before) for e in edits]
    parts, position = [], 0
    for start, _, _, end, new in sorted(pieces):
        parts += [text[position:start], new]
        position = end
    return "".join(parts + [text[position:]])


def _edits(text: str, refusal: Refusal) -> Iterator[_Around]:
    message, ranges = refusal.message, refusal.ranges
    if message.startswith("call to ") and message.endswith(" is ambiguous"):  # to it bfloat is as near to half
        for place in arguments_of(text, refusal.at):
            yield from _wrapped(text, place, WIDENED)
        return
    kinds = [_kind(*found) for found in _TYPE.findall(message)]
    if message.startswith("no matching function"):
        yield from _converted_arguments(text, refusal)
    elif "bfloat" not in kinds or "half" in kinds:
        return
    elif message.startswith("invalid operands to binary expression") and len(ranges) == 2:
        yield from _binary(text, *ranges)
    elif "to unary expression" in message or "not contextually convertible to 'bool'" in message:
        yield from _wrapped(text, ranges[0], OPERAND)
    elif message.startswith("incompatible operand types") and len(ranges) == 2:  # c ? a : b
        for kind, place in zip(kinds, ranges):
            if "float" in kinds or kind == "integer":
                yield from _wrapped(text, place, WIDENED if "float" in kinds else CONVERTED)
    elif _CAST.search(message) or _INITIALISED.search(message) and {*kinds} == {"bfloat", "integer"}:
        if ranges and message.count("vector of") < 2:
            yield from _wrapped(text, ranges[-1], CONVERTED)


# A type in a message: as it was written, and as it is.
_TYPE = re.compile(r"'([^']*)'(?: \(aka '([^']*)'\)| \((vector of \d+ '[^']*' values)\))*")
_SPACES = re.compile(r"\b(?:__private|__global|__local|__constant|__generic|const|volatile)\b|&")
_INTEGERS = {"bool", "char", "short", "int", "long", "uchar", "ushort", "uint", "ulong", "unsigned char"}
_INTEGERS |= {"unsigned short", "unsigned int", "unsigned long", "signed char", "size_t"}
_CAST = re.compile(r"^(?:C-style|functional-style|static_cast)(?: cast)? from ")
_INITIALISED = re.compile(r"^cannot initialize |^assigning to ")
_UNCONVERTED = re.compile(r"no known conversion from '.* to '.* for (\d+)\w\w argument")


def _kind(written: str, actual: str, vector: str) -> str:
    """bfloat, half, float, integer or another type's name; of a vector that of its elements."""
    element = re.search(r"'([^']*)'", vector)
    name = _SPACES.sub("", element.group(1) if element else actual or written).strip()
    name = re.sub(r"^(?:metal::)?(?:__packed<(\w+), \d>|packed_(\w+)[234])$", lambda m: m.group(1) or m.group(2), name)
    name = {"__bf16": "bfloat", "bfloat16_t": "bfloat", "_Float16": "half", "float16_t": "half"}.get(name, name)
    return "integer" if name in _INTEGERS else name


def _wrapped(text: str, place: Tuple[int, int], function: str) -> Iterator[_Around]:
    if not _is_call(text[slice(*place)], function):
        yield _Around(*place, f"{function}(")


def _is_call(expression: str, function: str) -> bool:
    """Whether the whole expression is one call of the function: it has been put differently, in vain."""
    if not expression.startswith(function + "("):
        return False
    tokens = tokenise(expression[len(function) :])
    return matching(tokens, 0) == len(tokens) - 1


def _binary(text: str, left: Tuple[int, int], right: Tuple[int, int]) -> Iterator[_Around]:
    operator, target = text[left[1] : right[0]].strip(), text[slice(*left)]
    if operator not in ("+=", "-=", "*=", "/="):
        yield from _wrapped(text, left, OPERAND)
        yield from _wrapped(text, right, OPERAND)
    elif _has_effect(target):
        yield from _wrapped(text, left, TARGET)
    else:
        target = " ".join(target.split())  # every line keeps its number
        value = f"= {ASSIGNED}<decltype({target})>({OPERAND}({target}) {operator[0]} {OPERAND}("
        yield _Around(text.index(operator, left[1]), right[1], value, "))", 2)


_CHANGES = re.compile(r"\+\+|--|[^=!<>]=(?!=)")
_CALLED = re.compile(r"(\w+)(?:<[^()]*>)?\s*\(")
_PURE = {"thread_elements", "static_cast", "min", "max", "int", "uint", "short", "ushort", "long", "ulong", "size_t"}
_PURE |= {"__construct", "__convert", "__operand_of", "__converted", "__widened"}


def _has_effect(expression: str) -> bool:
    """Whether an expression may not be evaluated twice."""
    return bool(_CHANGES.search(expression)) or not _PURE.issuperset(_CALLED.findall(expression))


def _converted_arguments(text: str, refusal: Refusal) -> Iterator[_Around]:
    for note in refusal.notes:
        match = _UNCONVERTED.search(note)
        if match and {_kind(*found) for found in _TYPE.findall(note)} == {"bfloat", "integer"}:
            places = arguments_of(text, refusal.at)
            if int(match.group(1)) <= len(places):
                yield from _wrapped(text, places[int(match.group(1)) - 1], CONVERTED)


def literals(clang: Clang, text: str, stderr: str) -> List[Diagnostic]:
    """Warnings about integer literals that become bfloat; see syntax_tree.py, which cannot see them with clang 16."""
    found = []
    for refusal in refusals(text, stderr) if is_needed(clang) else ():
        if _CAST.search(refusal.message) or any("in instantiation of" in note for note in refusal.notes):
            continue
        for edit in _edits(text, refusal):
            if edit.before == f"{CONVERTED}(" and text[edit.start : edit.end].isdigit():
                column = edit.start - text.rfind("\n", 0, edit.start)
                message = "implicit conversion from int to bfloat; write bfloat(x)"
                found.append(Diagnostic(*refusal.line, column, "warning", message))
    return found


def told(message: str) -> str:
    """A message of clang, without the names of what was put around operands."""
    return _OPERAND_TYPE.sub(r"\1", message)


_OPERAND_TYPE = re.compile(r"\b(?:metal::)?__bfloat_operand<((?:[^<>]|<[^<>]*>)*)>")
_STEP = re.compile(r"(= fadd [\w ]*bfloat \S+), \w+ 0x[KL]\w*?([3B])FFF\w+")
_BETWEEN = re.compile(r"^(  %)(\S+) = fp(?:trunc|ext) (bfloat|half) (\S+) to (half|bfloat)\b", re.MULTILINE)


def edited(module: str) -> str:
    """LLVM IR of clang 16, before any optimisation, with what it makes of ++, -- and casts between half and bfloat put
    right: it adds a 1 of another type, and converts in one step, which LLVM cannot."""
    module = _STEP.sub(lambda m: f"{m.group(1)}, 0xR{m.group(2)}F80", module)
    return _BETWEEN.sub(r"\1widened.\2 = fpext \3 \4 to float\n\1\2 = fptrunc float %widened.\2 to \5", module)
