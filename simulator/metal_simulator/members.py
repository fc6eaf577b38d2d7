"""Member functions that return `thread` references or pointers to members.

In Metal `this` is a thread pointer unless the function says otherwise. To clang, with a generic address space, it is
generic, and what such a function returns has to be cast. (Without one, as the first pass of the check, it needs none.)
"""

from __future__ import annotations

from typing import List

from .constructors import Edit
from .tokens import OPEN, Token, matching, matching_angle


def member_edits(tokens: List[Token]) -> List[Edit]:
    edits: List[Edit] = []
    for i, token in enumerate(tokens):
        if token.text == "reinterpret_cast":
            edits += _reinterpret(tokens, i)
        elif token.text in ("struct", "class", "union") and tokens[i - 1].text not in ("<", ",", "enum"):
            body = next((k for k in range(i, len(tokens)) if tokens[k].text in ("{", ";", "(", ">", "=")), None)
            if body is not None and tokens[body].text == ">":  # a specialisation: struct S<T> {
                body = next((k for k in range(body, len(tokens)) if tokens[k].text in ("{", ";", "(", "=")), None)
            if body is not None and tokens[body].text == "{":
                edits += _members(tokens, body + 1, matching(tokens, body))
    return edits


def _reinterpret(tokens: List[Token], i: int) -> List[Edit]:
    """reinterpret_cast to a thread pointer or reference, which may come from `this`."""
    close = matching_angle(tokens, i + 1)
    target = [t.text for t in tokens[i + 2 : close]] if close > 0 else []
    if "__private" not in target or target[-1] not in ("*", "&"):
        return []
    name = "__reinterpret_pointer" if target[-1] == "*" else "__reinterpret_reference"
    return [Edit(tokens[i].start, tokens[i].end, f"::metal::{name}")]


def _members(tokens: List[Token], start: int, end: int) -> List[Edit]:
    edits: List[Edit] = []
    i = first = start
    while i < end:
        text = tokens[i].text
        if text == "template" and tokens[i + 1].text == "<":
            first = i = max(matching_angle(tokens, i + 1), i + 1)
            first += 1
        elif text == "(" and tokens[i - 1].text == "__attribute__":
            first = i = matching(tokens, i)
            first += 1
        elif text == "(":
            close = matching(tokens, i)
            edits += _casts(tokens, first, i, close)
            i = close
        elif text in OPEN:
            i = matching(tokens, i)
        if i < end and tokens[i].text in (";", "}", ":") and tokens[i - 1].text != ":":
            first = i + 1
        i += 1
    return edits


_SPECIFIERS = {"constexpr", "inline", "static", "virtual", "explicit", "friend", "__inline__"}


def _casts(tokens: List[Token], first: int, opening: int, close: int) -> List[Edit]:
    """Casts in the return statements of the member function whose parameters are tokens[opening:close]."""
    name = next((k for k in range(first, opening) if tokens[k].text == "operator"), opening - 1)
    kind = [t.text for t in tokens[first:name] if t.text not in _SPECIFIERS]
    if "__private" not in kind or kind[-1] not in ("&", "*") or any(t.text == "static" for t in tokens[first:name]):
        return []
    body = close + 1
    while body < len(tokens) and tokens[body].text in ("const", "volatile", "noexcept", "__private"):
        body += 1
    if body >= len(tokens) or tokens[body].text != "{":
        return []
    edits = []
    for i in range(body, matching(tokens, body)):
        if tokens[i].text == "return":
            end = next(k for k in range(i, len(tokens)) if tokens[k].text == ";")
            edits.append(Edit(tokens[i].end, tokens[i].end, f" ({' '.join(kind)})("))
            edits.append(Edit(tokens[end].start, tokens[end].start, ")"))
    return edits
