"""Reading Metal source: the files it consists of, its preprocessed text, and the way back to the user's columns."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .errors import CompileError, Diagnostic
from .tokens import Token, tokenise
from .toolchain import INCLUDE, Clang, language_flags, run

# A macro in a pragma is not expanded yet, and its definition is gone.
_COUNTED_LOOP = re.compile(
    r"^([ \t]*#[ \t]*pragma (?:unroll|clang loop unroll))(?:_count)?[ \t]*\(.*[A-Z_]{2}.*\)", re.MULTILINE
)
# What Metal's compiler knows without any #include; to run, a kernel without any needs the rest of the headers, too.
PRELUDE = ["-include", str(INCLUDE / "metal_simulator" / "language.h")]
RUN_TIME = ["-DMETAL_SIMULATOR_RUN", "-include", str(INCLUDE / "metal_stdlib")]
_INCLUDE_LINE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"\n]+)"|<([^>\n]+)>)', re.MULTILINE)


class Source(NamedTuple):
    """A .metal file with everything it includes."""

    path: Path
    include: Tuple[Path, ...]
    files: Dict[Path, bytes]  # every file that it may include, the file itself first

    def digest(self) -> str:
        """Content hash of all files; where they lie does not matter."""
        total = hashlib.sha256()
        for data in self.files.values():
            total.update(hashlib.sha256(data).digest())
        return total.hexdigest()


def read_source(path, include: Sequence = ()) -> Source:
    """Reads a file and, transitively, what its #include lines may name. Raises CompileError if the file is missing."""
    path = Path(path).absolute()
    folders = tuple(Path(folder).absolute() for folder in include)
    for folder in folders:
        if not folder.is_dir():
            raise CompileError(f"include folder {folder} does not exist")
    files: Dict[Path, bytes] = {}
    _gather(path, folders, files)
    if path not in files:
        raise CompileError(f"cannot read {path}: no such file")
    return Source(path, folders, files)


def _gather(path: Path, folders: Tuple[Path, ...], files: Dict[Path, bytes]) -> None:
    if path in files:
        return
    try:
        files[path] = path.read_bytes()
    except OSError:
        return
    for quoted, angled in _INCLUDE_LINE.findall(files[path].decode("utf-8", "replace")):
        for folder in ([path.parent] if quoted else []) + list(folders):
            candidate = folder / (quoted or angled)
            if candidate.is_file():
                _gather(candidate, folders, files)
                break


def preprocess(
    clang: Clang,
    source: Source,
    run_time: bool,
    flags: Sequence[str] = (),
    kept: Iterable[str] = (),
    version: Optional[int] = None,
) -> str:
    """Preprocessed text with line markers. flags: more of clang's; kept: macros of the headers that stay as they are;
    version: of Metal.

    Raises CompileError with clang's own diagnostics."""
    defined = ["-U__METAL_VERSION__", f"-D__METAL_VERSION__={version}"] if version else []
    folders = [f"-I{folder}" for folder in source.include]
    headers = PRELUDE + (RUN_TIME if run_time else [])
    with tempfile.TemporaryDirectory() as scratch:
        if kept:
            again = Path(scratch) / "kept.h"
            again.write_text("".join(f"#undef {name}\n#define {name} {name}\n" for name in kept))
            headers = [*headers, "-include", str(INCLUDE / "metal_stdlib"), "-include", str(again)]
        command = [clang.path, *language_flags(run_time), *flags, *defined, *folders, *headers, "-w", "-E"]
        done = run([*command, str(source.path)])
    if done.returncode:
        diagnostics = parse_diagnostics(done.stderr)
        raise CompileError(summary("does not preprocess", source, diagnostics, done.stderr), diagnostics)
    return _COUNTED_LOOP.sub(r"\1", done.stdout)


def user_tokens(text: str) -> List[Token]:
    """Tokens of the user's own part of preprocessed text: the stand-in headers are skipped."""
    own = f"{INCLUDE}{os.sep}"
    tokens: List[Token] = []
    markers = list(re.finditer(MARKER.pattern + r"[^\n]*\n", text, re.MULTILINE))
    for marker, following in zip(markers, markers[1:] + [None]):
        file = marker.group(2)
        if not file.startswith(own):
            end = following.start() if following else len(text)
            tokens += tokenise(text, marker.end(), end, file, int(marker.group(1)))
    return tokens


MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"')
_DIAGNOSTIC = re.compile(r"^(.+?):(\d+):(\d+):(?:\{[^ ]*\}:)? (fatal error|error|warning|note): (.*)$")
_SPACES = [
    ("__global", "device"),
    ("__constant", "constant"),
    ("__local", "threadgroup"),
    ("__private", "thread"),
    ("__bf16", "bfloat"),
]


def parse_diagnostics(text: str) -> List[Diagnostic]:
    """clang's messages, with Metal's names of the address spaces."""
    messages = [parse_message(line) for line in text.splitlines()]
    return [Diagnostic(*m[:4], metal_words(m[4])) for m in messages if m and m[3] != "note"]


def parse_message(line: str) -> Optional[Tuple[str, int, int, str, str]]:
    """(file, line, column, severity, text) of one line of clang's output, if it is a message."""
    match = _DIAGNOSTIC.match(line)
    if not match:
        return None
    file, row, column, severity, message = match.groups()
    return file, int(row), int(column), severity.replace("fatal ", ""), message


def metal_words(message: str) -> str:
    for theirs, ours in _SPACES:
        message = re.sub(rf"\b{theirs}\b", ours, message)
    message = re.sub(
        r"\b__metal_(?:name_)?(local|global|generic|pipe|read_only|write_only|read_write|event_t|queue_t|vec_step|atomic_\w+)\b",
        r"\1",
        message,
    )
    message = re.sub(r"static assertion failed due to requirement '.*': (?=.)", "", message)
    return re.sub(r"__attribute__\(\((?:address_space|ext_vector_type)\(.*?\)\)\)", "", message)


def summary(problem: str, source: Source, diagnostics: Sequence[Diagnostic], raw: str) -> str:
    """An error message: the first few errors, or the tool's own words when none could be parsed."""
    errors = [d for d in diagnostics if d.severity == "error"]
    if not errors:
        return f"{source.path} {problem}:\n{raw.strip()[:2000]}"
    lines = [str(d) for d in errors[:5]]
    if len(errors) > 5:
        lines.append(f"... and {len(errors) - 5} more errors")
    return f"{source.path} {problem}:\n" + "\n".join(lines)


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
    lines, text = _lines(file), dict(_SPACES).get(text, text)
    if not 1 <= line <= len(lines):
        return 1
    same = [t for t in tokenise(lines[line - 1]) if t.text == text]
    return same[nth].start + 1 if nth < len(same) else 1
