"""Variables, members, functions and templates: see typed.py."""

from __future__ import annotations

from typing import List, Optional

from clang.cindex import Cursor, CursorKind, TypeKind

from .cursors import (
    canonical,
    children,
    first_expression,
    is_dependent,
    is_number,
    is_pointer,
    may_be_vector,
    meaning,
    operands,
    place,
    span,
    unwrapped,
    written_type,
)
from .deductions import Deductions
from .edits import Edit, Wrap
from .function_pointers import function_pointer_edit
from .members import kind_of, member_edit

_CONVERTED = {"half", "bfloat"}  # which clang does not convert to each other


class Declarators(Deductions):
    """Edits of declarations."""

    def _variable(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        kind, begin = cursor.type, place(cursor)
        self.declared.add(begin)
        self._initialised(cursor, kids)
        values = [k for k in kids if k.kind.is_expression()]
        if kind.kind == TypeKind.LVALUEREFERENCE:
            if values and self._is_thread_reference(cursor):
                self._bound(values[-1], kind.get_pointee())
            return
        name = self.reading.at(begin)
        after = self.reading.tokens[name + 1] if name + 1 < len(self.reading.tokens) else None
        if after is None or not cursor.spelling or self.reading.tokens[name].text != cursor.spelling:
            return
        made = meaning(kind)
        plain = kind.kind != TypeKind.AUTO and not is_pointer(kind)
        needed = may_be_vector(kind)
        if values and is_number(kind):
            self._truth(values[-1])
        if values and (after.text == "(" or values[-1].kind == CursorKind.INIT_LIST_EXPR):
            self._made_of(kind, values[-1])
        if values and made.name in _CONVERTED:
            value = (operands(values[-1]) or [values[-1]])[0] if values[-1].spelling == "bfloat" else values[-1]
            needed = meaning(written_type(value)).name in _CONVERTED - {made.name}
        if after.text == "(" and values and plain and needed:
            end = self.reading.tokens[name].end
            value = f" = ::metal::__construct<::metal::__value_t<decltype({cursor.spelling})>>"
            self.edits.append(Edit(end, end, value))
        elif after.text == "=" and values and is_dependent(kind):
            self._of_bool(values[-1], cursor.spelling)
            self._copy(values[-1])
        elif after.text == "=" and values and is_dependent(values[-1].type):
            self._copy(values[-1])

    def _initialised(self, cursor: Cursor, kids: List[Cursor]) -> None:
        if kids and kids[-1].kind.is_expression() and self._differs_by_space(cursor.type, kids[-1]):
            self.reading.settled.update((place(cursor), span(kids[-1])[0]))
        if kids and kids[-1].kind == CursorKind.INIT_LIST_EXPR:
            bare = self.reading.tokens[self.reading.at(span(kids[-1])[0]) - 1].text == cursor.spelling
            self._open_braces(kids[-1], cursor.type, f"{' = ' if bare else ''}::metal::__braces(")

    def _parameter(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self._initialised(cursor, kids)

    def _field(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self._initialised(cursor, kids)
        self.initialisers.update(span(kid)[0] for kid in kids if kid.kind.is_expression())

    def _constructor(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Members that a constructor makes: `v(x, y)`."""
        self._function(cursor, parent, kids)
        self._members(kids)

    def _members(self, kids: List[Cursor]) -> None:
        tokens = self.reading.tokens
        for kid, value in zip(kids, [*kids[1:], None]):
            if kid.kind == CursorKind.MEMBER_REF and kid.referenced is not None:
                values = [] if value is None else [value, *children(value)]  # the first may have brackets
                if any(self._differs_by_space(kid.referenced.type, refused) for refused in values):
                    self.reading.settled.add(span(kid)[0])
                if value is not None and value.kind == CursorKind.INIT_LIST_EXPR:
                    of = f"::metal::__value_t<decltype(this->{kid.spelling})>"
                    self._open_braces(value, kid.referenced.type, f"(::metal::__braced<{of}>(", "))")
                self.members.add(span(kid)[0])
                i = self.reading.at(span(kid)[0])
                kind, close = kid.referenced.type, self.reading.brackets.get(i + 1)
                needed = may_be_vector(kind) and not is_pointer(kind)
                if close is not None and tokens[i + 1].text == "(" and close > i + 2 and needed:
                    of = f"::metal::__value_t<decltype(this->{kid.spelling})>"
                    start, end = tokens[i + 1].end, tokens[close].start
                    self.wraps.append(Wrap(start, end, f"::metal::__construct<{of}>(", ")"))

    def _return(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        value = first_expression(cursor)
        if value is not None and self.result is not None and self._differs_by_space(self.result, value):
            self.reading.settled.add(span(value)[0])
        elif value is not None and value.kind == CursorKind.INIT_LIST_EXPR and self.result is not None:
            self._open_braces(value, self.result)
        elif value is not None and is_dependent(unwrapped(value).type):
            self._copy(value)

    def _function(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self.edits += member_edit(self.reading, cursor)
        self.result = cursor.result_type

    def _lambda(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self.result = None  # libclang does not say it

    def _template(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """A function template: what its arguments are deduced from."""
        self.edits += member_edit(self.reading, cursor)
        self.result = cursor.type.get_result()
        self._deduces(cursor, [k for k in kids if k.kind == CursorKind.PARM_DECL])
        if kind_of(cursor) == CursorKind.CONSTRUCTOR:
            self._members(kids)
        for parameter in (k for k in kids if k.kind == CursorKind.PARM_DECL):
            self.edits += self._deduced(parameter, cursor)
            words = [t.text for t in self._tokens_of(parameter)]
            if "[" in words and not set(words) & {"*", "&", "__private", "__global", "__constant", "__local"}:
                begin = span(parameter)[0]  # an array is in thread memory; to clang it is a generic pointer
                self.edits.append(Edit(begin, begin, "__private "))

    def _function_pointer(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """To clang a function pointer spelled out points into the generic address space, where no function is."""
        kind = cursor.underlying_typedef_type if cursor.kind != CursorKind.TEMPLATE_NON_TYPE_PARAMETER else cursor.type
        if kind.kind == TypeKind.POINTER and canonical(kind.get_pointee()).kind == TypeKind.FUNCTIONPROTO:
            self.edits += function_pointer_edit(self._tokens_of(cursor))
