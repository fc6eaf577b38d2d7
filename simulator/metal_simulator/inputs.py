"""Positions at namespace scope: after `uint3 id [[thread_position_in_grid]];` every function may say `id`."""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Set

from .constructors import Edit
from .declarations import Declarations, read_attributes
from .tokens import spell

_NOT_TYPES = {"return", "else", "case", "do"}
_QUALIFIERS = {"const", "static", "constexpr", "__constant"}


class _Input(NamedTuple):
    name: str
    type: str
    position: str  # its attribute
    start: int  # of the declaration, and its semicolon
    end: int


def input_edits(declarations: Declarations, positions: Dict[str, str]) -> List[Edit]:
    """positions: by attribute, its value as C++ over `c`, the thread's context."""
    tokens, edits = declarations.tokens, []
    for found in _inputs(declarations, positions):
        edits.append(Edit(tokens[found.start].start, tokens[found.end].end, ""))
        value = positions[found.position].replace("c->", "::metal::metal_context()->")
        hidden = _hidden(declarations, found.name)
        edits += [
            Edit(token.start, token.end, f"::metal::__input<{found.type}>({value})")
            for i, token in enumerate(tokens)
            if token.text == found.name
            and i not in hidden
            and tokens[i - 1].text not in (".", "->")
            and not (tokens[i - 1].text == "[" and tokens[i - 2].text == "[")  # the attribute of another
            and not found.start <= i <= found.end
        ]
    return edits


def _inputs(declarations: Declarations, positions: Dict[str, str]) -> Iterator[_Input]:
    tokens = declarations.tokens
    for start, end, _ in declarations.statements:
        if tokens[end].text != ";" or tokens[start].text in ("struct", "class", "template", "using", "typedef"):
            continue
        groups = read_attributes(tokens, start, end)
        if len(groups) == 1 and groups[0][1] == end - 1 and len(groups[0][2]) == 1:
            first, _, (attribute,) = groups[0]
            kind = [t for t in tokens[start : first - 1] if t.text not in _QUALIFIERS]
            if attribute.name in positions and kind and all(t.text not in ("(", ")") for t in kind):
                yield _Input(tokens[first - 1].text, spell(kind), attribute.name, start, end)


def _hidden(declarations: Declarations, name: str) -> Set[int]:
    """Tokens of the functions that have something of their own by this name."""
    tokens, hidden = declarations.tokens, set()
    for function in declarations.functions:
        inside = range(function.open, function.end + 1)
        own = (i for i in inside if tokens[i].text == name and tokens[i - 1].kind == "identifier")
        if any(tokens[i - 1].text not in _NOT_TYPES for i in own):
            hidden.update(inside)
    return hidden
