"""Legal Metal that clang refuses in this mode, put differently where clang says so.

Each kind of refusal is known by the words of clang's error (or of its notes) and is repaired in the text at the place
that the error names; then the text is compiled again. Whole objects copied out of constant
memory: see constant_copies.py.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..source.tokens import matching, matching_angle, split, tokenise
from .constant_copies import is_copy, with_copies
from .edits import Edit

_ERROR = re.compile(r":(\d+):(\d+):((?:\{[^}]*\})*):? (?:fatal )?error: (.*)$")
_ALIAS = re.compile(r"(.*?):(\d+):(\d+):(?:\{[^}]*\})*:? note: in instantiation of template type alias ")
_MARKED = re.compile(r"\{(\d+):(\d+)-(\d+):(\d+)\}")


class Refusal(NamedTuple):
    """An error of clang: where (offsets in the text), what, and the notes that explain it."""

    at: int
    ranges: Tuple[Tuple[int, int], ...]
    message: str
    notes: Tuple[str, ...]
    aliases: Tuple[int, ...] = ()  # where templates of aliases were used that led to it, innermost first


def repairable(message: str, notes: Tuple[str, ...]) -> bool:
    """Whether Metal allows what this error of clang, with its notes, refuses."""
    return any(is_copy(note) for note in notes) or _repair(message, notes) is not None


def repaired(text: str, stderr: str) -> str:
    """`text` with everything put differently that clang's messages name; the same text when there is nothing."""
    edits: Dict[Tuple[int, int], Edit] = {}
    for refusal in refusals(text, stderr):
        repair = _repair(refusal.message, refusal.notes)
        if _CONSTANT.search(refusal.message):  # an object copied out of constant memory, or a mistake
            repair = _wrapped("__copy")
        for edit in repair(text, refusal) if repair else ():
            edits.setdefault((edit.start, edit.end), edit)
    better, limit = text, len(text)
    for edit in sorted(edits.values(), reverse=True):
        if edit.end <= limit and not _repaired_already(text[edit.start : edit.end], edit.text):
            better = better[: edit.start] + edit.text + better[edit.end :]
            limit = edit.start  # what lies around it has its turn in the next round
    return better if better != text else with_copies(text, stderr)


def _repaired_already(old: str, new: str) -> bool:
    """Whether `old` is, as a whole, a call of the function that `new` calls: the repair was in vain."""
    function = re.match(r"::metal::\w+", new)
    if not function or not old.startswith(function.group()):
        return False
    tokens = tokenise(old, function.end())
    opening = matching_angle(tokens, 0, certain=True) + 1 if tokens[0].text == "<" else 0
    close = matching(tokens, opening)
    return [t.text for t in tokens[close + 1 :]] in ([], [".", "get", "(", ")"])


def refusals(text: str, stderr: str) -> Iterator[Refusal]:
    """clang's errors in the text, and in what is written behind it none."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    rows = _rows(text)
    found: Optional[Refusal] = None
    for line in stderr.splitlines():
        error = _ERROR.search(line)
        if error:
            if found:
                yield found
            row, column, marked, message = error.groups()
            places = [tuple(map(int, place)) for place in _MARKED.findall(marked)]
            if any(place[2] >= len(starts) for place in places):  # in what was written behind the text
                found = None
                continue
            ranges = tuple((starts[a - 1] + b - 1, starts[c - 1] + d - 1) for a, b, c, d in places)
            file = line[: error.start()]
            row = rows.get((file, int(row)))
            at = ranges[0][0] if ranges else (starts[row] + int(column) - 1 if row is not None else -1)
            found = Refusal(at, ranges, message, ()) if at >= 0 else None
        elif found and ": note: " in line:
            found = found._replace(notes=(*found.notes, line.split(": note: ", 1)[1]))
            alias = _ALIAS.match(line)
            if alias and (alias.group(1), int(alias.group(2))) in rows:
                place = starts[rows[alias.group(1), int(alias.group(2))]] + int(alias.group(3)) - 1
                found = found._replace(aliases=(*found.aliases, place))
    if found:
        yield found


def _rows(text: str) -> Dict[Tuple[str, int], int]:
    """Rows of the text by the file and line that its line markers name; of several the first."""
    rows: Dict[Tuple[str, int], int] = {}
    file, number = "", 1
    for row, line in enumerate(text.split("\n")):
        marker = re.match(r'# (\d+) "([^"]*)"', line)
        if marker:
            file, number = marker.group(2), int(marker.group(1))
        else:
            rows.setdefault((file, number), row)
            number += 1
    return rows


Repair = Callable[[str, Refusal], Iterator[Edit]]


def _repair(message: str, notes: Tuple[str, ...]) -> Optional[Repair]:
    for pattern, repair in _MESSAGES:
        if pattern.search(message):
            return repair
    for pattern, repair in _NOTES:
        if any(pattern.search(note) for note in notes):
            return repair
    return None


def _wrapped(function: str, first: int = 0) -> Repair:
    """Puts the operands from the first on into calls of a function of the stand-in headers."""

    def repair(text: str, refusal: Refusal) -> Iterator[Edit]:
        for begin, end in refusal.ranges[first:]:
            yield Edit(begin, end, f"::metal::{function}({text[begin:end]})")

    return repair


def _scalar(text: str, refusal: Refusal) -> Iterator[Edit]:
    """The operand that is no vector: the message has their types in order."""
    kinds = refusal.message.split("(", 1)[1].split(" and ")
    for kind, (begin, end) in zip(kinds, refusal.ranges):
        if "vec" not in kind:
            yield Edit(begin, end, f"::metal::__operand({text[begin:end]})")


def _packed(text: str, refusal: Refusal) -> Iterator[Edit]:
    """The operands that are packed vectors: the message has their types in order."""
    kinds = refusal.message.split("(", 1)[1].split(" and ")
    for kind, (begin, end) in zip(kinds, refusal.ranges):
        if "__packed<" in kind:
            yield Edit(begin, end, f"::metal::__unpacked({text[begin:end]})")


def _packed_components(text: str, refusal: Refusal) -> Iterator[Edit]:
    """`p.xy` of a packed vector; the range is p."""
    begin, end = refusal.ranges[0]
    yield Edit(begin, end, f"::metal::__unpacked({text[begin:end]})")


def _temporary(text: str, refusal: Refusal) -> Iterator[Edit]:
    kind = re.search(r"type '(?:const )?__private ([^']*?)&?'", refusal.message).group(1)
    begin, end = refusal.ranges[-1]
    value = f"{kind}{text[begin:end]}" if text[begin] == "{" else f"({kind})({text[begin:end]})"
    yield Edit(begin, end, f"::metal::__temporary<{kind}>{{{value}}}.get()")


def _temporary_argument(text: str, refusal: Refusal) -> Iterator[Edit]:
    """The n-th argument of a call, by the note."""
    for note in refusal.notes:
        match = _UNBOUND.search(note)
        arguments = arguments_of(text, refusal.at)
        if match and int(match.group(1)) <= len(arguments):
            begin, end = arguments[int(match.group(1)) - 1]
            if not text.startswith("::metal::__lasting", begin):
                yield Edit(begin, end, f"::metal::__lasting({text[begin:end]}).get()")


def _lists(text: str, refusal: Refusal) -> Iterator[Edit]:
    """Arguments in braces for parameters that are vectors."""
    kind, count = next(_LIST.search(note).groups() for note in refusal.notes if _LIST.search(note))[::-1]
    for begin, _ in arguments_of(text, refusal.at):
        if text[begin] == "{":
            yield Edit(begin, begin, f"::metal::vec<{kind}, {count}>")


def _lists_by_reference(text: str, refusal: Refusal) -> Iterator[Edit]:
    """Arguments in braces for parameters that are `const thread T&`."""
    spelled, meant = next(
        _REFERENCE_LIST.search(note).groups() for note in refusal.notes if _REFERENCE_LIST.search(note)
    )
    for begin, end in arguments_of(text, refusal.at):
        if text[begin] == "{":
            kind = meant or spelled
            yield Edit(begin, end, f"::metal::__temporary<{kind}>{{{kind}{text[begin:end]}}}.get()")


def _fill(text: str, refusal: Refusal) -> Iterator[Edit]:
    """A vector's components that its initialiser does not name are 0."""
    expected, have = map(int, re.search(r"expected (\d+) elements?, have (\d+)", refusal.message).groups())
    end = _closing(text, refusal.at)
    if text[refusal.at] == "{" and end:
        comma = "" if text[:end].rstrip().endswith(",") else ", "
        yield Edit(end, end, comma + ", ".join(["0"] * (expected - have)))


def _closing(text: str, opening: int) -> int:
    tokens = tokenise(text, opening, min(len(text), opening + 20000))
    close = matching(tokens, 0)
    return tokens[close].start if close < len(tokens) else 0


def arguments_of(text: str, at: int) -> List[Tuple[int, int]]:
    """Begin and end of each argument of the call whose function is named at `at`."""
    tokens = tokenise(text, at, min(len(text), at + 20000))
    depth = 0
    for i, token in enumerate(tokens):
        depth += (token.text == "<") - (token.text == ">")
        if token.text == "(" and depth == 0:
            return [(p[0].start, p[-1].end) for p in split(tokens[i + 1 : matching(tokens, i)]) if p]
    return []


def _cast(text: str, refusal: Refusal) -> Iterator[Edit]:
    """`half(x)` and `(half)x` of a bfloat, and the other way around: the second range is the operand."""
    kind = re.search(r"to '(\w+)'", refusal.message).group(1)
    (begin, end), (first, last) = refusal.ranges
    yield Edit(begin, end, f"::metal::__convert<{kind}>({text[first:last]})")


def _object(text: str, refusal: Refusal) -> Iterator[Edit]:
    """A temporary whose member function is called."""
    begin, end = refusal.ranges[0]
    yield Edit(begin, end, f"::metal::__lasting({text[begin:end]}).get()")


def _vector_of_bool(text: str, refusal: Refusal) -> Iterator[Edit]:
    """`alias<bool>` of an alias for a vec, whose element is deduced elsewhere: a byte takes the place of bool."""
    if refusal.aliases:
        tokens = tokenise(text, refusal.aliases[-1], min(len(text), refusal.aliases[-1] + 20000))
        argument = split(tokens[2 : matching_angle(tokens, 1, certain=True)])[0] if tokens[1].text == "<" else []
        if argument and argument[0].text != "::":
            begin, end = argument[0].start, argument[-1].end
            yield Edit(begin, end, f"::metal::__component<{text[begin:end]}>")


_CONSTANT = re.compile(r"constexpr variable '.*' must be initialized by a constant expression")
_UNBOUND = re.compile(
    r"cannot bind reference in default address space to object in address space '__private' in (\d+)\w\w argument"
)
_REFERENCE_LIST = re.compile(
    r"cannot convert initializer list argument to 'const __private ([^']*)'(?: \(aka 'const __private ([^']*)'\))?"
)
_REFERENCE = r"'const __private [^']*'(?: \(aka '[^']*'\))?"
_LIST = re.compile(r"cannot convert initializer list argument to '[^']*' \(vector of (\d+) '(\w+)' values\)")
_MESSAGES: List[Tuple["re.Pattern[str]", Repair]] = [
    (re.compile(r"scalar operand type has greater rank than the type of the vector element"), _scalar),
    (re.compile(r"incompatible operand types \('.*__(?:global|local|constant|private) .*'"), _wrapped("__copy")),
    (re.compile(r"conditional expression is ambiguous; '.*__(?:global|local|constant|private) "), _wrapped("__copy")),
    (
        re.compile(
            r"cannot initialize object parameter of type '(?:const )?__private .*' with an expression of type '(?!.*__)"
        ),
        _object,
    ),
    (re.compile(r"invalid operands to binary expression \(.*\b__packed<"), _packed),
    (re.compile(r"no member named '[xyzwrgba]{2,4}' in '.*\b__packed<"), _packed_components),
    (re.compile(r"too few elements in vector initialization"), _fill),
    (re.compile(r"invalid vector element type 'bool'"), _vector_of_bool),
    (re.compile(r"(?:functional|C)-style cast from .* to '\w+'.* is not allowed"), _cast),
    (
        re.compile(r"invalid operands to binary expression \('[^']*\*__private' and '__private "),
        _wrapped("__integer", 1),
    ),
    (
        re.compile(
            rf"binding reference of type {_REFERENCE} to value of type '[^']*' changes address space"
            rf"|binding reference of type {_REFERENCE} to value of type '[^']*' \(aka '[^']*'\) changes address space"
            rf"|reference of type {_REFERENCE} cannot bind to a temporary object because of address space"
            rf"|non-const lvalue reference to type {_REFERENCE} cannot bind to a value of unrelated type"
        ),
        _temporary,
    ),
]
_NOTES: List[Tuple["re.Pattern[str]", Repair]] = [
    (_UNBOUND, _temporary_argument),
    (_LIST, _lists),
    (_REFERENCE_LIST, _lists_by_reference),
    (re.compile(r"'this' object is in default address space, but method expects object in"), _object),
]
