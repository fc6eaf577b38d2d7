"""Names known to compile with Apple's compiler; the strict check warns about others that the stand-in headers have."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, Set, Tuple

from ..source.declarations import Declarations, read_attributes
from ..source.tokens import Token, matching
from ..toolchain.paths import INCLUDE
from .attributes import ATTRIBUTES

_TYPE = re.compile(
    r"(?:packed_)?(?:bool|u?char|u?short|u?int|u?long|half|float|bfloat)[234](?:x[234])?"
    r"|\w+_[tv]|atomic_[a-z]+|simd_vote|quad_vote|packed_vec|matrix"
)
_WORDS = set("if for while switch return catch static_assert sizeof alignof decltype alignas defined as_type".split())
_WORDS.add("is_function_constant_defined")
_QUALIFIERS = "const constexpr __global __constant __local __private static inline volatile kernel __inline__".split()
_PLAIN = {"maybe_unused", "nodiscard", "fallthrough", "deprecated"}  # those of C++
_NOT_TYPES = {"return", "else", "case", "do", "goto", "typename", "operator", "template", "not", "and", "or"}


@functools.lru_cache(maxsize=None)
def known_names() -> Dict[str, FrozenSet[str]]:
    """By "functions", "types" and "attributes"."""
    table = json.loads(Path(__file__).with_suffix(".json").read_text())
    return {kind: frozenset(table[kind]) for kind in ("functions", "types", "attributes")}


@functools.lru_cache(maxsize=None)
def header_names() -> FrozenSet[str]:
    """What the stand-in headers may define: every identifier before or behind a parenthesis, and every type."""
    text = "".join(path.read_text() for path in sorted((INCLUDE / "metal_simulator").glob("*.h")))
    text = re.sub(r"//[^\n]*", "", text)
    names = re.findall(r"\b[a-z]\w*(?=\s*\()|(?<=\()[a-z]\w*", text)
    return frozenset(names) | {name for name in re.findall(r"\b[a-z]\w*\b", text) if _TYPE.fullmatch(name)}


def unknown_names(declarations: Declarations) -> Iterator[Tuple[Token, str, str]]:
    """A warning at the first use of each name that no inspected kernel uses."""
    seen: Set[str] = set()
    for token, name, kind in _uses(declarations):
        if name not in known_names()[kind] and name not in seen:
            seen.add(name)
            name = f"[[{name}]]" if kind == "attributes" else name
            yield token, "warning", f"no public kernel is known to use {name}: it may not compile with Apple's compiler"


def _uses(declarations: Declarations) -> Iterator[Tuple[Token, str, str]]:
    tokens = declarations.tokens
    declared = _declared(declarations)
    for i, token in enumerate(tokens[:-1]):
        before, after = tokens[i - 1].text, tokens[i + 1].text
        if token.text == "[" and after == "[" and token.end == tokens[i + 1].start:
            for _, _, attributes in read_attributes(tokens, i, matching(tokens, i) + 1):
                yield from ((a.token, a.name, "attributes") for a in attributes if a.name in ATTRIBUTES - _PLAIN)
        elif token.kind != "identifier" or token.text in declared or before in (".", "->"):
            continue
        elif before == "::" and tokens[i - 2].text not in ("metal", "fast", "precise"):
            continue
        elif _TYPE.fullmatch(token.text) and (token.text in header_names() or token.text[-1] in "234"):
            yield token, token.text, "types"
        elif after == "(" and token.text in header_names() and token.text not in known_names()["types"]:
            yield token, token.text, "functions"


def _declared(declarations: Declarations) -> Set[str]:
    """Names that the source itself gives to something, or that are words of the language."""
    tokens = declarations.tokens
    names = _WORDS.copy()
    for before, token, after in zip(tokens, tokens[1:], tokens[2:]):
        if token.kind == "identifier" and before.kind == "identifier" and before.text not in _NOT_TYPES:
            names.add(token.text)
        elif token.kind == "identifier" and before.text in (">", "&", "*") and after.text in ("(", "=", ";", ",", ")"):
            if before.text in (">", "&") or after.text != "(":
                names.add(token.text)
    return names - {t.text for b, t in zip(tokens, tokens[1:]) if b.text in _QUALIFIERS and _TYPE.fullmatch(t.text)}
