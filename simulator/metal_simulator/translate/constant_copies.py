"""Whole objects copied out of `constant` memory: legal Metal that clang refuses, so they go through a function.

clang says where: its message names the expression that it cannot bind. In the text `S s = params;` becomes
`S s = metal::__copy(params);`, and the text is compiled again.
"""

from __future__ import annotations

import re
from typing import List, Tuple

_ERROR = re.compile(
    r":\d+:\d+:((?:\{[^}]*\})+): (?:fatal )?error: (?:no matching constructor|no viable overloaded '=')"
)
_RANGE = re.compile(r"\{(\d+):(\d+)-(\d+):(\d+)\}")
_REASON = re.compile(
    r"\(the implicit copy (?:constructor|assignment operator)\) not viable: "
    r"cannot bind reference in address space '__constant'"
)


def is_copy(note: str) -> bool:
    """Whether a note explains that an object in constant memory could not be copied."""
    return bool(_REASON.search(note))


def with_copies(text: str, messages: str) -> str:
    """`text` with every such expression wrapped; the same text when clang's messages name none."""
    places: List[Tuple[int, int]] = []
    starts = _line_starts(text)
    pending = None
    for line in messages.splitlines():
        error = _ERROR.search(line)
        if error:
            first, column, last, end = map(int, _RANGE.findall(error.group(1))[-1])
            pending = (starts[first - 1] + column - 1, starts[last - 1] + end - 1)
        elif ": error: " in line:
            pending = None
        elif pending and is_copy(line):
            places.append(pending)
            pending = None
    for begin, end in sorted(set(places), reverse=True):
        text = f"{text[:begin]}::metal::__copy({text[begin:end]}){text[end:]}"
    return text


def _line_starts(text: str) -> List[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts
