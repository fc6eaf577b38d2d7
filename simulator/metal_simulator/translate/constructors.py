"""Vector constructors and casts: C++ for OpenCL has vectors but not their Metal constructors, so they become calls.

float4(a, b)                ->  ::metal::__construct<float4>(a, b)
vec<T, 4>(x), T(x), U4(x)   ->  ::metal::__construct<...>(x), for template parameters and aliases
static_cast<half4>(x)       ->  metal::__convert<half4>(x)
(float4) x                  ->  metal::__cast<float4>() ->* x
vec<bool, N>                ->  metal::__bool_vector<N>
vec<T, N>                   ->  metal::__any_vec<T, N>, where T may turn out to be bool and nothing is deduced from it
"""

from __future__ import annotations

from typing import List, Set, Tuple

from ..source.tokens import Token, matching_angle, spell
from .edits import Edit

SCALARS = ["char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "float", "bfloat"]
VECTORS = {f"{scalar}{n}" for scalar in SCALARS for n in (2, 3, 4)}
VECTORS |= {f"{scalar}{c}x{r}" for scalar in ("float", "half") for c in (2, 3, 4) for r in (2, 3, 4)}
VECTORS |= {"bool2", "bool3", "bool4", "bfloat"}
VECTORS |= {f"packed_{scalar}{n}" for scalar in SCALARS for n in (2, 3, 4)}
VECTORS |= {f"simdgroup_{scalar}8x8" for scalar in ("half", "bfloat", "float")}
_NOT_BEFORE = {
    ".",
    "->",
    "~",
    "struct",
    "class",
    "operator",
    "typename",
    "using",
    "enum",
    "goto",
    "union",
    "typedef",
    "::",
}
_BUILTIN = set(SCALARS) | {"bool", "unsigned", "signed", "void", "size_t", "double"}
_BUILTIN |= {f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_OPERATORS = {"(", "*", "-", "+", "!", "~", "&"}


def constructor_edits(tokens: List[Token]) -> List[Edit]:
    aliases = _type_names(tokens)
    edits: List[Edit] = []
    deducing, bodies = _deducing(tokens)
    for i, token in enumerate(tokens):
        if token.kind != "identifier":
            continue
        if token.text == "static_cast":
            edits += _static_cast(tokens, i)
        elif token.text in VECTORS or token.text in aliases:
            edits += _named(tokens, i, token.text in VECTORS)
            if token.text in VECTORS:
                edits += _variable(tokens, i, i, bodies)
        elif token.text in ("vec", "simdgroup_matrix", "matrix") and i + 1 < len(tokens) and tokens[i + 1].text == "<":
            edits += _vec(tokens, i) + _variable(tokens, i, matching_angle(tokens, i + 1), bodies)
            if token.text == "vec" and i not in deducing and tokens[i + 2].text not in _BUILTIN:
                qualified = tokens[i - 1].text == "::"
                edits.append(Edit(token.start, token.end, "__any_vec" if qualified else "::metal::__any_vec"))
    return edits


def _variable(tokens: List[Token], first: int, last: int, bodies: Set[int]) -> List[Edit]:
    """`short2 at(x, y);` in a function: tokens[first : last + 1] are the type."""
    if first not in bodies or not 0 <= last < len(tokens) - 2 or tokens[last + 2].text != "(":
        return []
    if tokens[last + 1].kind != "identifier" or tokens[last + 3].text == ")":
        return []
    name = tokens[last + 1]
    return [Edit(name.end, name.end, f" = ::metal::__construct<{spell(tokens[first : last + 1])}>")]


def _deducing(tokens: List[Token]) -> Tuple[Set[int], Set[int]]:
    """Indices of every `vec` from which template arguments may be deduced (at namespace scope, in templates), and of
    every identifier in the body of a function."""
    found: Set[int] = set()
    bodies: Set[int] = set()
    braces: List[str] = []  # body or scope
    first = 0  # of the statement
    depth = 0  # of parentheses
    for i, token in enumerate(tokens):
        depth += (token.text == "(") - (token.text == ")")
        if token.text == "{":
            words = {t.text for t in tokens[first:i]}
            scope = bool(words & {"struct", "class", "union", "namespace"}) and "body" not in braces
            scope = scope and (tokens[i - 1].kind == "identifier" or tokens[i - 1].text == ">")
            braces.append(("struct" if not words & {"namespace"} else "namespace") if scope else "body")
        elif token.text == "}" and braces:
            braces.pop()
        elif token.text == "vec" and "body" not in braces:
            opening = tokens[first].text
            if opening not in ("using", "typedef") and not (
                braces and braces[-1] == "struct" and opening != "template"
            ):
                found.add(i)
        elif token.kind == "identifier" and "body" in braces:
            bodies.add(i)
        if token.text in ("{", "}") or (token.text in (";", ":") and depth == 0):
            first = i + 1
    return found, bodies


def _type_names(tokens: List[Token]) -> Set[str]:
    """Template type parameters and aliases, which may stand for vectors."""
    names: Set[str] = set()
    for i, token in enumerate(tokens[:-2]):
        if token.text in ("typename", "class") and tokens[i + 1].kind == "identifier":
            if tokens[i + 2].text in (",", ">", "=") and tokens[i - 1].text in ("<", ","):
                names.add(tokens[i + 1].text)
        elif token.text == "using" and tokens[i + 2].text == "=":
            names.add(tokens[i + 1].text)
        elif token.text == "typedef":
            end = next((k for k in range(i, len(tokens)) if tokens[k].text == ";"), i + 1)
            if tokens[end - 1].kind == "identifier":
                names.add(tokens[end - 1].text)
    return names


def _is_declarator(tokens: List[Token], opening: int) -> bool:
    """Whether '(' opens a declarator such as (&x)[N] or (*p)[N] rather than arguments."""
    after = [t.text for t in tokens[opening + 1 : opening + 4]]
    return (
        len(after) == 3
        and after[0] in ("&", "*")
        and tokens[opening + 2].kind == "identifier"
        and after[2] == ")"
        and opening + 4 < len(tokens)
        and tokens[opening + 4].text in ("[", "(")
    )


def _starts_operand(token: Token) -> bool:
    return token.kind in ("identifier", "number") or token.text in _OPERATORS


def _named(tokens: List[Token], i: int, vector: bool) -> List[Edit]:
    token, before = tokens[i], tokens[i - 1]
    after = tokens[i + 1] if i + 1 < len(tokens) else token
    qualified = before.text == "::" and i >= 2 and tokens[i - 2].text == "metal"
    if before.text == "(" and after.text == ")" and _is_cast(tokens, i - 1, i + 1):
        return [Edit(before.start, after.end, f"::metal::__cast<{token.text}>() ->* ")]
    if after.text != "(" or _is_declarator(tokens, i + 1):
        return []
    if before.text in _NOT_BEFORE and not qualified:
        return []
    if before.kind == "identifier" and before.text not in ("return", "else", "case", "do"):
        return []
    if before.text in (">", "*", "&") and not vector and tokens[i + 2].text == ")":
        return []
    if qualified:
        return [Edit(tokens[i - 2].start, token.end, f"::metal::__construct<{token.text}>")]
    return [Edit(token.start, token.end, f"::metal::__construct<{token.text}>")]


def _is_cast(tokens: List[Token], opening: int, closing: int) -> bool:
    if closing + 1 >= len(tokens) or not _starts_operand(tokens[closing + 1]):
        return False
    before = tokens[opening - 1]
    if before.kind == "identifier" and before.text not in ("return", "else", "case"):
        return False
    return before.text not in (")", "]", ">") and tokens[closing + 1].text not in ("*", "&", "+")


def _vec(tokens: List[Token], i: int) -> List[Edit]:
    close = matching_angle(tokens, i + 1)
    if close < 0:
        return []
    qualified = tokens[i - 1].text == "::" and i >= 2 and tokens[i - 2].text == "metal"
    first = i - 2 if qualified else i
    start = tokens[first].start
    before = tokens[first - 1]
    edits: List[Edit] = []
    if tokens[i + 2].text == "bool":
        edits.append(Edit(start, tokens[i + 3].end, "::metal::__bool_vector<"))
        return edits + _signed_count(tokens, i)
    after = tokens[close + 1] if close + 1 < len(tokens) else tokens[close]
    if after.text == ")" and before.text == "(" and _is_cast(tokens, first - 1, close + 1):
        edits.append(Edit(before.start, before.end, "::metal::__cast<"))
        edits.append(Edit(after.start, after.end, ">() ->* "))
    elif (
        after.text == "("
        and not _is_declarator(tokens, close + 1)
        and before.text not in _NOT_BEFORE
        and (before.kind != "identifier" or before.text in ("return", "else", "case"))
    ):
        edits.append(Edit(start, start, "::metal::__construct<"))
        edits.append(Edit(after.start, after.start, ">"))
    return edits


def _signed_count(tokens: List[Token], i: int) -> List[Edit]:
    """`template <uint N> ... vec<bool, N>`: the number that is deduced from a class must have the type it has there."""
    k = i
    while k > 0 and tokens[k].text not in (";", "{", "}", "template"):
        k -= 1
    kinds = {"uint", "unsigned", "ushort", "size_t", "uint32_t"}
    return [
        Edit(tokens[j].start, tokens[j].end, "int")
        for j in range(k, i)
        if tokens[k].text == "template" and tokens[j].text in kinds and tokens[j + 1].text == tokens[i + 4].text
    ]


def _static_cast(tokens: List[Token], i: int) -> List[Edit]:
    close = matching_angle(tokens, i + 1)
    target = tokens[i + 2 : close] if close > 0 else []
    if (
        not target
        or any(t.text in ("*", "&") for t in target)
        or all(t.text in _BUILTIN - {"bfloat", "half"} for t in target)
    ):
        return []
    return [Edit(tokens[i].start, tokens[i].end, "::metal::__convert")]
