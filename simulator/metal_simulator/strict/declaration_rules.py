"""More rules of Metal that stock clang does not know: about functions, function constants and types."""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, Set, Tuple

from ..source.declarations import Declarations, Function
from ..source.tokens import Token, matching, matching_angle, split
from ..translate.threadgroup_variables import without_zeros
from .known_names import header_names

Report = Tuple[Token, str, str]
_SCALARS = r"(?:bool|u?char|u?short|u?int|u?long|half|float|bfloat|unsigned|size_t|u?int(?:8|16|32|64)_t)"
_CONSTANT_TYPES = re.compile(rf"(?:{_SCALARS}|unsigned\w+|(?:metal::)?vec<\w+,[234]>|{_SCALARS}[234])")
_LANE_POSITIONS = {
    "thread_index_in_simdgroup",
    "simdgroup_index_in_threadgroup",
    "thread_index_in_quadgroup",
    "quadgroup_index_in_threadgroup",
}


def recursion(declarations: Declarations) -> Iterator[Report]:
    """Functions that reach themselves. Overloads and templates end by type, not by value, and are left out."""
    counts: Dict[str, int] = {}
    for function in declarations.functions:
        counts[function.qualified] = counts.get(function.qualified, 0) + 1
    functions = {
        f.qualified: f
        for f in declarations.functions
        if counts[f.qualified] == 1 and not f.template and f.name not in header_names()  # an overload of the library's
    }
    calls = {name: _called(declarations.tokens, f, set(functions)) for name, f in functions.items()}
    for name, function in functions.items():
        reached, waiting = set(), list(calls[name])
        while waiting:
            other = waiting.pop()
            if other not in reached:
                reached.add(other)
                waiting += calls[other]
        if name in reached:
            token = declarations.tokens[function.open - 1]
            yield token, "warning", f"{function.name} is recursive: legal since Metal 2.4, but hardly ever used"


def _called(tokens: List[Token], function: Function, known: Set[str]) -> List[str]:
    found = []
    for i in range(function.body, function.end):
        if tokens[i].kind != "identifier" or tokens[i + 1].text != "(" or tokens[i - 1].text in (".", "->"):
            continue
        name, first = tokens[i].text, i
        while tokens[first - 1].text == "::" and tokens[first - 2].kind == "identifier":
            name, first = f"{tokens[first - 2].text}::{name}", first - 2
        scopes = [] if tokens[first - 1].text == "::" else function.scope.split("::")
        if tokens[first - 1].kind == "identifier" and tokens[first - 1].text != "return":
            continue  # a declaration
        for depth in range(len(scopes), -1, -1):
            candidate = "::".join([s for s in scopes[:depth] if s] + [name])
            if candidate in known:
                found.append(candidate)
                break
    return found


def arguments(declarations: Declarations) -> Iterator[Report]:
    """Arguments of derived classes, and types of the lane and SIMD-group indices of one kernel."""
    tokens = declarations.tokens
    derived = {
        tokens[i + 1].text
        for i in range(len(tokens) - 3)
        if tokens[i].text in ("struct", "class") and tokens[i + 2].text == ":" and tokens[i + 1].kind == "identifier"
    }
    for function in declarations.functions:
        first = None
        for parameter in function.parameters:
            if parameter.kind == "buffer" and derived & {t.text for t in parameter.type}:
                yield parameter.token, "error", f"kernel argument '{parameter.name}' is of a derived class"
            if parameter.kind in _LANE_POSITIONS:
                kind = " ".join(t.text for t in parameter.type if t.text != "const")
                first = first or (kind, parameter.name)
                if kind != first[0]:
                    message = f"'{parameter.name}' is {kind}, '{first[1]}' {first[0]}: give them the same type"
                    yield parameter.token, "warning", message


def function_constants(declarations: Declarations) -> Iterator[Report]:
    seen: Dict[int, str] = {}
    tokens = declarations.tokens
    structs = {tokens[i + 1].text for i in range(len(tokens) - 1) if tokens[i].text in ("struct", "class", "union")}
    for constant in declarations.constants:
        kind = constant.type.replace(" ", "")
        if kind in structs and not _CONSTANT_TYPES.fullmatch(kind):
            yield constant.token, "error", f"function constant '{constant.name}' must be a scalar or vector"
        if not 0 <= constant.index <= 65535:
            yield constant.token, "error", f"function constant index {constant.index}: the largest is 65535"
        if any(t.text == "=" for t in tokens[constant.start : constant.end]):
            yield constant.token, "error", f"function constant '{constant.name}' has an initialiser"
        other = seen.setdefault(constant.index, constant.name)
        if other != constant.name:
            message = f"index {constant.index} of function constant '{constant.name}' is already taken by '{other}'"
            yield constant.token, "error", message


def words(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    for i, token in enumerate(tokens[:-1]):
        if token.text == "vec" and tokens[i + 1].text == "<":
            close = matching_angle(tokens, i + 1)
            if close > 0 and tokens[close - 1].kind == "number" and tokens[close - 1].text not in ("1", "2", "3", "4"):
                yield token, "error", f"vec has 2, 3 or 4 components, not {tokens[close - 1].text}"
        elif re.fullmatch(r"atomic_\w+_explicit", token.text) and tokens[i + 1].text == "(":
            for other in tokens[i : matching(tokens, i + 1)]:
                if other.text.startswith("memory_order_") and other.text != "memory_order_relaxed":
                    yield other, "error", f"{token.text} takes memory_order_relaxed only"
        elif token.text == "__local":
            yield from _initialiser(tokens, i)


def _initialiser(tokens: List[Token], i: int) -> Iterator[Report]:
    """Of a threadgroup variable: `threadgroup T x = ...` from token i on."""
    if tokens[i - 1].text not in (";", "{", "}"):
        return
    end = next((k for k in range(i, len(tokens)) if tokens[k].text in (";", "*", "&", "(")), i)
    for part in split(tokens[i + 1 : end]) if tokens[end].text == ";" else []:
        advice = "store to it, then use a barrier"
        if len(without_zeros(part)) < len(part):
            yield tokens[i], "warning", f"the initialiser of a threadgroup variable does nothing: {advice}"
        elif any(t.text == "=" for t in part):
            yield tokens[i], "error", f"a threadgroup variable cannot have an initialiser: {advice}"


RULES = (recursion, arguments, function_constants, words)
