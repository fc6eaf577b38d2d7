"""From the preprocessed text back to the columns of the user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Tuple

from .diagnostics import SPACES
from .tokens import Token, tokenise


def _lines(file: str) -> Tuple[str, ...]:
    try:
        return tuple(Path(file).read_text(errors="replace").split("\n"))
    except OSError:
        return ()


def user_column(file: str, line: int, preprocessed: str, column: int) -> int:
    """Column in the user's file of a column of the preprocessed line: the same occurrence of the same token."""
    before = tokenise(preprocessed)
    index = max((i for i, t in enumerate(before) if t.start <= column - 1), default=-1)
    if index < 0:
        return column
    nth = sum(t.text == before[index].text for t in before[:index])
    return _column_of(file, line, before[index].text, nth)


def token_column(token: Token, lines: Dict[Tuple[str, int], List[Token]]) -> int:
    """Column in the user's file of a token of the preprocessed text, whose tokens come by line."""
    line = lines[token.file, token.line]
    nth = sum(t.start < token.start and t.text == token.text for t in line)
    return _column_of(token.file, token.line, token.text, nth)


def by_line(tokens: Iterable[Token]) -> Dict[Tuple[str, int], List[Token]]:
    """Tokens by file and line."""
    lines: Dict[Tuple[str, int], List[Token]] = {}
    for token in tokens:
        lines.setdefault((token.file, token.line), []).append(token)
    return lines


def _column_of(file: str, line: int, text: str, nth: int) -> int:
    """Column of the nth token `text` of a line; 1 when it is not there, because a macro made it."""
    lines, text = _lines(file), dict(SPACES).get(text, text)
    if not 1 <= line <= len(lines):
        return 1
    same = [t for t in tokenise(lines[line - 1]) if t.text == text]
    return same[nth].start + 1 if nth < len(same) else 1
