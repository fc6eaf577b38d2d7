"""Positions of a thread, as parameters and at namespace scope: after `uint3 id [[thread_position_in_grid]];` every
function may say `id`."""

from __future__ import annotations

from typing import Iterable, Iterator, List, NamedTuple, Tuple

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
_QUALIFIERS = {"const", "static", "constexpr", "__constant"}


class Input(NamedTuple):
    """A position that is declared at namespace scope."""

    place: int  # of its name
    type: str
    position: str  # its attribute
    start: int  # of the statement, and its end
    end: int


def input_edits(declared: Iterable[Input], named: Iterable[Tuple[Tuple[int, int], Input]]) -> List[Edit]:
    """named: where an input is named"""
    edits = [Edit(start, end, "") for start, end in sorted({(i.start, i.end) for i in declared})]
    for (start, end), found in named:
        value = POSITIONS[found.position].replace("c->", "::metal::metal_context()->")
        edits.append(Edit(start, end, f"::metal::__input<{found.type}>({value})"))
    return edits


def inputs(declarations: Declarations) -> Iterator[Input]:
    """By their attributes, which no C++ parser keeps."""
    tokens = declarations.tokens
    for start, end, _ in declarations.statements:
        if tokens[end].text != ";" or tokens[start].text in ("struct", "class", "template", "using", "typedef"):
            continue
        groups = read_attributes(tokens, start, end)
        kind = [t for t in tokens[start : groups[0][0] - 1] if t.text not in _QUALIFIERS] if groups else []
        if (
            kind
            and all(len(a) == 1 and a[0].name in POSITIONS for *_, a in groups)
            and "(" not in [t.text for t in kind]
        ):
            for first, _, (attribute,) in groups:
                name = tokens[first - 1]
                yield Input(name.start, spell(kind), attribute.name, tokens[start].start, tokens[end].end)
