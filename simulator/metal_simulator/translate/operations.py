"""Operators, conditions and casts: see typed.py."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple, Union

from clang.cindex import Cursor, CursorKind, TypeKind

from .collecting import Collecting, parameters_of
from .cursors import (
    canonical,
    children,
    first_expression,
    is_dependent,
    is_number,
    is_own,
    is_pointer,
    is_swizzle,
    is_value,
    may_be_vector,
    meaning,
    operands,
    operator_of,
    space,
    span,
    stands_for_integer,
    unwrapped,
    written,
    written_type,
)
from .edits import Edit, Wrap
from .members import CLASSES

COMPARISONS = {"<", ">", "<=", ">=", "==", "!=", "&&", "||", "!"}
_ARITHMETIC = {"+", "-", "*", "/", "+=", "-=", "*=", "/=", "<", ">", "<=", ">=", "==", "!="}
_MADE = {CursorKind.CALL_EXPR, CursorKind.CSTYLE_CAST_EXPR, CursorKind.CXX_STATIC_CAST_EXPR}
_CONVERTED = {"half", "bfloat"}  # which clang does not convert to each other
_FLOATS = {"float", *_CONVERTED}
_NULL = {CursorKind.INTEGER_LITERAL, CursorKind.CXX_NULL_PTR_LITERAL_EXPR}  # beside what may be a pointer


class Operations(Collecting):
    """Edits of operators, conditions and casts."""

    def _operator(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        operator = operator_of(cursor, self.text)
        if not any(is_dependent(kid.type) and is_dependent(written_type(kid)) for kid in kids):
            if operator in ("+", "-", "+=", "-=") and any(is_pointer(kid.type) for kid in kids):
                for kid in kids:
                    if meaning(written(kid).type).name != meaning(kid.type).name and kid.kind != written(kid).kind:
                        self._offset(kid)
            elif operator == "=":
                self._copy(kids[1])
            return
        self._dependent(cursor, operator, kids)

    def _offset(self, cursor: Cursor) -> None:
        if canonical(written(cursor).type).kind == TypeKind.RECORD or is_dependent(written(cursor).type):
            self._wrap(cursor, "::metal::__integer(", ")")

    def _dependent(self, cursor: Cursor, operator: str, kids: List[Cursor]) -> None:
        """An operator of which an operand depends on template parameters."""
        if operator in COMPARISONS and span(cursor) not in self.truths and not any(map(self._is_object, kids)):
            self._wrap(cursor, "::metal::__comparison(", ")")
        if len(kids) != 2:
            return
        self._operands(operator, kids)
        if operator == "=":
            self._of_bool(kids[1], self._slice(kids[0]))
            self._copy(kids[1])
        for kid, other in (kids, kids[::-1]):
            assigned = operator in ("+=", "-=", "*=", "/=") and kid == kids[0]
            if operator in ("+", "-", "+=", "-="):
                if is_pointer(other.type) or stands_for_integer(kid.type):
                    self._offset(kid)
                elif operator in ("+=", "-=") and not assigned and self._may_be_offset(operator, kid, other):
                    types = ["decltype(", span(kid), "), decltype(", span(other), ")"]
                    self._wrap_late(kid, ["(::metal::__offset_t<", *types, ">)("], ")")
            if operator in _ARITHMETIC and not assigned and is_dependent(other.type):
                self._beside(kid, other)

    def _is_object(self, cursor: Cursor) -> bool:
        """Whether it is of a class of the user's own, whose operators say what they give."""
        kind = written_type(cursor)
        return canonical(kind).kind == TypeKind.RECORD and is_own(canonical(kind).get_declaration())

    def _may_be_offset(self, operator: str, kid: Cursor, other: Cursor) -> bool:
        """Whether what is added to a name may be of a class that stands for an integer, and the name a pointer."""
        dependent = is_dependent(kid.type) and is_dependent(other.type)
        taken = any(self._takes_object(function, -1) for function in self.named.get(f"operator{operator}", ()))
        return dependent and self.has_integer_classes and not taken

    def _operands(self, operator: str, kids: List[Cursor]) -> None:
        """Values that an operator of a class takes, as its object or as a `const thread T&`."""
        functions = self.named.get(f"operator{operator}", ())
        for i, kid in enumerate(kids):
            taken = [self._takes_object(function, i - len(kids)) for function in functions]
            if any(taken) and is_value(kid, self.text):
                self._lasting(kid)

    def _takes_object(self, function: Cursor, operand: int) -> bool:
        parameters = parameters_of(function)
        if operand < -len(parameters):
            return function.semantic_parent.kind in CLASSES
        return self._is_thread_reference(parameters[operand])

    def _beside(self, number: Cursor, other: Cursor) -> None:
        """A number beside what may be a vector of smaller numbers; a cast, for clang sees multiply-adds through it."""
        name, kind = meaning(written_type(number)).name, canonical(written_type(number)).kind
        vectors = any("vec<" in leaf.type.spelling for leaf in self._leaves(other))
        integer = TypeKind.BOOL.value < kind.value <= TypeKind.LONGLONG.value
        if name in _FLOATS or integer and (vectors or self._is_bare(number, other)):
            parts: List[Union[str, Tuple[int, int]]] = [f"(::metal::__beside_t<{name}"]
            for leaf in self._leaves(other):
                made = leaf.kind in _MADE and leaf.type.kind != TypeKind.DEPENDENT
                parts += [f", {leaf.type.spelling}"] if made else [", decltype(", span(leaf), ")"]
            self._wrap_late(number, [*parts, ">)("], ")")

    def _is_bare(self, number: Cursor, other: Cursor) -> bool:
        """Whether it is a literal beside what a template's type parameter is the type of."""
        of = canonical(written(other).type).spelling
        return written(number).kind == CursorKind.INTEGER_LITERAL and "type-parameter-" in of

    def _leaves(self, cursor: Cursor) -> Iterator[Cursor]:
        """What depends on template parameters among the operands of an arithmetic expression."""
        inner = unwrapped(cursor)
        compound = inner.kind == CursorKind.COMPOUND_ASSIGNMENT_OPERATOR
        if not compound and operator_of(inner, self.text) in _ARITHMETIC:
            for kid in children(inner):
                if kid.kind.is_expression() and is_dependent(kid.type) and self._slice(kid) not in _ARITHMETIC:
                    yield from self._leaves(kid)
        else:
            yield inner

    def _conditional(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Objects in different address spaces, of which neither is the other's type to clang.

        Nor to libclang, if they are of a class, as bfloat is there; that is left to clang."""
        if len(kids) == 3:
            self._truth(kids[0])
            self.reading.settled.add(self.text.index("?", span(kids[0])[1]))
            ends = [written(kid) for kid in kids[1:]]
            if any(is_pointer(end.type) or end.kind in _NULL for end in ends):
                return
            for kid, end, other in zip(kids[1:], ends, ends[::-1]):
                if is_dependent(written_type(other)) and not is_dependent(written_type(end)):
                    self._beside(kid, other)
            values = [is_value(end, self.text) for end in ends]
            inner = [unwrapped(end) for end in ends]  # what a template leaves open may be an object
            parts = [i.kind == CursorKind.MEMBER_REF_EXPR and not is_dependent(i.type) for i in inner]
            members = [value and part for value, part in zip(values, parts)]
            differ = space(ends[0]) != space(ends[1])
            classes = any(map(self._is_class, ends)) and not any(is_number(written_type(end)) for end in ends)
            braces = [self._slice(i)[-1] == "}" for i in inner]
            # Of a temporary's member, and of an object from braces, clang knows where it is.
            kinds_differ = any(first != second for first, second in (values, members, braces))
            if classes and (differ or kinds_differ) or differ and not any(values):
                for kid, end, value in zip(kids[1:], ends, values):
                    self._taken(kid, end, value)

    def _taken(self, cursor: Cursor, inner: Cursor, is_made: bool) -> None:
        """The value of what may be an object; where it can be, as a cast: behind it clang has the same instructions."""
        if inner.type.kind != TypeKind.DEPENDENT and space(inner) != "global_device":
            self._wrap_late(cursor, ["(::metal::__value_t<decltype(", span(inner), ")>)("], ")")
        else:
            self._wrap(cursor, "::metal::__value(" if is_made else "::metal::__copy(", ")")

    def _condition(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        condition = first_expression(cursor)
        if condition is not None:
            self._truth(condition)

    def _assertion(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Clang judges it, which knows the sizes; the headers for reading have packed vectors as large as others."""
        self._condition(cursor, parent, kids)
        self.reading.settled.update(range(*span(cursor)))

    def _member(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Several components of a vector that is a class to clang, in constant memory."""
        if kids and is_swizzle(cursor) and space(kids[0]) == "global_device":
            self._copy(kids[0])

    def _needs_construction(self, cursor: Cursor) -> bool:
        made, operand = meaning(cursor.type), first_expression(cursor)
        while operand is not None and span(operand) == span(cursor) and operands(operand):
            operand = operands(operand)[0]
        if cursor.type.kind in (TypeKind.LVALUEREFERENCE, TypeKind.RVALUEREFERENCE) or is_pointer(cursor.type):
            return False
        if made.name in _CONVERTED and operand is not None:
            of = written_type(operand)
            return is_dependent(of) or meaning(of).name in _CONVERTED - {made.name}
        return may_be_vector(cursor.type)

    def _functional_cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        if self._needs_construction(cursor):
            if self.text[span(cursor)[1] - 1] == ")":
                self._construct(cursor)
        else:
            self._cast_object(cursor)

    def _cast_object(self, cursor: Cursor) -> None:
        """A cast to a class."""
        operand = first_expression(cursor)
        is_class = canonical(cursor.type).kind == TypeKind.RECORD
        if is_class and operand is not None and is_value(cursor, self.text):
            self._copy(operand)

    def _construct(self, cursor: Cursor) -> None:
        """T(...) as ::metal::__construct<T>(...)."""
        begin, end = span(cursor)
        opening = self._opening(begin, end)
        if opening is not None and not self.text.startswith("reinterpret_cast", begin):
            self.wraps.append(Wrap(begin, opening, "::metal::__construct<", ">"))

    def _cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """(T)x as ::metal::__construct<T>(x)."""
        if not self._needs_construction(cursor):
            self._cast_object(cursor)
            return
        begin, end = span(cursor)
        closing = self.reading.brackets.get(self.reading.at(begin))
        if closing is not None and self.reading.tokens[closing - 1].text not in ("&", "&&"):
            close = self.reading.tokens[closing]
            self.edits.append(Edit(begin, begin + 1, "::metal::__construct<"))
            self.edits.append(Edit(close.start, close.end, ">("))
            self.wraps.append(Wrap(begin, end, "", ")"))

    def _static_cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        if self._needs_construction(cursor):
            begin, opening = span(cursor)[0], self._opening(*span(cursor))
            if opening is not None and self.reading.tokens[self.reading.at(opening) - 2].text in ("&", "&&"):
                return
            self.edits.append(Edit(begin, begin + len("static_cast"), "::metal::__convert"))
