"""Functions as template arguments: a parameter `R (*f)(A)` becomes `metal::__function_pointer<R, A> f`."""

from __future__ import annotations

from typing import List

from ..source.tokens import Token, matching, spell, split
from .edits import Edit

_QUALIFIERS = {"const", "volatile", "unsigned", "signed", "__global", "__constant", "__local", "__private"}


def function_pointer_edit(words: List[Token]) -> List[Edit]:
    """Of `R (*f)(A)`, a template's parameter; of `using F = R (*)(A)` and `typedef R (*F)(A)`."""
    at = next((k for k in range(len(words) - 3) if [t.text for t in words[k : k + 2]] == ["(", "*"]), None)
    if at is None:
        return []
    closing = matching(words, at)
    opening, named = closing + 1, words[at + 2 : closing]
    first = next((k + 1 for k, t in enumerate(words[:at]) if t.text in ("=", "typedef")), 0)
    end = matching(words, opening)
    if end >= len(words) or len(named) > 1:
        return []
    text = f"{_pointer(words[first:at], words[opening + 1 : end])} {spell(named)}"
    return [Edit(words[first].start, words[end].end, text)]


def _pointer(result: List[Token], parameters: List[Token]) -> str:
    arguments = [spell(_unnamed(argument)) for argument in split(parameters)]
    return f"::metal::__function_pointer<{', '.join([spell(result)] + [a for a in arguments if a != 'void'])}>"


def _unnamed(argument: List[Token]) -> List[Token]:
    """A parameter's type, without its name."""
    if len(argument) < 2 or argument[-1].kind != "identifier" or argument[-2].text in _QUALIFIERS | {"::"}:
        return argument
    return argument[:-1]
