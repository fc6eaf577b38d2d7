"""Edits that types and declarations decide: what Metal means, written as clang has it in C++ for OpenCL.

    a < b of vectors                   ->  ::metal::__comparison(a < b): booleans, not integers that are -1 for true
    float4(a, b), T(x), (half4)x       ->  ::metal::__construct<float4>(a, b) and so on
    float4 v = flag                    ->  float4 v = int(flag)
    half4 * 0.5f                       ->  half4 * half(0.5f)
    f(a + b) for a `const thread T&`   ->  f(::metal::__lasting(a + b).get())
    S s = params, of constant memory   ->  S s = ::metal::__copy(params)

In a template, where a type depends on its parameters, the same is written in a way that leaves other types as they are.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Sequence, Tuple, Union

from clang.cindex import Cursor, CursorKind, Type, TypeKind, conf

from .cursors import (
    first_expression,
    is_dependent,
    is_pointer,
    is_swizzle,
    is_value,
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
from .edits import Edit, Wrap, apply_edits, wrap_edits
from .function_pointers import function_pointer_edit
from .members import kind_of, member_edit
from .reading import Reading

_COMPARISONS = {"<", ">", "<=", ">=", "==", "!=", "&&", "||", "!"}
_ARITHMETIC = {"+", "-", "*", "/", "+=", "-=", "*=", "/=", "<", ">", "<=", ">=", "==", "!="}
_MADE = {CursorKind.CALL_EXPR, CursorKind.CSTYLE_CAST_EXPR, CursorKind.CXX_STATIC_CAST_EXPR}
_CONVERTED = {"half", "bfloat"}  # which clang does not convert to each other
_FLOATS = {"float", *_CONVERTED}
_FUNCTIONS = (
    CursorKind.FUNCTION_DECL,
    CursorKind.CXX_METHOD,
    CursorKind.CONSTRUCTOR,
    CursorKind.CONVERSION_FUNCTION,
    CursorKind.FUNCTION_TEMPLATE,
)
_TYPES = (CursorKind.TYPE_REF, CursorKind.TEMPLATE_REF, CursorKind.NAMESPACE_REF)


def typed_edits(reading: Reading, text: str) -> List[Edit]:
    found = _Edits(reading, text)
    for cursor in reading.cursors():
        found.visit(cursor, None)
    return found.all_edits()


class _Edits:
    def __init__(self, reading: Reading, text: str):
        self.reading, self.text = reading, text
        self.edits: List[Edit] = []
        self.wraps: List[Wrap] = []
        self.of_bool: Dict[int, Cursor] = {}  # function templates that deduce a vector of bool, by place
        self.overloads: List[Edit] = []
        self.late: List[Tuple[int, list]] = []  # of wraps by index: what stands before, with places of the text in it
        self.handlers = {
            CursorKind.BINARY_OPERATOR: self._operator,
            CursorKind.COMPOUND_ASSIGNMENT_OPERATOR: self._operator,
            CursorKind.UNARY_OPERATOR: self._operator,
            CursorKind.CALL_EXPR: self._call,
            CursorKind.CXX_FUNCTIONAL_CAST_EXPR: self._functional_cast,
            CursorKind.CSTYLE_CAST_EXPR: self._cast,
            CursorKind.CXX_STATIC_CAST_EXPR: self._static_cast,
            CursorKind.CONDITIONAL_OPERATOR: self._conditional,
            CursorKind.MEMBER_REF_EXPR: self._member,
            CursorKind.UNEXPOSED_EXPR: self._refused,
            CursorKind.INIT_LIST_EXPR: self._list,
            CursorKind.VAR_DECL: self._variable,
            CursorKind.CONSTRUCTOR: self._constructor,
            CursorKind.RETURN_STMT: self._return,
            CursorKind.CXX_METHOD: self._function,
            CursorKind.CONVERSION_FUNCTION: self._function,
            CursorKind.FUNCTION_TEMPLATE: self._template,
            CursorKind.TEMPLATE_NON_TYPE_PARAMETER: self._function_pointer,
            CursorKind.TYPE_ALIAS_DECL: self._function_pointer,
            CursorKind.TYPEDEF_DECL: self._function_pointer,
            CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION: self._specialisation,
        }

    def visit(self, cursor: Cursor, parent: Optional[Cursor]) -> None:
        handler, kids = self.handlers.get(cursor.kind), list(cursor.get_children())
        if handler:
            handler(cursor, parent, kids)
        for kid in kids:
            self.visit(kid, cursor)

    def all_edits(self) -> List[Edit]:
        for i, parts in self.late[::-1]:  # inner ones first
            texts = [part if isinstance(part, str) else self._rendered(*part) for part in parts]
            self.wraps[i] = self.wraps[i]._replace(before="".join(texts) + ">)(")
        for template in self.of_bool.values():
            self._overload(template)
        return wrap_edits(self.wraps) + self.edits + self.overloads

    def _rendered(self, begin: int, end: int, instead: Sequence[Edit] = ()) -> str:
        wraps = [w for w in self.wraps if begin <= w.start and w.end <= end]
        places = {edit.start for edit in instead}
        inside = [e for e in self.edits if begin <= e.start and e.end <= end and e.start not in places]
        inside = wrap_edits(wraps) + inside + list(instead)
        moved = [e._replace(start=e.start - begin, end=e.end - begin) for e in inside]
        return " ".join(apply_edits(self.text[begin:end], moved).text.split("\n"))

    def _wrap(self, cursor: Cursor, before: str, after: str) -> None:
        self.wraps.append(Wrap(*span(cursor), before, after))

    # Operators.

    def _operator(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        operator = operator_of(cursor, self.text)
        if not any(is_dependent(kid.type) for kid in kids):
            if operator in ("+", "-", "+=", "-=") and any(is_pointer(kid.type) for kid in kids):
                for kid in kids:
                    if meaning(written(kid).type).name != meaning(kid.type).name and kid.kind != written(kid).kind:
                        self._offset(kid)
            return
        self._dependent(cursor, operator, kids)

    def _offset(self, cursor: Cursor) -> None:
        if written(cursor).type.get_canonical().kind == TypeKind.RECORD or is_dependent(written(cursor).type):
            self._wrap(cursor, "::metal::__integer(", ")")

    def _dependent(self, cursor: Cursor, operator: str, kids: List[Cursor]) -> None:
        """An operator of which an operand depends on template parameters."""
        if operator in _COMPARISONS:
            self._wrap(cursor, "::metal::__comparison(", ")")
        if len(kids) != 2:
            return
        if operator == "=":
            self._of_bool(kids[1], self._slice(kids[0]))
            self._copy(kids[1])
        for kid, other in (kids, kids[::-1]):
            if operator in ("+", "-", "+=", "-=") and (is_pointer(other.type) or stands_for_integer(kid.type)):
                self._offset(kid)
            assigned = operator in ("+=", "-=", "*=", "/=") and kid == kids[0]
            if operator in _ARITHMETIC and not assigned and is_dependent(other.type):
                self._beside(kid, other)

    def _beside(self, number: Cursor, other: Cursor) -> None:
        """A number beside what may be a vector of smaller numbers; a cast, for clang sees multiply-adds through it."""
        name = meaning(written_type(number)).name
        if name in _FLOATS:
            parts: List[Union[str, Tuple[int, int]]] = [f"(::metal::__beside_t<{name}"]
            for leaf in self._leaves(other):
                made = leaf.kind in _MADE and leaf.type.kind != TypeKind.DEPENDENT
                parts += [f", {leaf.type.spelling}"] if made else [", decltype(", span(leaf), ")"]
            self.late.append((len(self.wraps), parts))
            self._wrap(number, "", ")")

    def _leaves(self, cursor: Cursor) -> Iterator[Cursor]:
        """What depends on template parameters among the operands of an arithmetic expression."""
        inner = unwrapped(cursor)
        compound = inner.kind == CursorKind.COMPOUND_ASSIGNMENT_OPERATOR
        if not compound and operator_of(inner, self.text) in _ARITHMETIC:
            for kid in inner.get_children():
                if kid.kind.is_expression() and is_dependent(kid.type) and self._slice(kid) not in _ARITHMETIC:
                    yield from self._leaves(kid)
        else:
            yield inner

    def _slice(self, cursor: Cursor) -> str:
        begin, end = span(cursor)
        return self.text[begin:end]

    # Calls: of functions, constructors and overloaded operators.

    def _call(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        operator, called = operator_of(cursor, self.text), cursor.referenced
        if operator and called is None:
            kids = [k for k in kids if not next(iter(k.get_children()), k).kind == CursorKind.OVERLOADED_DECL_REF]
            self._dependent(cursor, operator, kids)
        elif called is None or called.kind not in _FUNCTIONS:
            self._unresolved(cursor, parent, kids)
        elif called.kind == CursorKind.CONSTRUCTOR:
            self._constructed(cursor, parent, kids)
        elif operator in _COMPARISONS and meaning(cursor.type).scalar == "bool" and meaning(cursor.type).components > 1:
            self._wrap(cursor, "::metal::__comparison(", ")")
        if called is not None and called.kind in _FUNCTIONS:
            if self._is_own(called) and called.kind in (CursorKind.FUNCTION_DECL, CursorKind.CXX_METHOD):
                self._deduces_bool(called)
            self._arguments(cursor, called, operator)

    def _deduces_bool(self, called: Cursor) -> None:
        """A vector of bool is a class to clang: what is deduced from other vectors needs an overload for it."""
        given = [meaning(p.type) for p in called.get_arguments()]
        template = conf.lib.clang_getSpecializedCursorTemplate(called)
        if template is not None and any(g.scalar == "bool" and g.components > 1 for g in given):
            self.of_bool.setdefault(span(template)[0], template)

    def _overload(self, template: Cursor) -> None:
        tokens, instead, names = self.reading.tokens, [], set()
        for parameter in (k for k in template.get_children() if k.kind == CursorKind.PARM_DECL):
            for kid in parameter.get_children():
                i = self.reading.at(span(kid)[0])
                if kid.kind == CursorKind.TEMPLATE_REF and tokens[i].text == "vec" and tokens[i + 3].text == ",":
                    scope = "" if tokens[i - 1].text == "::" else "::metal::"
                    instead.append(Edit(tokens[i].start, tokens[i + 3].end, f"{scope}__bool_vector<"))
                    names.add(tokens[i + 2].text)
        begin, end = span(template)
        types = [k for k in template.get_children() if k.kind == CursorKind.TEMPLATE_TYPE_PARAMETER]
        deduced = [span(kid)[1] for kid in types if kid.spelling in names]
        instead += [Edit(place, place, " = bool") for place in deduced]
        if deduced:
            self.overloads.append(Edit(end, end, f" {self._rendered(begin, end, instead)}"))

    def _constructed(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        begin, end = span(cursor)
        made, given = meaning(cursor.type), operands(cursor)
        first = kids[0] if kids else None
        if len(given) == 1 and meaning(given[0].type) == made:
            self._copy(given[0])
        if made.components == 1:
            return
        if len(given) == 1 and span(given[0]) == (begin, end):
            self._implicit(cursor, given[0])
        elif self.text[end - 1] == "}":
            self._braces(cursor, begin, end, made, given, parent)
        elif first is not None and first.kind in _TYPES and span(first)[0] >= begin and self.text[end - 1] == ")":
            if parent is None or parent.kind != CursorKind.CSTYLE_CAST_EXPR or span(parent) != (begin, end):
                self._construct(cursor)

    def _implicit(self, cursor: Cursor, given: Cursor) -> None:
        """A number that becomes a vector."""
        made, kind = meaning(cursor.type), written_type(given)
        number = meaning(kind)
        is_class = kind.get_canonical().kind == TypeKind.RECORD and number.name != "bfloat"
        if is_class or made.scalar == "bool" or is_dependent(kind):
            return
        if number.scalar == "bool" or meaning(given.type).scalar == "bool":
            self._wrap(given, f"{made.scalar}(", ")")
        elif number.scalar != made.scalar and (number.scalar, written(given).kind) != (
            "int",
            CursorKind.INTEGER_LITERAL,
        ):
            self._wrap(given, f"::metal::__construct<{made.scalar}>(", ")")

    def _construct(self, cursor: Cursor) -> None:
        """T(...) as ::metal::__construct<T>(...)."""
        begin, end = span(cursor)
        opening = self._opening(end)
        if opening is not None:
            self.wraps.append(Wrap(begin, opening, "::metal::__construct<", ">"))

    def _opening(self, end: int) -> Optional[int]:
        """Offset of the bracket that the one before `end` closes."""
        closing = self.reading.at(end - 1)
        opening = self.reading.brackets.get(closing)
        return None if opening is None or opening > closing else self.reading.tokens[opening].start

    def _braces(self, cursor, begin: int, end: int, made, given: List[Cursor], parent: Optional[Cursor]) -> None:
        """A vector from braces: clang wants all components, and no braces among arguments."""
        number = sum(meaning(g.type).components for g in given)
        passed = parent is not None and parent.kind in (CursorKind.CALL_EXPR, CursorKind.UNEXPOSED_EXPR)
        if made.scalar == "bool" or (number == made.components == len(given) and not passed):
            return
        opening = self._opening(end)
        if opening is None:
            return
        before = f"::metal::__filled<{made.name}>("
        if opening > begin:
            if parent is not None and parent.kind == CursorKind.VAR_DECL:
                before = f" = {before}"
            else:
                self.edits.append(Edit(begin, opening, before))
                before = ""
        if before:
            self.edits.append(Edit(opening, opening + 1, before))
        else:
            self.edits[-1] = Edit(begin, opening + 1, f"::metal::__filled<{made.name}>(")
        self.edits.append(Edit(end - 1, end, ")"))

    def _list(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """What the braces of an array or a struct have in them: libclang shows it without conversions."""
        if cursor.type.kind != TypeKind.VOID:
            self._elements(cursor, cursor.type.get_canonical())

    def _elements(self, cursor: Cursor, kind: Type) -> None:
        kids = [k for k in cursor.get_children() if k.kind.is_expression()]
        if kind.kind in (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY):
            types = [kind.element_type] * len(kids)
        else:
            types = [f.type for f in kind.get_fields()] if kind.kind == TypeKind.RECORD else []
        for kid, kind in zip(kids, types):
            made = meaning(kind)
            if kid.kind != CursorKind.INIT_LIST_EXPR:
                if made.components > 1 and made.scalar != "bool" and meaning(written_type(kid)).name == "bool":
                    self._wrap(kid, f"{made.scalar}(", ")")
                self._copy(kid)
            elif kid.type.kind == TypeKind.VOID and made.components > 1:
                given = [k for k in kid.get_children() if k.kind.is_expression()]
                self._braces(kid, *span(kid), made, given, None)
            elif kid.type.kind == TypeKind.VOID:
                self._elements(kid, kind.get_canonical())

    def _unresolved(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """A call in a template whose function, or constructor, depends on the template's parameters."""
        begin, end = span(cursor)
        if not kids:
            return
        if cursor.type.kind != TypeKind.DEPENDENT and kids[0].kind in _TYPES:
            if self.text[end - 1] == ")" and any(k.kind.is_expression() for k in kids):
                self._construct(cursor)
            return
        callee = kids[0]
        if callee.kind == CursorKind.MEMBER_REF_EXPR:
            base = first_expression(callee)
            if base is not None and is_value(base, self.text) and not is_pointer(base.type):
                self._lasting(base)
        elif callee.kind in (CursorKind.CALL_EXPR, CursorKind.CXX_FUNCTIONAL_CAST_EXPR, CursorKind.UNEXPOSED_EXPR):
            first = next(callee.get_children(), None)
            if first is not None and first.kind in _TYPES and is_value(callee, self.text):
                self._lasting(callee)
        candidates = self._candidates(callee)
        given = [k for k in kids[1:] if k.kind.is_expression()]
        for i, argument in enumerate(given):
            for candidate in candidates:
                parameters = [c for c in candidate.get_children() if c.kind == CursorKind.PARM_DECL]
                if i < len(parameters) and self._is_thread_reference(parameters[i]):
                    if is_value(argument, self.text) and self.text[span(argument)[0]] != "{":
                        self._lasting(argument)
                        break

    def _candidates(self, callee: Cursor) -> List[Cursor]:
        found: List[Cursor] = []
        for cursor in [callee, *callee.get_children()]:
            if cursor.kind == CursorKind.OVERLOADED_DECL_REF:
                number = conf.lib.clang_getNumOverloadedDecls(cursor)
                found += [conf.lib.clang_getOverloadedDecl(cursor, i) for i in range(number)]
        return found

    def _arguments(self, cursor: Cursor, called: Cursor, operator: str) -> None:
        """Temporaries for references to thread memory, and for `this`; objects copied out of constant memory."""
        given = operands(cursor)
        method = called.kind == CursorKind.CXX_METHOD and not called.is_static_method()
        if method and self._is_own(called):
            object_ = given[0] if operator and given else None
            if not operator:
                callee = next(cursor.get_children(), None)
                object_ = first_expression(callee) if callee is not None else None
            if object_ is not None and not is_pointer(object_.type) and is_value(object_, self.text):
                self._lasting(object_)
        if method and operator:
            if operator == "=" and len(given) == 2 and meaning(given[1].type).components == 1:
                self._copy(given[1])
            given = given[1:]
        if called.kind == CursorKind.CONSTRUCTOR and len(given) == 1 and span(given[0]) == span(cursor):
            if meaning(given[0].type).name == meaning(cursor.type).name:
                return
        if not self._is_own(called) and called.kind != CursorKind.FUNCTION_DECL:
            return
        for parameter, argument in zip(called.get_arguments(), given):
            if self._is_thread_reference(parameter):
                self._bound(argument, parameter.type.get_pointee())

    def _is_own(self, cursor: Cursor) -> bool:
        """Whether the user has declared this, and not the stand-in headers."""
        return cursor.location.file is not None and cursor.location.file.name == "read.cpp"

    def _is_thread_reference(self, parameter: Cursor) -> bool:
        kind = parameter.type
        if kind.kind != TypeKind.LVALUEREFERENCE or not kind.get_pointee().is_const_qualified() or space(parameter):
            return False
        return not self._is_own(parameter) or "__private" in self._slice(parameter)

    def _bound(self, argument: Cursor, to) -> None:
        """An argument that makes a temporary for a reference to thread memory."""
        begin, end = span(argument)
        if begin >= end or not self._is_own(argument):
            return  # a default argument
        of, inner = meaning(to), written_type(argument)
        if self.text[begin] == "{":
            self.wraps.append(Wrap(begin, end, f"::metal::__lasting<{of.name}>({of.name}", ").get()"))
        elif meaning(inner).name == of.name or is_dependent(to) or is_dependent(inner):
            if is_value(argument, self.text):
                self._lasting(argument)
        elif inner.get_canonical().kind != TypeKind.RECORD or meaning(inner).components > 1:
            self.wraps.append(Wrap(begin, end, f"::metal::__lasting<{of.name}>(", ").get()"))
        elif is_value(argument, self.text):
            self._lasting(argument)

    def _lasting(self, cursor: Cursor) -> None:
        self._wrap(cursor, "::metal::__lasting(", ").get()")

    def _copy(self, cursor: Cursor) -> None:
        """An object of a class that is copied out of constant memory."""
        inner = unwrapped(cursor)
        member = inner.kind == CursorKind.DECL_REF_EXPR and inner.type.kind == TypeKind.DEPENDENT
        constant = space(inner) == "global_device" or (member and "::" in self._slice(inner))
        if constant and self._is_class(inner) and not is_value(inner, self.text):
            self._wrap(cursor, "::metal::__copy(", ")")

    def _is_class(self, cursor: Cursor) -> bool:
        """Whether the expression's type may be a class to clang, as vectors are not, but for those of bool."""
        of, kind = meaning(cursor.type), cursor.type.get_canonical().kind
        return of.scalar == "bool" if of.components > 1 else kind == TypeKind.RECORD or is_dependent(cursor.type)

    # Casts.

    def _needs_construction(self, cursor: Cursor) -> bool:
        made, operand = meaning(cursor.type), first_expression(cursor)
        while operand is not None and span(operand) == span(cursor) and operands(operand):
            operand = operands(operand)[0]
        if cursor.type.kind in (TypeKind.LVALUEREFERENCE, TypeKind.RVALUEREFERENCE) or is_pointer(cursor.type):
            return False
        if made.name in _CONVERTED and operand is not None:
            of = written_type(operand)
            return is_dependent(of) or meaning(of).name in _CONVERTED - {made.name}
        return made.components > 1 or is_dependent(cursor.type)

    def _functional_cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        if self._needs_construction(cursor):
            if self.text[span(cursor)[1] - 1] == ")":
                self._construct(cursor)

    def _cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """(T)x as ::metal::__construct<T>(x)."""
        if not self._needs_construction(cursor):
            return
        begin, end = span(cursor)
        closing = self.reading.brackets.get(self.reading.at(begin))
        if closing is not None:
            close = self.reading.tokens[closing]
            self.edits.append(Edit(begin, begin + 1, "::metal::__construct<"))
            self.edits.append(Edit(close.start, close.end, ">("))
            self.wraps.append(Wrap(begin, end, "", ")"))

    def _static_cast(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        if self._needs_construction(cursor):
            begin = span(cursor)[0]
            self.edits.append(Edit(begin, begin + len("static_cast"), "::metal::__convert"))

    def _conditional(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Objects in different address spaces, of which neither is the other's type to clang.

        Nor to libclang, if they are of a class, as bfloat is there; that is left to clang."""
        if len(kids) == 3:
            self.reading.settled.add(self.text.index("?", span(kids[0])[1]))
            a, b = written(kids[1]), written(kids[2])
            values = any(is_value(kid, self.text) and not self._is_class(kid) for kid in kids[1:])
            if space(a) != space(b) and not is_pointer(a.type) and not is_pointer(b.type) and not values:
                for kid in kids[1:]:
                    self._wrap(kid, "::metal::__copy(", ")")

    def _member(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Several components of a vector that is a class to clang, in constant memory."""
        if kids and is_swizzle(cursor) and space(kids[0]) == "global_device":
            self._copy(kids[0])

    def _refused(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """`a ? b : c` that libclang refuses, with all in it."""
        if len(kids) == 3 and all(k.kind.is_expression() for k in kids):
            ends = [span(kid) for kid in kids]
            between = [self.text[ends[i][1] : ends[i + 1][0]].strip() for i in (0, 1)]
            if between == ["?", ":"]:
                self._conditional(cursor, parent, kids)

    # Declarations.

    def _variable(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        kind, begin = cursor.type, cursor.location.offset
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
        needed = made.components > 1 or is_dependent(kind)
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

    def _of_bool(self, value: Cursor, target: str) -> None:
        """A bool that becomes what may be a vector."""
        if meaning(written_type(value)).name == "bool" and not is_dependent(value.type):
            self._wrap(value, f"(::metal::__of_bool_t<decltype({target})>)(", ")")

    def _constructor(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """Members that a constructor makes: `v(x, y)`."""
        self._function(cursor, parent, kids)
        self._members(kids)

    def _members(self, kids: List[Cursor]) -> None:
        tokens = self.reading.tokens
        for kid in kids:
            if kid.kind == CursorKind.MEMBER_REF and kid.referenced is not None:
                i = self.reading.at(span(kid)[0])
                kind, close = kid.referenced.type, self.reading.brackets.get(i + 1)
                needed = meaning(kind).components > 1 or (is_dependent(kind) and not is_pointer(kind))
                if close is not None and tokens[i + 1].text == "(" and close > i + 2 and needed:
                    of = f"::metal::__value_t<decltype(this->{kid.spelling})>"
                    start, end = tokens[i + 1].end, tokens[close].start
                    self.wraps.append(Wrap(start, end, f"::metal::__construct<{of}>(", ")"))

    def _return(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        value = first_expression(cursor)
        if value is not None and is_dependent(unwrapped(value).type):
            self._copy(value)

    def _function(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self.edits += member_edit(self.reading, cursor)

    def _template(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """A function template: what its arguments are deduced from."""
        self.edits += member_edit(self.reading, cursor)
        if kind_of(cursor) == CursorKind.CONSTRUCTOR:
            self._members(kids)
        for parameter in (k for k in kids if k.kind == CursorKind.PARM_DECL):
            self._deduced(parameter, cursor)
            words = [t.text for t in self._tokens_of(parameter)]
            if "[" in words and not set(words) & {"*", "&", "__private", "__global", "__constant", "__local"}:
                begin = span(parameter)[0]  # an array is in thread memory; to clang it is a generic pointer
                self.edits.append(Edit(begin, begin, "__private "))

    def _specialisation(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self._deduced(cursor, cursor)

    def _function_pointer(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """To clang a function pointer spelled out points into the generic address space, where no function is."""
        kind = cursor.underlying_typedef_type if cursor.kind != CursorKind.TEMPLATE_NON_TYPE_PARAMETER else cursor.type
        if kind.kind == TypeKind.POINTER and kind.get_pointee().get_canonical().kind == TypeKind.FUNCTIONPROTO:
            self.edits += function_pointer_edit(self._tokens_of(cursor))

    def _tokens_of(self, cursor: Cursor):
        begin, end = span(cursor)
        return self.reading.tokens[self.reading.at(begin) : self.reading.at(end - 1) + 1]

    def _deduced(self, cursor: Cursor, template: Cursor) -> None:
        """`vec<T, N>` from which template arguments are deduced."""
        for kid in cursor.get_children():
            if kid.kind != CursorKind.TEMPLATE_REF or kid.spelling != "vec" or not self._is_vec(kid):
                continue
            i = self.reading.at(span(kid)[0])
            tokens = self.reading.tokens
            start = tokens[i].start
            scope = "" if tokens[i - 1].text == "::" else "::metal::"
            if tokens[i + 2].text == "bool":
                self.edits.append(Edit(start, tokens[i + 3].end, f"{scope}__bool_vector<"))
                self._signed(template, tokens[i + 4].text)
            else:
                self.edits.append(Edit(start, tokens[i].end, f"{scope}__vec"))

    def _is_vec(self, cursor: Cursor) -> bool:
        return cursor.referenced is not None and not self._is_own(cursor.referenced)

    def _signed(self, template: Cursor, name: str) -> None:
        """A number that is deduced from a class must have the type that it has there."""
        for kid in template.get_children():
            if kid.kind == CursorKind.TEMPLATE_NON_TYPE_PARAMETER and kid.spelling == name:
                self.edits.append(Edit(span(kid)[0], kid.location.offset, "int "))
