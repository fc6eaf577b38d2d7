"""Positions of a thread, as parameters and at namespace scope: after `uint3 id [[thread_position_in_grid]];` every
function may say `id`."""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Set

from ..limits import LANES
from ..source.declarations import Declarations, read_attributes
from ..source.tokens import spell
from .edits import Edit

# By attribute: its value as C++ over `c`, the thread's context.
POSITIONS = {
    "thread_position_in_grid": "::metal::__position(c->position_in_grid)",
    "thread_position_in_threadgroup": "::metal::__position(c->position)",
    "threadgroup_position_in_grid": "::metal::__shape(c->shape, 0)",
    "threadgroups_per_grid": "::metal::__shape(c->shape, 3)",
    "threads_per_threadgroup": "::metal::__shape(c->shape, 6)",
    "dispatch_threads_per_threadgroup": "::metal::__shape(c->shape, 6)",
    "grid_origin": "::metal::__origin()",
    "grid_size": "::metal::__threads_per_grid(c->shape)",
    "threads_per_grid": "::metal::__threads_per_grid(c->shape)",
    "simdgroups_per_threadgroup": "::metal::__shape(c->shape, 9)",
    "dispatch_simdgroups_per_threadgroup": "::metal::__shape(c->shape, 9)",
    "thread_index_in_threadgroup": "::metal::__scalar(c->thread_index)",
    "thread_index_in_simdgroup": "::metal::__scalar(c->lane)",
    "simdgroup_index_in_threadgroup": "::metal::__scalar(c->simdgroup)",
    "threads_per_simdgroup": f"::metal::__scalar({LANES})",
    "thread_execution_width": f"::metal::__scalar({LANES})",
    "quadgroup_index_in_threadgroup": "::metal::__scalar(c->thread_index / 4)",
    "thread_index_in_quadgroup": "::metal::__scalar(c->thread_index % 4)",
    "quadgroups_per_threadgroup": "::metal::__quadgroups(c->shape)",
    "dispatch_quadgroups_per_threadgroup": "::metal::__quadgroups(c->shape)",
}
_NOT_TYPES = {"return", "else", "case", "do"}
_QUALIFIERS = {"const", "static", "constexpr", "__constant"}


class _Input(NamedTuple):
    name: str
    type: str
    position: str  # its attribute
    start: int  # of the declaration, and its semicolon
    end: int


def input_edits(declarations: Declarations) -> List[Edit]:
    tokens, edits = declarations.tokens, []
    for found in _inputs(declarations):
        edits.append(Edit(tokens[found.start].start, tokens[found.end].end, ""))
        value = POSITIONS[found.position].replace("c->", "::metal::metal_context()->")
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


def _inputs(declarations: Declarations) -> Iterator[_Input]:
    tokens = declarations.tokens
    for start, end, _ in declarations.statements:
        if tokens[end].text != ";" or tokens[start].text in ("struct", "class", "template", "using", "typedef"):
            continue
        groups = read_attributes(tokens, start, end)
        if len(groups) == 1 and groups[0][1] == end - 1 and len(groups[0][2]) == 1:
            first, _, (attribute,) = groups[0]
            kind = [t for t in tokens[start : first - 1] if t.text not in _QUALIFIERS]
            if attribute.name in POSITIONS and kind and all(t.text not in ("(", ")") for t in kind):
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
