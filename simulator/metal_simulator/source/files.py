"""Reading Metal source: the files it consists of, and its preprocessed text."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

from ..errors import CompileError
from ..toolchain.clang import Clang, language_flags, run
from ..toolchain.paths import INCLUDE
from .diagnostics import parse_diagnostics, summary
from .tokens import Token, tokenise

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
) -> str:
    """Preprocessed text with line markers. flags: more of clang's; kept: macros of the headers that stay as they are.

    Raises CompileError with clang's own diagnostics."""
    folders = [f"-I{folder}" for folder in source.include]
    headers = PRELUDE + (RUN_TIME if run_time else [])
    with tempfile.TemporaryDirectory() as scratch:
        if kept:
            again = Path(scratch) / "kept.h"
            again.write_text("".join(f"#undef {name}\n#define {name} {name}\n" for name in kept))
            headers = [*headers, "-include", str(INCLUDE / "metal_stdlib"), "-include", str(again)]
        command = [clang.path, *language_flags(run_time), *flags, *folders, *headers, "-w", "-E"]
        done = run([*command, str(source.path)])
    if done.returncode:
        diagnostics = parse_diagnostics(done.stderr)
        raise CompileError(summary(source.path, "does not preprocess", diagnostics, done.stderr), diagnostics)
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
