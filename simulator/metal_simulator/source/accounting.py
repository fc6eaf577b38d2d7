"""No kernel gets lost: every word `kernel` belongs to a kernel, a template, an instantiation or a declaration."""

from __future__ import annotations

from typing import Iterator, List, Set, Tuple

from ..errors import CompileError, Diagnostic
from .columns import by_line, token_column
from .declarations import Declarations, declarator, ends_head, read_attributes, read_declarations
from .files import user_tokens
from .tokens import Token, matching, spell


def read_kernels(text: str) -> Tuple[str, Declarations]:
    """Preprocessed text without what says nothing of its kernels that their definitions do not say (prototypes,
    `extern template`, `extern "C"`), and what is declared there."""
    declarations = read_declarations(user_tokens(text))
    redundant = list(_redundant(declarations))
    if redundant:
        for first, last in redundant:
            start, end = declarations.tokens[first].start, declarations.tokens[last].end
            text = text[:start] + "".join(c if c == "\n" else " " for c in text[start:end]) + text[end:]
        return read_kernels(text)
    return text, declarations


def account(declarations: Declarations) -> Declarations:
    """Declarations, with types. Raises CompileError where it cannot be told what a word `kernel` declares."""
    lost = _lost(declarations)
    if lost:
        message = "cannot tell what the word kernel declares here"
        lines = by_line(declarations.tokens)
        found = [Diagnostic(t.file, t.line, token_column(t, lines), "error", message) for t in lost]
        raise CompileError("\n".join(map(str, found[:5])), found)
    return declarations


def _redundant(declarations: Declarations) -> Iterator[Tuple[int, int]]:
    """First and last token."""
    tokens = declarations.tokens
    for start, end, _ in declarations.statements:
        if not any(t.text == "kernel" for t in tokens[start : end + 1]):
            continue
        if tokens[start].text == "extern" and tokens[start + 1].kind == "string":
            yield start, start + 1
        elif [t.text for t in tokens[start : start + 2]] == ["extern", "template"] and tokens[end].text == ";":
            yield start, end
        elif tokens[end].text == ";" and _is_prototype(declarations, start, end):
            yield start, end


def _is_prototype(declarations: Declarations, start: int, end: int) -> bool:
    """Whether a statement declares a kernel, and has no attributes that the definition has not."""
    tokens = declarations.tokens
    found = declarator(tokens, start, end)
    if found is None:
        return False
    name, _, opening = found
    close = matching(tokens, opening)
    if not ends_head(tokens[close + 1 : end]) or "kernel" not in [t.text for t in tokens[start:opening]]:
        return False
    defined = (f for f in declarations.functions if f.kernel and f.name == tokens[name].text)
    return all(
        _attributes(tokens, start, opening, close, end) <= _attributes(tokens, f.start, f.open, f.close, f.body)
        for f in defined
    )


def _attributes(tokens: List[Token], start: int, opening: int, close: int, end: int) -> Set[Tuple[str, str]]:
    ranges = (start, opening), (opening + 1, close), (close, end)
    groups = [group for first, last in ranges for group in read_attributes(tokens, first, last)]
    return {(a.name, spell(list(a.arguments))) for group in groups for a in group[2] if a.name != "kernel"}


def _lost(declarations: Declarations) -> List[Token]:
    """Words `kernel` that nothing accounts for."""
    known: Set[int] = set()
    for function in declarations.functions:
        if function.kernel:
            known.update(range(function.start, function.open))
            known.update(range(function.close, function.body))
    for instantiation in declarations.instantiations:
        if declarations.template(instantiation):
            known.update(range(instantiation.start, instantiation.end))
    return [t for i, t in enumerate(declarations.tokens) if t.text == "kernel" and i not in known]
