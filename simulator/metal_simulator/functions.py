"""Functions as template arguments: a parameter `R (*f)(A)` becomes `metal::__function_pointer<R, A> f`.

To clang in this mode a function pointer spelled out points into the generic address space, where no function is.
"""

from __future__ import annotations

from typing import List

from .constructors import Edit
from .tokens import Token, matching, matching_angle, spell, split

_QUALIFIERS = {"const", "volatile", "unsigned", "signed", "__global", "__constant", "__local", "__private"}


def function_edits(tokens: List[Token]) -> List[Edit]:
    edits: List[Edit] = []
    for i, token in enumerate(tokens[:-1]):
        if token.text == "template" and tokens[i + 1].text == "<":
            close = matching_angle(tokens, i + 1)
            for part in split(tokens[i + 2 : close]) if close > 0 else []:
                edits += _parameter(part)
    return edits


def _parameter(part: List[Token]) -> List[Edit]:
    at = next((k for k in range(len(part) - 4) if [t.text for t in part[k : k + 2]] == ["(", "*"]), None)
    if at is None or part[at + 3].text != ")" or part[at + 4].text != "(":
        return []
    close = matching(part, at + 4)
    arguments = [spell(_unnamed(argument)) for argument in split(part[at + 5 : close])]
    kinds = ", ".join([spell(part[:at])] + [a for a in arguments if a != "void"])
    text = f"::metal::__function_pointer<{kinds}> {part[at + 2].text}"
    return [Edit(part[0].start, part[close].end, text)]


def _unnamed(argument: List[Token]) -> List[Token]:
    """A parameter's type, without its name."""
    if len(argument) < 2 or argument[-1].kind != "identifier" or argument[-2].text in _QUALIFIERS | {"::"}:
        return argument
    return argument[:-1]
