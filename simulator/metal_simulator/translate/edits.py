"""Edits of a text that keep every line where it was."""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Sequence

from ..errors import Diagnostic
from ..source.tokens import Token


class Edit(NamedTuple):
    """Replace text[start:end)."""

    start: int
    end: int
    text: str


class Wrap(NamedTuple):
    """Something before text[start:end), and something behind it."""

    start: int
    end: int
    before: str
    after: str


class Rewritten(NamedTuple):
    """The text for clang, the text before, and the edits between them (for columns of diagnostics).

    unread: what of the text is not understood; an error, if clang takes it.
    """

    text: str
    original: str
    edits: List[Edit]
    unread: Sequence[Diagnostic] = ()


def replace_tokens(tokens: List[Token], first: int, last: int, text: str) -> Edit:
    return Edit(tokens[first].start, tokens[last].end, text)


def wrap_edits(wraps: Iterable[Wrap]) -> List[Edit]:
    """Wraps as insertions, nested: of those of one place the first is outside."""
    sides = []
    for i, wrap in enumerate(wraps):
        sides.append(((wrap.start, 1, -wrap.end, i), Edit(wrap.start, wrap.start, wrap.before)))
        sides.append(((wrap.end, 0, -wrap.start, -i), Edit(wrap.end, wrap.end, wrap.after)))
    return [edit for _, edit in sorted(sides) if edit.text]


def apply_edits(text: str, edits: List[Edit]) -> Rewritten:
    """Applies edits, innermost dropped where they overlap, insertions first; every line keeps its number."""
    parts, position, kept = [], 0, []
    for edit in sorted(edits, key=lambda e: (e.start, e.start != e.end, -e.end)):
        if edit.start < position:
            continue
        replaced = text[edit.start : edit.end]
        parts += [text[position : edit.start], edit.text, "\n" * replaced.count("\n")]
        kept.append(edit._replace(text=edit.text + "\n" * replaced.count("\n")))
        position = edit.end
    return Rewritten("".join(parts + [text[position:]]), text, kept)
