"""What edits by types have in common: where they are collected, temporaries, copies."""

from __future__ import annotations

import functools
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

from clang.cindex import Cursor, CursorKind, Type, TypeKind

from .cursors import (
    REFERENCES,
    canonical,
    children,
    differs_by_space,
    first_expression,
    is_array,
    is_dependent,
    is_own,
    is_pointer,
    is_value,
    may_be_vector,
    meaning,
    operands,
    operator_of,
    points_into_space,
    space,
    space_of,
    span,
    unwrapped,
    written_type,
)
from .edits import Edit, Wrap, apply_edits, wrap_edits
from .reading import Reading

_HOLD_FUNCTIONS = {
    CursorKind.NAMESPACE,
    CursorKind.LINKAGE_SPEC,
    CursorKind.STRUCT_DECL,
    CursorKind.CLASS_DECL,
    CursorKind.UNION_DECL,
    CursorKind.CLASS_TEMPLATE,
    CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION,
}
_FUNCTIONS = {
    CursorKind.FUNCTION_DECL,
    CursorKind.CXX_METHOD,
    CursorKind.FUNCTION_TEMPLATE,
    CursorKind.CONVERSION_FUNCTION,
}
_PARTS = {CursorKind.ARRAY_SUBSCRIPT_EXPR, CursorKind.MEMBER_REF_EXPR}  # of what may be a vector


class Collecting:
    """Edits by types, of one text."""

    def __init__(self, reading: Reading, text: str):
        self.reading, self.text = reading, text
        self.edits: List[Edit] = []
        self.wraps: List[Wrap] = []
        self.of_bool: Dict[int, Cursor] = {}  # function templates that deduce a vector of bool, by place
        self.overloads: List[Edit] = []
        self.declared: Set[int] = set()  # places of names of variables
        self.initialisers: Set[int] = set()  # of values of members where they are declared
        self.members: Set[int] = set()  # of names of members in front of a constructor's body
        self.truths: Set[Tuple[int, int]] = set()  # places of operators whose result is one truth value
        self.result: Optional[Type] = None  # of the function that is looked at
        self.in_template = False
        self.late: List[Tuple[int, list]] = []  # of wraps by index: what stands before, with places of the text in it

    @functools.cached_property
    def named(self) -> Dict[str, List[Cursor]]:
        """The user's functions, also those of classes, by name."""
        found: Dict[str, List[Cursor]] = {}
        for function in _functions(self.reading.declared):
            found.setdefault(function.spelling, []).append(function)
        return found

    @functools.cached_property
    def has_integer_classes(self) -> bool:
        """Whether objects of a class may stand for an integer."""
        return any(f.kind == CursorKind.CONVERSION_FUNCTION for some in self.named.values() for f in some)

    def all_edits(self) -> List[Edit]:
        for i, parts in self.late[::-1]:  # inner ones first
            texts = [part if isinstance(part, str) else self._rendered(*part, within=i) for part in parts]
            self.wraps[i] = self.wraps[i]._replace(before="".join(texts))
        return wrap_edits(self.wraps) + self.edits + self.overloads

    def _rendered(self, begin: int, end: int, instead: Sequence[Edit] = (), within: int = -1) -> str:
        """A place of the text, edited. within: the wrap that it stands in, which may be of all of it"""
        wraps = [
            w
            for i, w in enumerate(self.wraps)
            if begin <= w.start and w.end <= end and (i > within or (w.start, w.end) != (begin, end))
        ]
        places = {edit.start for edit in instead}
        inside = [e for e in self.edits if begin <= e.start and e.end <= end and e.start not in places]
        inside = wrap_edits(wraps) + inside + list(instead)
        moved = [e._replace(start=e.start - begin, end=e.end - begin) for e in inside]
        return " ".join(apply_edits(self.text[begin:end], moved).text.split("\n"))

    def _wrap(self, cursor: Cursor, before: str, after: str) -> None:
        self.wraps.append(Wrap(*span(cursor), before, after))

    def _wrap_late(self, cursor: Cursor, before: list, after: str) -> None:
        """before: of text, and of places of the text whose edits are not known yet."""
        self.late.append((len(self.wraps), before))
        self._wrap(cursor, "", after)

    def _slice(self, cursor: Cursor) -> str:
        begin, end = span(cursor)
        return self.text[begin:end]

    def _opening(self, begin: int, end: int) -> Optional[int]:
        """Offset of the bracket that the last one of an expression closes."""
        closing = self.reading.at(self._own_end(begin, end) - 1)
        opening = self.reading.brackets.get(closing)
        return None if opening is None or opening > closing else self.reading.tokens[opening].start

    def _own_end(self, begin: int, end: int) -> int:
        """Where an expression ends: libclang ends `T(x)` in `T(T(x))` behind the bracket that is not its own."""
        first, last = self.reading.at(begin), self.reading.at(end - 1)
        while self.reading.brackets.get(last, last) < first:
            last -= 1
        return self.reading.tokens[last].end

    def _tokens_of(self, cursor: Cursor):
        begin, end = span(cursor)
        return self.reading.tokens[self.reading.at(begin) : self.reading.at(end - 1) + 1]

    def _is_class(self, cursor: Cursor) -> bool:
        """Whether the expression's type may be a class to clang, as vectors are not, but for those of bool."""
        kind = written_type(cursor)
        of, is_record = meaning(kind), canonical(kind).kind == TypeKind.RECORD
        return of.scalar == "bool" if of.components > 1 else is_record or is_dependent(kind)

    def _truth(self, cursor: Cursor) -> None:
        """An expression that must be one truth value: then it compares no vectors, in none of its parts."""
        inner = unwrapped(cursor)
        if operator_of(inner, self.text) in ("&&", "||", "!"):
            for kid in children(inner):
                self._truth(kid)
        self.truths.add(span(inner))

    def _lasting(self, cursor: Cursor) -> None:
        """A value that lasts; what may name an object is decided where template arguments are known."""
        inner = unwrapped(cursor)
        base = first_expression(inner)
        if not is_dependent(inner.type):
            self._wrap(cursor, "::metal::__lasting(", ").get()")
        elif inner.kind in _PARTS and base is not None:
            self._wrap_late(cursor, ["::metal::__lasting_part<decltype(", span(base), ")>("], ").get()")
        else:
            self._wrap(cursor, "::metal::__lasting_or_itself(", ").get()")

    def _copy(self, cursor: Cursor, to: Optional[Tuple[int, int]] = None) -> None:
        """An object of a class that is copied out of constant memory.

        to: place of the type that it is passed to, for which it is not copied if that is a reference"""
        inner = unwrapped(cursor)
        functions = inner.referenced is not None and inner.referenced.kind == CursorKind.OVERLOADED_DECL_REF
        member = inner.kind == CursorKind.DECL_REF_EXPR and inner.type.kind == TypeKind.DEPENDENT and not functions
        constant = space(inner) == "global_device" or (member and "::" in self._slice(inner))
        constant = constant or self._is_of_constant(inner) or self._element(inner)[1] == "global_device"
        if constant and self._is_class(inner) and not is_value(inner, self.text):
            before = ["::metal::__copy("] if to is None else ["::metal::__passed<", to, ">("]
            self._wrap_late(cursor, before, ")")

    def _made_of(self, kind: Type, values: Cursor) -> None:
        """An object's copy, as `S s(all[i])`, where the index depends on template parameters.

        values: what has the one value of that type"""
        given = [k for k in children(values) if k.kind.is_expression()]
        if len(given) == 1 and is_dependent(given[0].type):
            if self._element(unwrapped(given[0]))[0] == meaning(kind).name or kind.kind == TypeKind.AUTO:
                self._copy(given[0])

    def _element(self, cursor: Cursor) -> Tuple[str, str]:
        """Name and address space of the type of an element, of whatever index; "" and "" of what is no element."""
        of = written_type(children(cursor)[0]) if cursor.kind == CursorKind.ARRAY_SUBSCRIPT_EXPR else None
        if of is None or not is_pointer(of):
            return "", ""
        to = canonical(of)
        element = to.get_pointee() if to.kind == TypeKind.POINTER else to.element_type
        return meaning(element).name, space_of(element) or space_of(of)

    def _is_of_constant(self, cursor: Cursor) -> bool:
        """Whether it is a reference that a member function of an object in constant memory returns."""
        called = cursor.referenced if cursor.kind == CursorKind.CALL_EXPR else None
        if called is None or called.kind != CursorKind.CXX_METHOD or called.result_type.kind not in REFERENCES:
            return False
        given = operands(cursor)
        callee = next(iter(children(cursor)), None)
        object_ = given[0] if operator_of(cursor, self.text) and given else callee and first_expression(callee)
        return object_ is not None and space(unwrapped(object_)) == "global_device"

    def _differs_by_space(self, kind: Type, value: Cursor) -> bool:
        """See differs_by_space; or what a template gives an address space may differ by it for some arguments."""
        if not points_into_space(kind):
            return False
        return (self.in_template and is_dependent(written_type(value))) or differs_by_space(kind, value)

    def _open_braces(self, cursor: Cursor, kind: Type, before: str = "::metal::__braces(", after: str = ")") -> None:
        """Braces of a template that libclang leaves open, for what may be a vector: clang wants all of its components.

        kind: of what they make; before, after: what takes the place of brackets around a vector's components"""
        kids = [k for k in children(cursor) if k.kind.is_expression()]
        if cursor.type.kind != TypeKind.VOID or not is_dependent(kind) and not is_array(kind):
            return
        declared, types = kind.get_declaration(), []
        if is_array(kind):
            types = [kind.element_type] * len(kids)
        elif declared.kind == CursorKind.CLASS_TEMPLATE and is_own(declared):
            types = [k.type for k in children(declared) if k.kind == CursorKind.FIELD_DECL]
        elif kids and may_be_vector(kind) and all(k.kind != CursorKind.INIT_LIST_EXPR for k in kids):
            begin, end = span(cursor)
            self.edits += [Edit(begin, begin + 1, before), Edit(end - 1, end, after)]
        for kid, of in zip(kids, types):
            if kid.kind == CursorKind.INIT_LIST_EXPR:
                self._open_braces(kid, of)

    def _of_bool(self, value: Cursor, target: str) -> None:
        """A bool that becomes what may be a vector."""
        if meaning(written_type(value)).name == "bool" and not is_dependent(value.type):
            self._wrap(value, f"(::metal::__of_bool_t<decltype({target})>)(", ")")

    def _is_thread_reference(self, parameter: Cursor) -> bool:
        kind = parameter.type
        if kind.kind != TypeKind.LVALUEREFERENCE or not kind.get_pointee().is_const_qualified() or space(parameter):
            return False
        if not is_own(parameter):
            return True
        first, end = self.reading.at(span(parameter)[0]), span(parameter)[1]  # to libclang `thread` in front is nothing
        return any(t.text == "__private" for t in self.reading.tokens[first - 1 : self.reading.at(end - 1) + 1])

    def _bound(self, argument: Cursor, to) -> None:
        """An argument that makes a temporary for a reference to thread memory."""
        begin, end = span(argument)
        if begin >= end or not is_own(argument):
            return  # a default argument
        of, inner = meaning(to), written_type(argument)
        if self.text[begin] == "{":
            filled = of.components > 1 and of.scalar != "bool"  # what is in the braces is called already
            self._wrap(argument, f"::metal::__lasting<{of.name}>({'' if filled else of.name}", ").get()")
        elif meaning(inner).name == of.name or is_dependent(to) or is_dependent(inner):
            if is_value(argument, self.text):
                self._lasting(argument)
        elif canonical(inner).kind != TypeKind.RECORD or meaning(inner).components > 1:
            self.wraps.append(Wrap(begin, end, f"::metal::__lasting<{of.name}>(", ").get()"))
        elif is_value(argument, self.text):
            self._lasting(argument)


def _functions(cursors) -> Iterator[Cursor]:
    for cursor in cursors:
        if cursor.kind in _FUNCTIONS:
            yield cursor
        elif cursor.kind in _HOLD_FUNCTIONS:
            yield from _functions(children(cursor))


def parameters_of(function: Cursor) -> List[Cursor]:
    """Of a function, or of a template of functions."""
    return [child for child in children(function) if child.kind == CursorKind.PARM_DECL]
