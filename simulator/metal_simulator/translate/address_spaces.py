"""Address spaces that Metal lets say twice, or not at all.

In `thread const device T* p` the first one is the pointer's own. A parameter `T x[4]` of a function template is in
`thread` memory; to clang it is a generic pointer, from which T is not deduced.
"""

from __future__ import annotations

from typing import List

from ..source.declarations import Declarations
from ..source.tokens import matching_angle, split
from .edits import Edit

_OTHERS = {"__global", "__constant", "__local"}


def space_edits(declarations: Declarations) -> List[Edit]:
    edits, tokens = _arrays(declarations), declarations.tokens
    for i, token in enumerate(tokens):
        if token.text == "__private":
            after = next((t.text for t in tokens[i + 1 : i + 4] if t.text not in ("const", "volatile")), "")
            if after in _OTHERS:
                edits.append(Edit(token.start, token.end, ""))
    return edits


def _arrays(declarations: Declarations) -> List[Edit]:
    tokens, edits = declarations.tokens, []
    for function in declarations.functions:
        if not function.template or function.kernel:
            continue
        header = tokens[function.start + 2 : matching_angle(tokens, function.start + 1)]
        names = {t.text for t in header if t.kind == "identifier"}
        for part in split(tokens[function.open + 1 : function.close]):
            words = [t.text for t in part]
            if "[" in words and names & set(words) and not set(words) & {"*", "&", "__private", *_OTHERS}:
                edits.append(Edit(part[0].start, part[0].start, "__private "))
    return edits
