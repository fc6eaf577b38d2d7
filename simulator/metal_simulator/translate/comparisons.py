"""Comparisons of vectors: to clang they give integers, -1 for true; in Metal booleans, which convert to 1.

Where the result of a comparison is used as a number, as a constructor's argument, as the value of an `auto` variable or
in parentheses, it is wrapped: float4(a < b) -> float4(metal::__comparison(a < b)). Scalars pass through unchanged.
"""

from __future__ import annotations

from typing import List, Optional

from ..source.tokens import OPEN, Token, matching, matching_angle
from .constructors import VECTORS
from .edits import Edit

_COMPARISONS = {"<", ">", "<=", ">=", "==", "!="}
_BEFORE_GROUP = {
    "=",
    "+",
    "-",
    "*",
    "/",
    "!",
    "not",
    "(",
    ",",
    "return",
    "?",
    ":",
    "&",
    "|",
    "^",
    "+=",
    "-=",
    "*=",
    "&&",
    "||",
}
_NOT_INSIDE = {";", ",", "?", "=", "typename", "{", "class"}


def comparison_edits(tokens: List[Token]) -> List[Edit]:
    found: List[Edit] = []
    for i, token in enumerate(tokens):
        if token.text == "(" and i > 0:
            close = matching(tokens, i)
            if close < len(tokens) and _is_group_or_conversion(tokens, i) and _compares(tokens, i + 1, close):
                found += _around(tokens, i + 1, close - 1)
        elif token.text == "auto" and i + 2 < len(tokens) and tokens[i + 2].text == "=":
            end = next((k for k in range(i + 3, len(tokens)) if tokens[k].text in (";", "{")), i + 3)
            if tokens[end].text == ";" and _compares(tokens, i + 3, end):
                found += _around(tokens, i + 3, end - 1)
    return found


def _around(tokens: List[Token], first: int, last: int) -> List[Edit]:
    begin, end = tokens[first].start, tokens[last].end
    return [Edit(begin, begin, "::metal::__comparison("), Edit(end, end, ")")]


def _is_group_or_conversion(tokens: List[Token], opening: int) -> bool:
    before = tokens[opening - 1]
    if before.text in _BEFORE_GROUP:
        return tokens[opening - 2].text != "operator"
    if before.kind == "identifier":
        return before.text in VECTORS
    return before.text == ">" and _converts(tokens, opening - 1)


def _converts(tokens: List[Token], closing: int) -> bool:
    """Whether the template arguments that end here are those of vec or static_cast."""
    depth = 0
    for i in range(closing, max(closing - 40, 0), -1):
        depth += (tokens[i].text == ">") - (tokens[i].text == "<")
        if depth == 0:
            return tokens[i - 1].text in ("vec", "static_cast")
    return False


def _compares(tokens: List[Token], start: int, end: int) -> bool:
    """Whether tokens[start:end] is one expression with a comparison outside all brackets."""
    i, found = start, False
    while i < end:
        text = tokens[i].text
        if text == "=" and tokens[i - 1].text == ">" and tokens[i - 1].end == tokens[i].start:
            pass  # the second half of >=
        elif text in _NOT_INSIDE or text == "auto":
            return False
        elif text in OPEN:
            i = matching(tokens, i)
        elif text == "<" and _template_end(tokens, i, end) is not None:
            i = _template_end(tokens, i, end)
        elif text == ">" and tokens[i + 1].text == ">" and tokens[i + 1].start == tokens[i].end:
            i += 1  # a shift, whose '>' are two tokens
        elif text in _COMPARISONS and tokens[i - 1].text != "operator":
            found = True
        i += 1
    return found and end > start


def _template_end(tokens: List[Token], i: int, end: int) -> Optional[int]:
    close = matching_angle(tokens, i)
    if not 0 < close < end:
        return None
    after = tokens[close + 1].text if close + 1 < len(tokens) else ""
    return close if after in ("(", "::", "{", ")", ">", ",", "*", "&") else None
