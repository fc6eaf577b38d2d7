"""The strict check: clang in a mode as strict as Apple's compiler, the syntax tree, and lints on the tokens."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Tuple

from . import cache
from .copies import is_copy
from .declarations import read_declarations
from .errors import Diagnostic
from .lint import lint
from .rewrite import Rewritten, for_check
from .source import MARKER, Source, metal_words, parse_message, preprocess, user_column, user_tokens
from .syntax_tree import tree_findings
from .toolchain import INCLUDE, Clang, language_flags, run

# Without a generic address space clang cannot copy objects of class type, or call members of temporaries, in places
# where Metal can. Real mistakes of these kinds also show with one.
_ONLY_CLANG = re.compile(
    r"cannot initialize object parameter of type '[^']*' with an expression of type '"
    r"(?!(?:const )?__(?:local|global|constant) )"
    r"|call to implicitly-deleted|.* is implicitly deleted$"
    r"|constructor for .* must explicitly initialize the member .* which does not have a default constructor"
)
_STAND_IN = re.compile(
    r"\b__(?:bool_vector|bool_components|packed|matrix)\b"
)  # classes here that are no classes in Metal
_STAND_INS = {"boolean.h", "packed.h", "matrix_types.h"}
_ONLY_CLANG_NOTE = re.compile(
    r"cannot be used to construct an object in address space unqualified|'this' object is in default address space"
    r"|\(the implicit (?:copy|move) (?:constructor|assignment operator)\) not viable"
    r"|default constructor of .* is implicitly deleted"
)


def check(clang: Clang, source: Source, digest: str) -> List[Diagnostic]:
    """See Library.check; digest: of the source. Raises CompileError when the file does not even preprocess."""
    name = "check-" + cache.key(clang.version, digest)
    files = [str(path) for path in source.files]
    known = cache.read(name)
    if known is None:
        found = _check(clang, source)
        known = {"found": [[files.index(d.file) if d.file in files else d.file, *d[1:]] for d in found]}
        cache.write(name, known)
    return [Diagnostic(files[f] if isinstance(f, int) else f, *rest) for f, *rest in known["found"]]


def _check(clang: Clang, source: Source) -> List[Diagnostic]:
    text = preprocess(clang, source, run_time=False)
    declarations = read_declarations(user_tokens(text))
    strict, generic = (for_check(text, declarations, generic) for generic in (False, True))
    errors, (tree_errors, tree) = _run_passes(clang, strict.text, generic.text)
    found = lint(source, declarations)
    found += map(_Places(strict).to_user, _clang_errors(errors, generic=False))
    messages = _clang_errors(tree_errors, generic=True) + tree_findings(tree, [str(path) for path in source.files])
    return _ordered(found + list(map(_Places(generic).to_user, messages)))


def _run_passes(clang: Clang, strict: str, generic: str) -> Tuple[str, Tuple[str, str]]:
    """Messages of the strict pass; messages and syntax tree of the other. They run side by side."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        commands = []
        for name, text, more in [("strict", strict, []), ("generic", generic, ["-w", "-Xclang", "-ast-dump"])]:
            written = Path(scratch) / f"{name}.clcpp"
            written.write_text(text)
            flags = language_flags(generic=name == "generic")
            commands.append([clang.path, *flags, "-fsyntax-only", *more, str(written)])
        first, second = pool.map(run, commands)
    return first.stderr, (second.stderr, second.stdout)


def _ordered(found: Iterable[Diagnostic]) -> List[Diagnostic]:
    """Each once; where several say something of one place, the first stays (lints know Metal's words)."""
    kept: Dict[Tuple[str, int, int, str], Diagnostic] = {}
    for diagnostic in found:
        kept.setdefault((diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.message), diagnostic)
    return sorted(kept.values())


def _clang_errors(stderr: str, generic: bool) -> List[Diagnostic]:
    """Errors at the user's own lines; of the strict pass, without those to which only clang, not Metal, objects."""
    found: List[Diagnostic] = []
    real: List[bool] = []
    for line in stderr.splitlines():
        message = parse_message(line)
        if message is None:
            continue
        file, row, column, severity, text = message
        if severity == "error":
            found.append(Diagnostic(file, row, column, severity, metal_words(text)))
            stand_in = file.startswith(str(INCLUDE)) and Path(file).name in _STAND_INS
            # Without a generic address space the first pass is the judge of spaces, with one the second of the rest.
            real.append(
                "__generic" not in text
                if generic
                else not (_ONLY_CLANG.match(text) or _STAND_IN.search(text) or stand_in)
            )
        elif severity == "note" and found:
            if is_copy(text) or (not generic and (_ONLY_CLANG_NOTE.search(text) or _STAND_IN.search(text))):
                real[-1] = False
            elif found[-1].file.startswith(str(INCLUDE)) and "requested here" in text:
                found[-1] = found[-1]._replace(file=file, line=row, column=column)  # blame the caller of our header
    return [d for d, ours in zip(found, real) if ours]


class _Line(NamedTuple):
    start: int  # offset in the rewritten text
    end: int


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
                self._lines.setdefault((file, line), []).append(_Line(start, start + len(text)))
                line += 1
            start += len(text) + 1

    def to_user(self, diagnostic: Diagnostic) -> Diagnostic:
        lines = self._lines.get((diagnostic.file, diagnostic.line), [])
        line = next((x for x in lines if x.end - x.start >= diagnostic.column - 1 and x.end > x.start), None)
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
