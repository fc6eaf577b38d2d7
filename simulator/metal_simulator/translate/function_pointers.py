"""Functions as template arguments: a parameter `R (*f)(A)` becomes `metal::__function_pointer<R, A> f`.

To clang in this mode a function pointer spelled out points into the generic address space, where no function is.
"""

from __future__ import annotations

from typing import List

from ..source.tokens import Token, matching, matching_angle, spell, split
from .edits import Edit

_QUALIFIERS = {"const", "volatile", "unsigned", "signed", "__global", "__constant", "__local", "__private"}


def function_edits(tokens: List[Token]) -> List[Edit]:
    edits: List[Edit] = []
    for i, token in enumerate(tokens[:-1]):
        if token.text == "template" and tokens[i + 1].text == "<":
            close = matching_angle(tokens, i + 1)
            for part in split(tokens[i + 2 : close]) if close > 0 else []:
                edits += _parameter(part)
        elif token.text == "using" and i + 3 < len(tokens) and tokens[i + 2].text == "=":
            end = next((k for k in range(i, len(tokens)) if tokens[k].text == ";"), i)
            edits += _alias(tokens[i + 3 : end])
    return edits


def _alias(kind: List[Token]) -> List[Edit]:
    """`using F = R (*)(A);`"""
    at = next((k for k in range(len(kind) - 3) if [t.text for t in kind[k : k + 4]] == ["(", "*", ")", "("]), None)
    return [] if at is None else [Edit(kind[0].start, kind[-1].end, _pointer(kind[:at], kind[at + 4 : -1]))]


def _pointer(result: List[Token], parameters: List[Token]) -> str:
    arguments = [spell(_unnamed(argument)) for argument in split(parameters)]
    return f"::metal::__function_pointer<{', '.join([spell(result)] + [a for a in arguments if a != 'void'])}>"


def _parameter(part: List[Token]) -> List[Edit]:
    at = next((k for k in range(len(part) - 4) if [t.text for t in part[k : k + 2]] == ["(", "*"]), None)
    if at is None or part[at + 3].text != ")" or part[at + 4].text != "(":
        return []
    close = matching(part, at + 4)
    text = f"{_pointer(part[:at], part[at + 5 : close])} {part[at + 2].text}"
    return [Edit(part[0].start, part[close].end, text)]


def _unnamed(argument: List[Token]) -> List[Token]:
    """A parameter's type, without its name."""
    if len(argument) < 2 or argument[-1].kind != "identifier" or argument[-2].text in _QUALIFIERS | {"::"}:
        return argument
    return argument[:-1]
