"""Member functions: in Metal `this` is a thread pointer unless the function says otherwise.

To clang it is a generic pointer then, which binds to no `thread` parameter; so `thread` is written out. Constructors
and conversions are the other way around: clang gives temporaries and members to those that say nothing, so theirs is
taken away. Clang assigns by default to thread objects alone: for others, the bytes are.
"""

from __future__ import annotations

from typing import List

from clang.cindex import Cursor, CursorKind, conf

from ..source.tokens import Token, matching
from .cursors import place
from .edits import Edit
from .reading import Reading

_SPACES = {"__private", "__global", "__local", "__constant"}
_MADE = (["=", "default"], ["=", "delete"])
_CONVERTING = (CursorKind.CONSTRUCTOR, CursorKind.CONVERSION_FUNCTION)
CLASSES = (
    CursorKind.STRUCT_DECL,
    CursorKind.CLASS_DECL,
    CursorKind.UNION_DECL,
    CursorKind.CLASS_TEMPLATE,
    CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION,
)


def member_edit(reading: Reading, cursor: Cursor) -> List[Edit]:
    """What a member function says of its `this`, for clang."""
    owner = cursor.semantic_parent
    if owner is None or owner.kind not in CLASSES or cursor.is_static_method():
        return []
    kind = kind_of(cursor)
    if kind not in (CursorKind.CXX_METHOD, *_CONVERTING):
        return []
    close = _parameters_end(reading.tokens, reading.at(place(cursor)))
    return _qualified(reading, close, kind)


def kind_of(cursor: Cursor) -> CursorKind:
    """Of a function, or of what a function template is a template of."""
    if cursor.kind == CursorKind.FUNCTION_TEMPLATE:
        return CursorKind.from_id(conf.lib.clang_getTemplateCursorKind(cursor))
    return cursor.kind


def _parameters_end(tokens: List[Token], name: int) -> int:
    """The bracket that closes the parameters of the function whose name begins at a token."""
    opening = name + 1
    if tokens[name].text == "operator" and tokens[opening].text in ("(", "["):
        opening += 2
    while tokens[opening].text != "(":
        opening += 1
    return matching(tokens, opening)


def _qualified(reading: Reading, close: int, kind: CursorKind) -> List[Edit]:
    tokens, after = reading.tokens, close + 1
    while tokens[after].text in _SPACES or tokens[after].text in ("const", "volatile"):
        after += 1
    words = {t.text for t in tokens[close + 1 : after]}
    if kind in _CONVERTING:
        wrong = (
            {"__private", "const"} if kind == CursorKind.CONSTRUCTOR else {"__private"}
        )  # `constant` stands for const
        return [Edit(t.start, t.end, "") for t in tokens[close + 1 : after] if t.text in wrong]
    made = [t.text for t in tokens[after : after + 2]]
    if made == ["=", "default"] and words & _SPACES - {"__private"}:
        return _assignment(tokens, reading.brackets[close], close, after)
    if words & _SPACES or made in _MADE:
        return []
    return [Edit(tokens[after - 1].end, tokens[after - 1].end, " __private")]


def _assignment(tokens: List[Token], opening: int, close: int, made: int) -> List[Edit]:
    """The body of a defaulted operator= for objects that are not in thread memory.

    opening, close: brackets of the parameters; made: the `=` of `= default`"""
    spaces = [
        next((t.text for t in part if t.text in _SPACES), "__private")
        for part in (tokens[close:made], tokens[opening:close])
    ]
    named = tokens[close - 1].text != "&"
    name = tokens[close - 1].text if named else "__other"
    to, of = (f"{space} ::metal::__bytes<sizeof(*this)>*" for space in spaces)
    body = f"{{ *({to})this = ::metal::__copy(*(const {of})&{name}); return *this; }}"
    edits = [Edit(tokens[made].start, tokens[made + 2].end, body)]
    return edits if named else [Edit(tokens[close].start, tokens[close].start, name), *edits]
