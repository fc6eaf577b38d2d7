"""Metal as a C++ parser reads it: the user's text in libclang, with stand-in headers made for reading alone.

There (include/reading) vectors are classes whose types are Metal's, and whatever is in an address space converts to
what is in none, so that legal Metal is legal C++, and every expression has its Metal type. Offsets are those of the
text: what C++ does not take (attributes, `threadgroup` variables, function constants, instantiations) is put
differently in place.
"""

from __future__ import annotations

import bisect
import os
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Set, Tuple

from clang.cindex import Cursor, Index, TranslationUnit

from ..errors import Diagnostic, ToolchainError
from ..source.columns import by_line, token_column
from ..source.declarations import Declarations
from ..source.files import MARKER
from ..source.statements import CALLS, is_attribute
from ..source.tokens import CLOSE, OPEN, Token, matching_angle, spell
from ..toolchain import cache
from ..toolchain.paths import INCLUDE
from .cursors import children, is_own, number_places, with_all_parts
from .threadgroup_variables import threadgroup_variable_at

FILE = "read.cpp"
_FLAGS = [
    *("-x", "c++", "-std=c++17", "-Xclang", "-fsycl-is-device", "-fdeclspec", "-nostdinc", "-nostdinc++"),
    *(f"-I{INCLUDE}/reading", f"-I{INCLUDE}", "-DMETAL_SIMULATOR_READING", "-D__METAL__=1", "-D__METAL_VERSION__=400"),
    *("-w", "-Wno-reserved-user-defined-literal", "-ferror-limit=0", "-Xclang", "-fno-validate-pch"),
    *("-Xclang", "-cl-single-precision-constant"),
]
# Of kernels with tensors, for whose headers the deployment target does not matter here; and what such a text has.
_TENSORS = ["-D__HAVE_TENSOR__=1", "-D__ENVIRONMENT_OS_VERSION_MIN_REQUIRED__=260200"]
_HAS_TENSORS = "struct tensor_inline {};"
_ERROR = 3
_FOR_SERIALIZATION = 0x10  # CXTranslationUnit_ForSerialization, for which the bindings have no name
_SPACES = ("__private", "__global", "__local", "__constant")
_OF_CONSTRUCTORS = {"__global": "_G", "__local": "_L", "__constant": "_C"}
_CAST = "reinterpret_cast"
_UNSIGNED = ("uint", "unsigned", "ushort", "size_t", "uint32_t")


Place = Tuple[int, int, str]  # start and end in the text, and what stands there for libclang


class Reading(NamedTuple):
    """What libclang read: the unit, the text's tokens, and the other bracket of each by token index."""

    unit: TranslationUnit
    declared: List[Cursor]  # the user's own declarations
    settled: Set[int]  # offsets of what libclang refuses, and the edits see to, or that clang judges
    tokens: List[Token]
    starts: List[int]
    brackets: Dict[int, int]

    def at(self, offset: int) -> int:
        """Index of the token that begins at an offset, or else before it."""
        return bisect.bisect_right(self.starts, offset) - 1

    def problems(self) -> List[Diagnostic]:
        """What cannot be read."""
        found = []
        wrong = [d for d in self.unit.diagnostics if d.severity >= _ERROR and d.location.offset not in self.settled]
        if wrong and self.tokens:
            lines = by_line(self.tokens)
            for problem in wrong:
                places = [note.location for note in (problem, *problem.children)]  # a header's error notes who used it
                own = [place.offset for place in places if place.file and place.file.name == FILE]
                token = self.tokens[max(self.at(own[0]), 0) if own else 0]
                found.append(Diagnostic(token.file, token.line, token_column(token, lines), "error", problem.spelling))
        return found


def read(text: str, declarations: Declarations, taken: List[Tuple[int, int]]) -> Reading:
    """taken: places of the text that say nothing to a C++ parser."""
    tokens, brackets = declarations.tokens, _brackets(declarations.tokens)
    source = _readable(text, declarations, taken, brackets)
    unit = _parse(source, _HAS_TENSORS in text)
    refused = [d.location.offset for d in unit.diagnostics if d.severity >= _ERROR]
    casts = [offset for offset in refused if source.startswith(_CAST, offset)]
    if casts:  # for an address space; not all are put differently, for T(x) may be a declaration
        for offset in casts:
            source = source[:offset] + "__Cast".ljust(len(_CAST)) + source[offset + len(_CAST) :]
        unit = _parse(source, _HAS_TENSORS in text)
    number_places(unit, len(source))
    declared = [with_all_parts(cursor) for cursor in children(unit.cursor) if is_own(cursor)]
    return Reading(unit, declared, set(), tokens, [t.start for t in tokens], brackets)


def _parse(source: str, tensors: bool) -> TranslationUnit:
    return Index.create().parse(FILE, [*_FLAGS, "-include-pch", _headers(tensors)], [(FILE, source)])


def _headers(tensors: bool) -> str:
    """Path of the precompiled headers, with tensors or without."""
    name = f"reading-{cache.key(str(INCLUDE), tensors)}.pch"
    path = cache.folder() / name
    if not path.exists():
        options = TranslationUnit.PARSE_SKIP_FUNCTION_BODIES | TranslationUnit.PARSE_INCOMPLETE | _FOR_SERIALIZATION
        flags = [*_FLAGS, *(_TENSORS if tensors else [])]
        unit = TranslationUnit.from_source(str(INCLUDE / "reading" / "headers.h"), flags, options=options)
        wrong = [d.spelling for d in unit.diagnostics if d.severity >= _ERROR]
        if wrong:
            raise ToolchainError(f"libclang does not read the simulator's headers: {wrong[0]}")
        with tempfile.TemporaryDirectory() as scratch:
            written = Path(scratch) / name
            unit.save(str(written))
            cache.put(name, written.read_bytes())
    return str(path)


def _readable(text: str, declarations: Declarations, taken: List[Tuple[int, int]], brackets: Dict[int, int]) -> str:
    """The text for libclang, character by character in its place."""
    tokens = declarations.tokens
    places = [(start, end, "") for start, end in [*_headers_of(text), *taken]]
    # An instantiation as a specialisation, of which libclang has a cursor; and no body is instantiated.
    places += [(i.token.start, i.token.end, "__Given") for i in declarations.instantiations]
    places += _put_differently(tokens, brackets)
    parts, position = [], 0
    for start, end, put in sorted(places, key=lambda place: (place[0], -place[1])):
        if start >= position:
            lines = text.count("\n", start, end)
            parts += [text[position:start], put, "\n" * lines, " " * (end - start - len(put) - lines)]
            position = end
    readable = "".join([*parts, text[position:]])
    return readable if readable.isascii() else re.sub(r"[^\x00-\x7f]", "_", readable)


def _put_differently(tokens: List[Token], brackets: Dict[int, int]) -> Iterator[Place]:
    """What C++ takes only in other words, which are no longer: start, end, words."""
    methods = _Methods(tokens, brackets)
    classes = {tokens[i + 1].text for i, t in enumerate(tokens[:-1]) if t.text in ("struct", "class", "union")}
    counts = _counts(tokens)
    for i, token in enumerate(tokens[:-2]):
        if token.text == "[" and is_attribute(tokens, i) and i in brackets:
            end = brackets[i]  # in front of ';' it may be of a constant, which wants a value
            yield token.start, tokens[end].end, "{}" if tokens[end + 1 : end + 2][0].text == ";" else ""
        elif token.kind == "number" and token.text.lower().endswith("bf") and token.text[:2].lower() != "0x":
            yield token.end - 2, token.end, "_b"
        elif token.text in counts and tokens[i - 1].text in _UNSIGNED and tokens[i - 2].text in ("<", ","):
            yield tokens[i - 1].start, tokens[i - 1].end, "int"
        elif token.text in _SPACES:
            yield from _space(tokens, i, brackets, classes, methods.renamed)


def _space(tokens: List[Token], i: int, brackets: Dict[int, int], classes: Set[str], renamed) -> Iterator[Place]:
    """An address space that is not that of a pointer or reference.

    renamed: number of a member function that must have another name, for there is one for `thread` objects; else 0
    """
    word, close = tokens[i].text, i - 1
    while tokens[close].text in ("const", "volatile"):
        close -= 1
    opening = brackets.get(close, 0) if tokens[close].text == ")" else 0
    if opening and tokens[opening - 1].text not in CALLS:  # of a member function
        if _before_arguments(tokens, opening - 1).text not in classes:
            end = close + 1
            while tokens[end].text in (*_SPACES, "const", "volatile"):
                end += 1
            is_const = any(t.text == "const" for t in tokens[close + 1 : end])
            yield tokens[close + 1].start, tokens[end - 1].end, "const" if is_const else ""
            name = _method_name(tokens, opening)
            if tokens[name - 1].text == "&":  # to what its object has, which is in no address space here
                yield from ((t.start, t.end, "") for t in _result(tokens, name) if t.text in _SPACES[1:])
            number = 0 if word == "__private" else renamed(name, tokens[name:opening], is_const)
            if number:
                yield tokens[name].start, tokens[opening - 1].end, _other_name(tokens[name:opening], number)
                if tokens[end + 1].text == "default":  # as only the one with that name may be
                    yield tokens[end + 1].start, tokens[end + 1].end, "delete"
        elif word == "__private":
            yield tokens[i].start, tokens[i].end, ""
        else:
            last = i + (word == "__constant")  # that is `__constant const`
            is_default = tokens[last + 2].text == "default"
            if is_default and not renamed(opening - 1, tokens[opening - 1 : opening], False):
                yield tokens[i].start, tokens[last].end, ""
            else:
                comma = ", " if close > opening + 1 else ""
                yield tokens[close].start, tokens[last].end, f"{comma}{_OF_CONSTRUCTORS[word]})"
                if is_default:  # which it is not with that; and it may not be the user's own
                    yield tokens[last + 2].start, tokens[last + 2].end, "delete"
    elif word == "__local" and threadgroup_variable_at(tokens, i):
        yield tokens[i].start, tokens[i].end, "__Local"
    elif word != "__private":  # an array among the parameters is a pointer
        k = i + 1
        while k < len(tokens) - 1 and (tokens[k].kind == "identifier" or tokens[k].text in ("::", "<")):
            k = max(matching_angle(tokens, k), k) + 1 if tokens[k].text == "<" else k + 1
        close = last = brackets.get(k, 0) if tokens[k].text == "[" else 0
        while last and tokens[last + 1].text == "[":
            last = brackets.get(last + 1, 0)
        if close and last and tokens[last + 1].text in (",", ")") and not is_attribute(tokens, k):
            name = tokens[k - 1].text
            yield tokens[k - 1].start, tokens[close].end, f"*{name}" if close == last else f"(*{name})"


def _before_arguments(tokens: List[Token], last: int) -> Token:
    """Of a name that ends at a token: of `C<T>` C."""
    depth = 0
    while last > 0:
        depth += (tokens[last].text == ">") - (tokens[last].text == "<")
        if not depth and tokens[last].text != "<":
            break
        last -= 1
    return tokens[last]


def _result(tokens: List[Token], name: int) -> List[Token]:
    """The words in front of a member function's name."""
    begin = name
    while tokens[begin - 1].text not in (";", "{", "}", ":"):
        begin -= 1
    return tokens[begin:name]


def _method_name(tokens: List[Token], opening: int) -> int:
    """Where the name of a member function begins, whose parameters open at a bracket."""
    for i in range(opening - 1, max(opening - 12, 0), -1):
        if tokens[i].text == "operator":
            return i
        if tokens[i].text in (";", "{", "}"):
            break
    return opening - 1


def _other_name(name: List[Token], number: int) -> str:
    """One of its own, no longer than the name; of a conversion a function's that gives the same."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    own = "_" + (digits[number // 36] if number >= 36 else "") + digits[number % 36]
    conversion = len(name) > 1 and (name[-1].kind == "identifier" or name[-1].text in (">", "*", "&"))
    return f"auto {own}" if conversion else own


class _Methods:
    """Member functions by class, name and whether they are const: of several the first one keeps its name."""

    def __init__(self, tokens: List[Token], brackets: Dict[int, int]):
        self.taken: Set[Tuple[int, str, bool]] = set()
        self.count = 0  # of those with another name
        self.around: List[int] = []  # by token: the innermost brace around it
        stack = [-1]
        for i, token in enumerate(tokens):
            self.around.append(stack[-1])
            if token.text == "{":
                stack.append(i)
            elif token.text == "}" and len(stack) > 1:
                stack.pop()
        for i, token in enumerate(tokens):
            close = brackets.get(i, -1) if token.text == "(" else -1
            if i < close < len(tokens) - 4:
                end = close + 1
                while tokens[end].text in (*_SPACES, "const", "volatile"):
                    end += 1
                words = {t.text for t in tokens[close + 1 : end]}
                if tokens[end].text in ("{", ";", "=") and not words & set(_SPACES[1:]):
                    name = _method_name(tokens, i)
                    self.taken.add((self.around[i], spell(tokens[name:i]), "const" in words))

    def renamed(self, place: int, name: List[Token], is_const: bool) -> int:
        key = (self.around[place], spell(name), is_const)
        if key not in self.taken:
            self.taken.add(key)
            return 0
        self.count += 1
        return self.count


def _counts(tokens: List[Token]) -> Set[str]:
    """Names of the lengths of vectors: their type must be that of the class that they are deduced from."""
    found = set()
    for i, token in enumerate(tokens[:-2]):
        if token.text == "vec" and tokens[i + 1].text == "<":
            close = matching_angle(tokens, i + 1)
            if close > i + 4 and tokens[close - 2].text == ",":
                found.add(tokens[close - 1].text)
    return found


def _headers_of(text: str) -> Iterator[Tuple[int, int]]:
    """Places of the stand-in headers, and of line markers."""
    own, markers = f"{INCLUDE}{os.sep}", list(re.finditer(MARKER.pattern + r"[^\n]*\n", text, re.MULTILINE))
    for marker, following in zip(markers, [*markers[1:], None]):
        end = following.start() if following else len(text)
        yield marker.start(), end if marker.group(2).startswith(own) else marker.end()


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
