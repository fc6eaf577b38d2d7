"""Member functions: in Metal `this` is a thread pointer unless the function says otherwise.

To clang it is a generic pointer then, which binds to no `thread` parameter; so `thread` is written out. Constructors
and conversions are the other way around: clang gives temporaries and members to those that say nothing, so theirs is
taken away.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

from ..source.tokens import OPEN, Token, matching, matching_angle
from .edits import Edit

_SPACES = {"__private", "__global", "__local", "__constant"}
_NOT_FUNCTIONS = {"using", "typedef", "friend", "static_assert", "struct", "class", "union", "enum"}
_MADE = (["=", "default"], ["=", "delete"])
_PARENTHESES = {"__attribute__", "alignas", "decltype", "sizeof", "explicit", "noexcept"}


class _Member(NamedTuple):
    """A member function; `close` is the token index of the bracket that closes its parameters."""

    name: str
    kind: str  # "constructor", "conversion", "static" or ""
    close: int


def member_edits(tokens: List[Token]) -> List[Edit]:
    edits: List[Edit] = []
    plain: Set[Tuple[str, str]] = set()  # (class, function) that are not static
    for i, token in enumerate(tokens):
        if token.text in ("struct", "class", "union") and tokens[i - 1].text not in ("<", ",", "enum"):
            name, body = _class(tokens, i)
            if body is None:
                continue
            for member in _members(tokens, name, body + 1, matching(tokens, body)):
                edits += _qualified(tokens, member.close, member.kind)
                if not member.kind:
                    plain.add((name, member.name))
    return edits + _outside(tokens, plain)


def _class(tokens: List[Token], i: int) -> Tuple[str, Optional[int]]:
    """Name of the class whose keyword is token i, and the index of its body's brace if it has one."""
    k, name, derived = i + 1, "", False
    while k < len(tokens) and tokens[k].text not in ("{", ";", "(", ">", "=", ",", ")"):
        if tokens[k].text == "<":
            k = max(matching_angle(tokens, k, certain=True), k)
        elif tokens[k].text in ("[", "alignas", "__attribute__"):
            k = matching(tokens, k if tokens[k].text == "[" else k + 1)
        elif tokens[k].text == ":":
            derived = True
            k = next((j for j in range(k, len(tokens)) if tokens[j].text in ("{", ";")), len(tokens)) - 1
        elif tokens[k].kind == "identifier" and not name:
            name = tokens[k].text
        k += 1
    variable = tokens[k - 1].kind == "identifier" and tokens[k - 1].text not in (name, "final") and not derived
    return name, k if k < len(tokens) and tokens[k].text == "{" and not variable else None


def _members(tokens: List[Token], owner: str, start: int, end: int) -> Iterator[_Member]:
    """Member functions declared directly between start and end."""
    i = first = start
    while i < end:
        text = tokens[i].text
        if text == "template" and tokens[i + 1].text == "<":
            i = max(matching_angle(tokens, i + 1), i + 1)
            first = i + 1
        elif text == "operator" and tokens[i + 1].text in ("(", "["):
            i += 2  # its name
        elif text == "<" and tokens[i - 1].kind == "identifier" and tokens[i - 1].text != "operator":
            i = max(matching_angle(tokens, i), i)
        elif text == "(" and tokens[i - 1].text in _PARENTHESES:
            i = matching(tokens, i)
        elif text == "(":
            words = [t.text for t in tokens[first:i]]
            close = matching(tokens, i)
            declarator = tokens[i + 1].text in ("&", "*")  # T (&rows)[4]
            if (
                words
                and not declarator
                and words[0] not in _NOT_FUNCTIONS
                and ("=" not in words or "operator" in words)
            ):
                yield _Member(tokens[i - 1].text, _kind(tokens[first:i], owner), close)
            i = _declaration_end(tokens, close, end)
            first = i + 1
        elif text in OPEN:
            i = matching(tokens, i)
        if i < end and (tokens[i].text in (";", "}") or tokens[i].text == ":" and tokens[i - 1].kind == "identifier"):
            first = i + 1
        i += 1


def _kind(declarator: List[Token], owner: str) -> str:
    words = [t.text for t in declarator]
    if "operator" in words[:-1]:
        named = declarator[words.index("operator") + 1]
        return "conversion" if named.kind == "identifier" and named.text not in ("new", "delete") else ""
    return "constructor" if words[-1] == owner else "static" if "static" in words else ""


def _declaration_end(tokens: List[Token], close: int, end: int) -> int:
    """The ';' or the '}' of the body after a member function's parameters, qualifiers and initialisers."""
    i, initialisers = close + 1, False
    while i < end and tokens[i].text != ";":
        initialisers |= tokens[i].text == ":"
        if tokens[i].text == "{" and not (initialisers and tokens[i - 1].kind == "identifier"):
            return matching(tokens, i)
        i = matching(tokens, i) + 1 if tokens[i].text in OPEN else i + 1
    return i


def _qualified(tokens: List[Token], close: int, kind: str) -> List[Edit]:
    after = close + 1
    while tokens[after].text in _SPACES or tokens[after].text in ("const", "volatile"):
        after += 1
    words = {t.text for t in tokens[close + 1 : after]}
    if kind in ("constructor", "conversion"):
        wrong = {"__private", "const"} if kind == "constructor" else {"__private"}  # `constant` stands for const too
        return [Edit(t.start, t.end, "") for t in tokens[close + 1 : after] if t.text in wrong]
    if kind == "static" or words & _SPACES or [t.text for t in tokens[after : after + 2]] in _MADE:
        return []
    return [Edit(tokens[after - 1].end, tokens[after - 1].end, " __private")]


def _outside(tokens: List[Token], plain: Set[Tuple[str, str]]) -> List[Edit]:
    """Definitions of member functions outside their class."""
    edits: List[Edit] = []
    for i in range(2, len(tokens) - 1):
        if tokens[i].text != "(" or tokens[i - 1].kind != "identifier" or tokens[i - 2].text != "::":
            continue
        name, before = tokens[i - 1].text, i - 3
        if tokens[before].text == ">":
            depth = 0
            while before > 0:
                depth += (tokens[before].text == ">") - (tokens[before].text == "<")
                before -= 1
                if depth == 0:
                    break
        close = matching(tokens, i)
        if (tokens[before].text, name) not in plain and tokens[before].text != name or close + 1 >= len(tokens):
            continue
        after = close + 1
        while tokens[after].text in _SPACES or tokens[after].text in ("const", "volatile"):
            after += 1
        if tokens[after].text == "{" and tokens[before - 1].text not in ("return", "=", "(", ",", "("):
            edits += _qualified(tokens, close, "constructor" if tokens[before].text == name else "")
    return edits
