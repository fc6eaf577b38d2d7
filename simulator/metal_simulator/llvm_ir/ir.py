"""A reader of LLVM's textual IR, as far as counting needs it: functions, blocks, instructions, types, uses.

One instruction is one line (a switch is joined from several). The text is kept, so that instrumentation is insertion of
lines. The parts of the language that are read have been the same from LLVM 15 on.
"""

from __future__ import annotations

import functools
import re
from typing import Dict, List, NamedTuple, Optional, Tuple

_NAME = r'%(?:"[^"]*"|[-\w.$]+)'
_RESULT = re.compile(rf"\s+({_NAME}) = (.*)")
_TYPE_NAMED = re.compile(rf"({_NAME}) = type (.*)")
_LABEL = re.compile(r'((?:"[^"]*"|[-\w.$]+)):')
_DEFINE = re.compile(r'define .*?@("[^"]*"|[-\w.$]+)\((.*)')
_NAMES = re.compile(_NAME)
_TYPE = re.compile(r"<\d+ x [\w.]+>|\{[^}]*\}|\[\d+ x [^\]]+\]|ptr|void|half|bfloat|float|double|i\d+")
_FLAGS = re.compile(
    r"\b(?:tail|musttail|notail|nuw|nsw|exact|inbounds|nusw|disjoint|nneg|samesign|nnan|ninf|nsz|arcp|contract|afn|"
    r"reassoc|fast|volatile|atomic|noundef|zeroext|signext|nonnull|(?:range|captures|nofpclass)\([^)]*\))\s+"
)
_METADATA = re.compile(r"(, ![\w.]+ !\d+|, !\w+ !\{.*\}|, align \d+| #\d+)+$")
_INTEGER = re.compile(r"-?\d+")
_BRACKET = re.compile(r"[][(){}<>]")

CASTS = frozenset(
    "trunc zext sext fptrunc fpext fptoui fptosi uitofp sitofp ptrtoint inttoptr bitcast addrspacecast".split()
)


class Instruction(NamedTuple):
    """One instruction. operands are values (%name or a constant's text) in order, without labels."""

    line: int  # index in the module's lines
    result: str  # "" when it has none
    opcode: str
    type: str  # of the result; of the stored value for a store; "" when there is none
    operands: Tuple[str, ...]
    callee: str  # of a call: the function's name
    text: str  # without result, flags and metadata

    def labels(self) -> Tuple[str, ...]:
        """Of a phi: the block that each operand comes from."""
        return tuple(re.findall(rf", ({_NAME})\s*\]", self.text))

    def element_type(self) -> str:
        """Of a getelementptr or alloca: the type that is stepped over or allocated."""
        return split(self.text.split(" ", 1)[1])[0]


class Block(NamedTuple):
    label: str
    instructions: List[Instruction]
    successors: Tuple[str, ...]


class Function(NamedTuple):
    name: str
    arguments: Tuple[str, ...]
    line: int  # of its define
    blocks: List[Block]

    def definitions(self) -> Dict[str, Instruction]:
        return {i.result: i for b in self.blocks for i in b.instructions if i.result}

    def users(self) -> Dict[str, List[Instruction]]:
        """Instructions by the value that they use, once for every use."""
        found: Dict[str, List[Instruction]] = {}
        for block in self.blocks:
            for instruction in block.instructions:
                for operand in instruction.operands:
                    found.setdefault(operand, []).append(instruction)
        return found


class Module(NamedTuple):
    lines: List[str]
    functions: List[Function]
    types: Dict[str, str]  # definitions of named types


def read(text: str) -> Module:
    """The module's functions with a body. Raises ValueError for a line that it cannot read."""
    lines = _join(text.split("\n"))
    functions, types, start = [], {}, None
    for number, line in enumerate(lines):
        named = _TYPE_NAMED.match(line)
        if named:
            types[named.group(1)] = named.group(2)
        elif line.startswith("define "):
            start = number
        elif line == "}" and start is not None:
            functions.append(_function(lines, start, number))
            start = None
    return Module(lines, functions, types)


def _join(lines: List[str]) -> List[str]:
    """A switch and its cases on one line."""
    joined: List[str] = []
    for line in lines:
        if joined and joined[-1].lstrip().startswith("switch ") and "]" not in joined[-1]:
            joined[-1] += " " + line.strip()
        else:
            joined.append(line)
    return joined


def _function(lines: List[str], start: int, end: int) -> Function:
    match = _DEFINE.match(lines[start])
    if not match:
        raise ValueError(f"cannot read {lines[start]!r}")
    blocks: List[Block] = []
    arguments = tuple(_NAMES.findall(match.group(2)))
    label, instructions = f"%{sum(a[1:].isdigit() for a in arguments)}", []  # the entry's number, if it has no name
    for number in range(start + 1, end):
        line = lines[number]
        named = _LABEL.match(line)
        if named:
            if instructions:
                blocks.append(_block(label, instructions, lines))
            label, instructions = "%" + named.group(1), []
        elif line.strip() and not line.lstrip().startswith((";", "#dbg")):
            instructions.append(_instruction(number, line))
    blocks.append(_block(label, instructions, lines))
    return Function(match.group(1).strip('"'), arguments, start, blocks)


def _block(label: str, instructions: List[Instruction], lines: List[str]) -> Block:
    last = lines[instructions[-1].line]
    return Block(label, instructions, tuple(dict.fromkeys(re.findall(rf"label ({_NAME})", last))))


def _instruction(number: int, line: str) -> Instruction:
    match = _RESULT.match(line)
    result, text = match.groups() if match else ("", line.strip())
    text = _METADATA.sub("", _FLAGS.sub("", text))
    opcode = text.split(" ", 1)[0]
    rest = text[len(opcode) + 1 :]
    callee, operands, kind = "", (), _leading_type(rest)
    if opcode == "call":
        callee, operands = _call(rest)
    elif opcode == "phi":
        operands = tuple(value.strip() for value in re.findall(r"\[\s*(.*?), " + _NAME + r"\s*\]", rest))
    elif opcode == "getelementptr":
        kind, operands = "ptr", tuple(_value(part) for part in split(rest)[1:])
    elif opcode in ("br", "switch"):
        kind, operands = "", _values(re.sub(rf"label {_NAME}|\[.*\]", "", rest))
    elif opcode in CASTS:
        value, _, target = rest.rpartition(" to ")
        kind, operands = target.strip(), _values(value)
    elif opcode in ("icmp", "fcmp"):
        kind, operands = _comparison(rest)
    elif opcode == "extractelement":
        kind, operands = element(kind), _values(rest)
    elif opcode == "select":
        parts = split(rest)
        kind, operands = _leading_type(parts[1]), tuple(_value(p) for p in parts)
    elif opcode == "alloca":
        kind = "ptr"
    elif opcode in ("load", "atomicrmw", "cmpxchg"):
        operands = tuple(_value(part) for part in split(rest)[1 if opcode == "load" else 0 :])
    elif opcode not in ("ret", "unreachable"):
        operands = _values(rest)
    else:
        kind, operands = "", _values(rest) if opcode == "ret" and rest != "void" else ()
    return Instruction(number, result, opcode, kind, operands, callee, text)


def _comparison(rest: str) -> Tuple[str, Tuple[str, ...]]:
    rest = rest.split(" ", 1)[1]
    lanes = count(_leading_type(rest))
    return ("i1" if lanes == 1 else f"<{lanes} x i1>"), _values(rest)


def _call(rest: str) -> Tuple[str, Tuple[str, ...]]:
    match = re.search(r'@("[^"]*"|[-\w.$]+)\(', rest)
    if not match:
        return "", tuple(_NAMES.findall(rest))
    inside = rest[match.end() : rest.rindex(")")]
    return match.group(1).strip('"'), tuple(_value(p) for p in split(inside))


def _values(text: str) -> Tuple[str, ...]:
    return tuple(_value(part) for part in split(text))


def _value(part: str) -> str:
    """The value in "type value"; a second operand has no type."""
    part = part.strip()
    match = _TYPE.match(part)
    return part[match.end() :].strip() if match and match.end() < len(part) else part


def split(text: str) -> List[str]:
    """Splits at the commas that are in no bracket."""
    if not _BRACKET.search(text):
        return [part for part in text.split(",") if part.strip()]
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and not depth:
            parts.append(text[start:i])
            start = i + 1
    return [p for p in parts + [text[start:]] if p.strip()]


def _leading_type(text: str) -> str:
    match = _TYPE.match(text.strip())
    return match.group(0) if match else ""


@functools.lru_cache(maxsize=None)
def element(kind: str) -> str:
    """Type of one element: of a vector, else the type itself."""
    match = re.fullmatch(r"<\d+ x (.*)>", kind)
    return match.group(1) if match else kind


@functools.lru_cache(maxsize=None)
def count(kind: str) -> int:
    """Elements of a vector type, 1 for others."""
    match = re.match(r"<(\d+) x", kind)
    return int(match.group(1)) if match else 1


@functools.lru_cache(maxsize=None)
def bits(kind: str) -> int:
    """Bits of a scalar, pointer or vector type; 0 for others."""
    sizes = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64}
    scalar = element(kind)
    integer = re.fullmatch(r"i(\d+)", scalar)
    return count(kind) * (int(integer.group(1)) if integer else sizes.get(scalar, 0))


def integer(value: str) -> Optional[int]:
    """The number of an integer constant."""
    return int(value) if _INTEGER.fullmatch(value) else None
