"""The strict check: clang in a mode as strict as Apple's compiler, the syntax tree, and lints on the tokens."""

from __future__ import annotations

import tempfile
from pathlib import Path
from subprocess import CompletedProcess
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..errors import Diagnostic
from ..source.columns import by_line, token_column, user_column
from ..source.declarations import read_declarations
from ..source.diagnostics import metal_words, parse_message
from ..source.files import MARKER, Source, preprocess, user_tokens
from ..source.tokens import Token
from ..toolchain import cache
from ..toolchain.clang import Clang, language_flags, run
from ..toolchain.paths import INCLUDE
from ..translate.edits import Rewritten
from ..translate.rewrite import for_check, read_types
from ..translate.threadgroup_variables import THREADGROUP_LIMIT_MESSAGE
from . import words
from .language import Language, language_named, newer, newer_attributes, newer_names, predefined
from .lint import lint
from .syntax_tree import tree_findings


def check(
    clang: Clang,
    source: Source,
    digest: str,
    language: Optional[str] = None,
    deployment_target: Optional[str] = None,
) -> List[Diagnostic]:
    """See Library.check; digest: of the source. Raises CompileError when the file does not even preprocess."""
    chosen = language_named(language)
    name = "check-" + cache.key(clang.version, digest, language)
    files = [str(path) for path in source.files]
    known = cache.read(name)
    if known is None:
        found = _check(clang, source, chosen, predefined(language, deployment_target))
        known = {"found": [[files.index(d.file) if d.file in files else d.file, *d[1:]] for d in found]}
        cache.write(name, known)
    return [Diagnostic(files[f] if isinstance(f, int) else f, *rest) for f, *rest in known["found"]]


def _check(clang: Clang, source: Source, language: Optional[Language], flags: List[str]) -> List[Diagnostic]:
    text = preprocess(clang, source, run_time=False, flags=flags)
    declarations = read_types(text, read_declarations(user_tokens(text)))
    rewritten = for_check(text, declarations)
    found = lint(source, declarations)
    errors, tree = _run_clang(clang, rewritten.text)
    refused = _clang_errors(errors)
    if refused or words.name_macros(source.files.values()):
        found += _words(clang, source, flags, {(d.file, d.line) for d in refused})
    messages = refused + tree_findings(tree, [str(path) for path in source.files])
    if language:
        found += _newer_tokens(language, declarations.tokens)
        messages += _newer(clang, source, rewritten.text, language)
    found += map(_Places(rewritten).to_user, messages)
    if not any(d.severity == "error" for d in found):
        found += rewritten.unread
    return _ordered(found)


def _newer(clang: Clang, source: Source, text: str, language: Language) -> List[Diagnostic]:
    """What is newer than the language."""
    files = {str(path) for path in source.files}
    flags = [*language_flags(run_time=False), "-fsyntax-only", "-Wno-everything", *language.warnings]
    stderr = _run(clang, text, flags).stderr
    return [Diagnostic(*place, "error", message) for *place, message in newer(language, stderr) if place[0] in files]


def _newer_tokens(language: Language, tokens: List[Token]) -> Iterator[Diagnostic]:
    lines = by_line(tokens)
    for token, message in (*newer_attributes(language, tokens), *newer_names(language, tokens)):
        yield Diagnostic(token.file, token.line, token_column(token, lines), "error", message)


def _words(clang: Clang, source: Source, flags: List[str], refused: Set[Tuple[str, int]]) -> Iterator[Diagnostic]:
    """Why clang refuses a word that is no name, with the headers' macros not expanded. refused: files and lines."""
    tokens = user_tokens(preprocess(clang, source, run_time=False, flags=flags, kept=words.MACROS))
    lines = by_line(tokens)
    for token, word in words.found_in_tokens(tokens, refused):
        yield Diagnostic(token.file, token.line, token_column(token, lines), "error", words.reason(word))


def _run_clang(clang: Clang, text: str) -> Tuple[str, str]:
    """clang's messages and its syntax tree."""
    done = _run(clang, text, [*language_flags(run_time=False), "-fsyntax-only", "-w", "-Xclang", "-ast-dump"])
    return done.stderr, done.stdout


def _run(clang: Clang, text: str, flags: List[str]) -> CompletedProcess:
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "check.clcpp"
        written.write_text(text)
        return run([clang.path, *flags, str(written)])


def _ordered(found: Iterable[Diagnostic]) -> List[Diagnostic]:
    """Each once; where several say something of one place, the first stays (lints know Metal's words)."""
    kept: Dict[Tuple[str, int, int, str], Diagnostic] = {}
    for diagnostic in found:
        kept.setdefault((diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message), diagnostic)
    return sorted(kept.values())


def _clang_errors(stderr: str) -> List[Diagnostic]:
    """Errors at the user's own lines."""
    found: List[Diagnostic] = []
    texts: List[str] = []  # of each error, as clang has it
    for line in stderr.splitlines():
        message = parse_message(line)
        if message is None:
            continue
        file, row, column, severity, text = message
        if severity == "error":
            severity = "warning" if THREADGROUP_LIMIT_MESSAGE in text else severity  # it compiles, but never runs
            found.append(Diagnostic(file, row, column, severity, metal_words(text)))
            texts.append(text)
        elif severity == "note" and found and "requested here" in text:
            if found[-1].file.startswith(str(INCLUDE)):
                found[-1] = found[-1]._replace(file=file, line=row, column=column)  # blame the caller of our header
    # An unqualified pointer shows in the syntax tree, where it is told in Metal's words.
    return [d for d, text in zip(found, texts) if "__generic" not in text]


class _Line(NamedTuple):
    start: int  # offset in the rewritten text
    text: str


class _Places:
    """From a line and column of the rewritten text, named by line markers, to those of the user's file."""

    def __init__(self, rewritten: Rewritten):
        self._rewritten = rewritten
        self._lines: Dict[Tuple[str, int], List[_Line]] = {}
        file, line, start = "", 1, 0
        for text in rewritten.text.split("\n"):
            marker = MARKER.match(text)
            if marker:
                line, file = int(marker.group(1)), marker.group(2)
            else:
                self._lines.setdefault((file, line), []).append(_Line(start, text))
                line += 1
            start += len(text) + 1

    def to_user(self, diagnostic: Diagnostic) -> Diagnostic:
        lines = self._lines.get((diagnostic.file, diagnostic.line), [])
        line = next((x for x in lines if len(x.text) >= diagnostic.column - 1 and x.text), None)
        if line is None:
            return diagnostic
        offset = self._original(line.start + diagnostic.column - 1)
        original = self._rewritten.original
        start = original.rfind("\n", 0, offset) + 1
        end = original.find("\n", offset)
        column = user_column(diagnostic.file, diagnostic.line, original[start:end], offset - start + 1)
        return diagnostic._replace(column=column)

    def _original(self, offset: int) -> int:
        shift = 0  # how much longer the rewritten text is, so far
        for edit in self._rewritten.edits:
            at = edit.start + shift
            if offset < at:
                break
            if offset < at + len(edit.text):
                return edit.start
            shift += len(edit.text) - (edit.end - edit.start)
        return offset - shift
