"""Metal as a C++ parser reads it: the user's text in libclang, with stand-in headers made for reading alone.

There (include/reading) vectors are classes whose types are Metal's, and whatever is in an address space converts to
what is in none, so that legal Metal is legal C++, and every expression has its Metal type. Offsets are those of the
text: what C++ does not take (attributes, `threadgroup` variables, function constants, instantiations) is put
differently in place.
"""

from __future__ import annotations

import bisect
import functools
import os
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

from clang.cindex import Index, TranslationUnit

from ..errors import Diagnostic, ToolchainError
from ..source.columns import by_line, token_column
from ..source.declarations import Declarations, read_attributes
from ..source.files import MARKER
from ..source.tokens import CLOSE, OPEN, Token
from ..toolchain import cache
from ..toolchain.paths import INCLUDE
from .threadgroup_variables import threadgroup_variable_at

_FILE = "read.cpp"
_FLAGS = [
    *("-x", "c++", "-std=c++17", "-Xclang", "-fsycl-is-device", "-fdeclspec", "-nostdinc", "-nostdinc++"),
    *(f"-I{INCLUDE}/reading", f"-I{INCLUDE}", "-DMETAL_SIMULATOR_READING", "-D__METAL__=1", "-D__METAL_VERSION__=400"),
    *("-w", "-Wno-reserved-user-defined-literal", "-ferror-limit=0", "-Xclang", "-fno-validate-pch"),
    *("-Xclang", "-cl-single-precision-constant"),
]
_ERROR = 3
_FOR_SERIALIZATION = 0x10  # CXTranslationUnit_ForSerialization, for which the bindings have no name
# Of a member function's address space: one that keeps overloads apart; see include/reading/metal_simulator/dialect.h.
_OF_METHODS = {"__private": "__Private", "__global": "__Global", "__local": "__locaL", "__constant": ""}


class Reading(NamedTuple):
    """What libclang read: the unit, the text's tokens, and the other bracket of each by token index."""

    unit: object
    tokens: List[Token]
    starts: List[int]
    brackets: Dict[int, int]

    def cursors(self) -> Iterator[object]:
        """The user's own declarations."""
        return (c for c in self.unit.cursor.get_children() if c.location.file and c.location.file.name == _FILE)

    def at(self, offset: int) -> int:
        """Index of the token that begins at an offset, or else before it."""
        return bisect.bisect_right(self.starts, offset) - 1

    def problems(self) -> List[Diagnostic]:
        """What cannot be read."""
        lines, found = by_line(self.tokens), []
        for problem in self.unit.diagnostics:
            if problem.severity >= _ERROR and self.tokens:
                in_text = problem.location.file and problem.location.file.name == _FILE
                token = self.tokens[max(self.at(problem.location.offset), 0) if in_text else 0]
                found.append(
                    Diagnostic(token.file, token.line, token_column(token, lines), "error", problem.spelling)
                )
        return found


def read(text: str, declarations: Declarations, taken: List[Tuple[int, int]]) -> Reading:
    """taken: places of the text that say nothing to a C++ parser."""
    source = _readable(text, declarations, taken)
    unit = Index.create().parse(_FILE, [*_FLAGS, "-include-pch", _headers()], [(_FILE, source)])
    tokens = declarations.tokens
    return Reading(unit, tokens, [t.start for t in tokens], _brackets(tokens))


@functools.lru_cache(maxsize=None)
def _headers() -> str:
    """Path of the precompiled headers."""
    name = f"reading-{cache.key(str(INCLUDE))}.pch"
    path = cache.folder() / name
    if not path.exists():
        options = TranslationUnit.PARSE_SKIP_FUNCTION_BODIES | TranslationUnit.PARSE_INCOMPLETE | _FOR_SERIALIZATION
        unit = TranslationUnit.from_source(str(INCLUDE / "reading" / "headers.h"), _FLAGS, options=options)
        wrong = [d.spelling for d in unit.diagnostics if d.severity >= _ERROR]
        if wrong:
            raise ToolchainError(f"libclang does not read the simulator's headers: {wrong[0]}")
        with tempfile.TemporaryDirectory() as scratch:
            written = Path(scratch) / name
            unit.save(str(written))
            cache.put(name, written.read_bytes())
    return str(path)


def _readable(text: str, declarations: Declarations, taken: List[Tuple[int, int]]) -> str:
    """The text for libclang, character by character in its place."""
    tokens = declarations.tokens
    places = [(start, end, "") for start, end in [*_headers_of(text), *taken]]
    for constant in declarations.constants:
        for first, last, _ in read_attributes(tokens, constant.start, constant.end):
            places.append((tokens[first].start, tokens[last].end, "{}"))
    for i, token in enumerate(tokens):
        if token.text in _OF_METHODS and _qualifies_method(tokens, i):
            if token.text == "__constant":  # and the const that stands behind it: a reference qualifier is the last
                places.append((token.start, tokens[i + 1].end, "const __Constant"))
            else:
                places.append((token.start, token.end, _OF_METHODS[token.text]))
        elif token.text == "__local" and threadgroup_variable_at(tokens, i):
            places.append((token.start, token.end, "__Local"))
    parts, position = [], 0
    for start, end, put in sorted(places):
        if start >= position:
            parts += [text[position:start], put, re.sub(r"[^\n]", " ", text[start + len(put) : end])]
            position = max(end, start + len(put))
    return re.sub(r"[^\x00-\x7f]", "_", "".join([*parts, text[position:]]))


def _headers_of(text: str) -> Iterator[Tuple[int, int]]:
    """Places of the stand-in headers, and of line markers."""
    own, markers = f"{INCLUDE}{os.sep}", list(re.finditer(MARKER.pattern + r"[^\n]*\n", text, re.MULTILINE))
    for marker, following in zip(markers, [*markers[1:], None]):
        end = following.start() if following else len(text)
        yield marker.start(), end if marker.group(2).startswith(own) else marker.end()


def _qualifies_method(tokens: List[Token], i: int) -> bool:
    i -= 1
    while tokens[i].text in ("const", "volatile"):
        i -= 1
    return i > 0 and tokens[i].text == ")"


def _brackets(tokens: List[Token]) -> Dict[int, int]:
    found: Dict[int, int] = {}
    stack: List[int] = []
    for i, token in enumerate(tokens):
        if token.text in OPEN:
            stack.append(i)
        elif token.text in CLOSE and stack:
            found[i] = stack.pop()
            found[found[i]] = i
    return found
