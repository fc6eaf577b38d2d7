"""Address spaces that Metal lets say twice: in `thread const device T* p` the first one is the pointer's own."""

from __future__ import annotations

from typing import List

from ..source.tokens import Token
from .edits import Edit

_OTHERS = {"__global", "__constant", "__local"}


def space_edits(tokens: List[Token]) -> List[Edit]:
    edits = []
    for i, token in enumerate(tokens):
        if token.text == "__private":
            after = next((t.text for t in tokens[i + 1 : i + 4] if t.text not in ("const", "volatile")), "")
            if after in _OTHERS:
                edits.append(Edit(token.start, token.end, ""))
    return edits
