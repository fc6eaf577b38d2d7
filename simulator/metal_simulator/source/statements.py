"""Statements at namespace scope: where one ends, and in which namespace it stands."""

from __future__ import annotations

from typing import Iterator, List, Tuple

from .tokens import OPEN, Token, matching, matching_angle

Statement = Tuple[int, int, str]  # first and last token, enclosing namespaces ("a::b")
TAGS = {"struct", "class", "union", "enum"}
CALLS = {"decltype", "alignas", "__attribute__", "__typeof__", "noexcept"}  # take arguments, but are no functions


def is_attribute(tokens: List[Token], i: int) -> bool:
    """Whether [[...]] begins at token i."""
    pair = tokens[i : i + 2]
    return [t.text for t in pair] == ["[", "["] and pair[0].end == pair[1].start


def statements(tokens: List[Token], start: int, stop: int, scope: str = "") -> Iterator[Statement]:
    """Every statement between start and stop, descending into namespaces; inline ones do not count as scopes."""
    i = start
    while i < stop:
        text = tokens[i].text
        if text == ";":
            i += 1
        elif text == "namespace" or (text == "inline" and i + 1 < stop and tokens[i + 1].text == "namespace"):
            names, brace = _namespace(tokens, i, stop)
            if brace < stop and tokens[brace].text == "{":
                close = matching(tokens, brace)
                yield from statements(tokens, brace + 1, close, "::".join(([scope] if scope else []) + names))
                brace = close
            i = brace + 1
        elif text == "extern" and i + 2 < stop and tokens[i + 1].kind == "string" and tokens[i + 2].text == "{":
            close = matching(tokens, i + 2)
            yield from statements(tokens, i + 3, close, scope)
            i = close + 1
        else:
            end = _end(tokens, i, stop)
            yield i, end, scope
            i = end + 1


def _namespace(tokens: List[Token], i: int, stop: int) -> Tuple[List[str], int]:
    """Names that a namespace adds to the scope, and its brace (the semicolon of an alias or a using-directive)."""
    names: List[str] = []
    inline = False
    while i < stop and tokens[i].text not in ("{", ";"):
        if tokens[i].text in OPEN:  # of an attribute
            i = matching(tokens, i)
        elif tokens[i].text == "inline":
            inline = True
        elif tokens[i].kind == "identifier" and tokens[i].text not in ("namespace", "__attribute__"):
            names += [] if inline else [tokens[i].text]
            inline = False
        i += 1
    return names, i


def _end(tokens: List[Token], start: int, stop: int) -> int:
    """A semicolon, or the brace that closes a function's body."""
    i, body, constructor, trailing = start, True, False, False  # body: a brace here would open one
    while i < stop:
        text = tokens[i].text
        if text == ";":
            return i
        if text == "template" and i + 1 < stop and tokens[i + 1].text == "<":
            i = max(matching_angle(tokens, i + 1), i + 1)
        elif text in ("typedef", "using") or (text == "=" and tokens[i - 1].text != "operator"):
            body = False
        elif text == "->":
            trailing = True  # `-> struct P {`: the brace opens the body
        elif text in TAGS and not trailing:
            i = _tag(tokens, i, stop)
            body = body and tokens[i].text != "}"
        elif text in OPEN:
            # `x{1}` in a constructor's list of members is no body; that follows a bracket.
            member = constructor and (tokens[i - 1].kind == "identifier" or tokens[i - 1].text == ">")
            i = matching(tokens, i)
            if text == "{" and body and not member:
                return min(i, stop - 1)
        elif text == ":" and body:
            constructor = True
        i += 1
    return stop - 1


def _tag(tokens: List[Token], i: int, stop: int) -> int:
    """The last token of `struct P {...}`; of `struct P` in front of anything else, a token of that."""
    i += 1
    while i < stop:
        text = tokens[i].text
        if text in CALLS or is_attribute(tokens, i):
            i = matching(tokens, i + (text in CALLS))
        elif text == "<":
            i = max(matching_angle(tokens, i), i)
        elif text in ("{", ":"):  # a body, or what comes before it: bases, an enumeration's type
            brace = next((k for k in range(i, stop) if tokens[k].text in ("{", ";")), stop)
            return matching(tokens, brace) if brace < stop and tokens[brace].text == "{" else brace - 1
        elif tokens[i].kind != "identifier" and text != "::":
            break
        i += 1
    return i - 1
