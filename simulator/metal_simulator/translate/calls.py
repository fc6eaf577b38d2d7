"""Calls of functions and constructors, and braces: see typed.py."""

from __future__ import annotations

import re
from typing import List, Optional

from clang.cindex import Cursor, CursorKind, Type, TypeKind, conf

from ..source.tokens import Token, matching_angle, spell, split
from .collecting import parameters_of
from .cursors import (
    REFERENCES,
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
    place,
    space_of,
    span,
    unwrapped,
    written,
    written_type,
)
from .edits import Edit, Wrap
from .operations import COMPARISONS, Operations

_FUNCTIONS = (
    CursorKind.FUNCTION_DECL,
    CursorKind.CXX_METHOD,
    CursorKind.CONSTRUCTOR,
    CursorKind.CONVERSION_FUNCTION,
    CursorKind.FUNCTION_TEMPLATE,
)
_SHORTER = ("char", "uchar", "short", "ushort")  # than a literal, which clang takes beside other vectors
_TYPES = (CursorKind.TYPE_REF, CursorKind.TEMPLATE_REF, CursorKind.NAMESPACE_REF)


def _named_by(parameters: List[Cursor], reference: str, named: List[List[Token]]) -> List[Token]:
    """The one template argument that is the type of parameters, or what they refer to; none if the call names none."""
    pattern = re.compile(rf"(?:const )?type-parameter-0-(\d+){reference}")
    found = (pattern.fullmatch(canonical(p.type).spelling) for p in parameters)
    places = {int(match.group(1)) for match in found if match}
    return next((named[i] for i in places if len(places) == 1 and i < len(named)), [])


class Calls(Operations):
    """Edits of calls and of braces."""

    def _call(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        operator, called = operator_of(cursor, self.text), cursor.referenced
        if operator and called is None:
            named = [k for k in kids if next(iter(children(k)), k).kind == CursorKind.OVERLOADED_DECL_REF]
            kids = [k for k in kids if k not in named]
            if any(unwrapped(k).kind == CursorKind.MEMBER_REF_EXPR for k in kids):  # libclang takes v.xy for no class
                self.reading.settled.update(span(k)[0] for k in named)
            self._dependent(cursor, operator, kids)
        elif called is None or called.kind not in _FUNCTIONS:
            self._unresolved(cursor, parent, kids)
        elif called.kind == CursorKind.CONSTRUCTOR:
            self._constructed(cursor, parent, kids)
        elif operator in COMPARISONS and meaning(cursor.type).scalar == "bool" and meaning(cursor.type).components > 1:
            self._wrap(cursor, "::metal::__comparison(", ")")
        if called is not None and called.kind in _FUNCTIONS:
            if is_own(called) and called.kind in (CursorKind.FUNCTION_DECL, CursorKind.CXX_METHOD):
                self._deduces_bool(called)
            self._arguments(cursor, called, operator)

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
        elif parent is not None and parent.kind == CursorKind.CSTYLE_CAST_EXPR and span(parent) == (begin, end):
            return
        elif self.text[self._own_end(begin, end) - 1] == "}":
            self._braces(cursor, begin, self._own_end(begin, end), made, given, parent)
        elif first is not None and first.kind in _TYPES and span(first)[0] >= begin and self.text[end - 1] == ")":
            self._construct(cursor)

    def _implicit(self, cursor: Cursor, given: Cursor) -> None:
        """A number that becomes a vector."""
        made, kind = meaning(cursor.type), written_type(given)
        number = meaning(kind)
        is_class = canonical(kind).kind == TypeKind.RECORD and number.name != "bfloat"
        if is_class or made.scalar == "bool" or is_dependent(kind):
            return
        if number.scalar == "bool" or meaning(given.type).scalar == "bool":
            self._wrap(given, f"{made.scalar}(", ")")
        elif number.scalar != made.scalar and (
            made.scalar in _SHORTER or number.scalar != "int" or written(given).kind != CursorKind.INTEGER_LITERAL
        ):
            self._wrap(given, f"::metal::__construct<{made.scalar}>(", ")")

    def _braces(self, cursor, begin: int, end: int, made, given: List[Cursor], parent: Optional[Cursor]) -> None:
        """A vector from braces: clang wants all components, and no braces among arguments."""
        number = sum(meaning(g.type).components for g in given)
        passed = self.text[begin] == "{" and parent is not None
        passed = passed and parent.kind in (CursorKind.CALL_EXPR, CursorKind.UNEXPOSED_EXPR)
        if made.scalar == "bool" or (number == made.components == len(given) and not passed):
            return
        opening = self._opening(begin, end)
        if opening is None:
            return
        before, after = f"::metal::__filled<{made.name}>(", ")"
        if begin in self.declared:  # `v{x}`
            before, begin = f" = {before}", opening
        elif begin in self.initialisers:  # `{x}` or `= {x}` of a member
            before = f" = {before}"
        elif begin in self.members:  # `v{x}` in front of a constructor's body
            before, after, begin = f"({before}", "))", opening
        self.edits += [Edit(begin, opening + 1, before), Edit(end - 1, end, after)]

    def _list(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """What the braces of an array or a struct have in them: libclang shows it without conversions."""
        if cursor.type.kind != TypeKind.VOID:
            self._elements(cursor, canonical(cursor.type))

    def _elements(self, cursor: Cursor, kind: Type) -> None:
        kids = [k for k in children(cursor) if k.kind.is_expression()]
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
                given = [k for k in children(kid) if k.kind.is_expression()]
                self._braces(kid, *span(kid), made, given, None)
            elif kid.type.kind == TypeKind.VOID:
                self._elements(kid, canonical(kind))

    def _refused(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """`a ? b : c`, an assignment or a call that libclang refuses, with all in it."""
        if len(kids) < 2 or not all(kid.kind.is_expression() for kid in kids):
            return
        ends = [span(kid) for kid in kids]
        between = [self.text[a[1] : b[0]].strip() for a, b in zip(ends, ends[1:])]
        if between == ["?", ":"]:
            self._conditional(cursor, parent, kids)
        elif between == ["="] and self._differs_by_space(kids[0].type, kids[1]):
            self.reading.settled.add(ends[1][0])
        elif any(self._fits(candidate, kids[1:]) for candidate in self._candidates(kids[0])):
            self._unresolved(cursor, parent, kids)
            self.reading.settled.update([place(kids[0]), *(begin for begin, _ in ends)])

    def _fits(self, function: Cursor, given: List[Cursor]) -> bool:
        """Whether a function takes these arguments, but for an address space, with no conversion but of numbers."""
        types = [parameter.type for parameter in parameters_of(function)][: len(given)]
        differ = [self._differs_by_space(kind, argument) for kind, argument in zip(types, given)]
        same = map(self._is_taken, types, given)
        return len(types) == len(given) and any(differ) and all(a or b for a, b in zip(differ, same))

    def _is_taken(self, kind: Type, argument: Cursor) -> bool:
        if is_swizzle(argument):
            return len(self._slice(argument).rpartition(".")[2].strip()) == meaning(kind).components
        of = written_type(argument)
        return is_dependent(kind) or meaning(kind).name == meaning(of).name or (is_number(kind) and is_number(of))

    def _unresolved(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """A call in a template whose function, or constructor, depends on the template's parameters."""
        begin, end = span(cursor)
        if not kids:
            return
        if cursor.type.kind != TypeKind.DEPENDENT and kids[0].kind in _TYPES:
            self._made_of(cursor.type, kids[-1] if kids[-1].kind == CursorKind.INIT_LIST_EXPR else cursor)
            if self.text[end - 1] == ")" and any(k.kind.is_expression() for k in kids):
                self._construct(cursor)
            elif kids[-1].kind == CursorKind.INIT_LIST_EXPR:
                self._open_expression(cursor, kids[-1])
            return
        callee = kids[0]
        if callee.kind == CursorKind.MEMBER_REF_EXPR:
            base = first_expression(callee)
            names_it = base is not None and span(base)[0] == span(callee)[0]  # and is no template argument
            if names_it and is_value(base, self.text) and not is_pointer(base.type):
                self._lasting(base)
        elif callee.kind in (CursorKind.CALL_EXPR, CursorKind.CXX_FUNCTIONAL_CAST_EXPR, CursorKind.UNEXPOSED_EXPR):
            first = next(iter(children(callee)), None)
            if first is not None and first.kind in _TYPES and is_value(callee, self.text):
                self._lasting(callee)
        signatures = [parameters_of(candidate) for candidate in self._candidates(callee)]
        named = self._named_arguments(callee)
        for i, argument in enumerate(k for k in kids[1:] if k.kind.is_expression()):
            self._passed(argument, [parameters[i] for parameters in signatures if i < len(parameters)], named)

    def _open_expression(self, cursor: Cursor, braces: Cursor) -> None:
        """`T{x}` where T may be a vector."""
        given = [k for k in children(braces) if k.kind.is_expression()]
        if given and may_be_vector(cursor.type) and all(k.kind != CursorKind.INIT_LIST_EXPR for k in given):
            (begin, end), opening = span(cursor), span(braces)[0]
            self.wraps.append(Wrap(begin, opening, "::metal::__braced<", ">"))
            self.edits += [Edit(opening, opening + 1, "("), Edit(end - 1, end, ")")]

    def _passed(self, argument: Cursor, parameters: List[Cursor], named: List[List[Token]]) -> None:
        """An argument of a call that may be of several functions. named: template arguments that the call names"""
        taking = [p for p in parameters if self._is_thread_reference(p)]
        begin, end = span(argument)
        if self.text[begin] == "{":
            made = {meaning(p.type) for p in parameters if not is_dependent(p.type) and meaning(p.type).components > 1}
            objects = {meaning(p.type) for p in taking if not is_dependent(p.type)} - made
            bound = spell(_named_by(taking, " &", named))
            if bound:
                self._wrap(argument, f"::metal::__lasting<{bound}>({bound}", ").get()")
            elif len(made) == 1:
                self._braces(argument, begin, end, made.pop(), [], None)
            elif named and parameters and not taking:
                self._open_braces(argument, parameters[0].type)
            elif len(objects) == 1 and all(p in taking or is_number(p.type) or is_pointer(p.type) for p in parameters):
                self._bound(argument, taking[0].type.get_pointee())
        elif taking and is_value(argument, self.text):
            self._lasting(argument)
        elif taking and len(taking) == len(parameters):
            to, of = taking[0].type.get_pointee(), written_type(argument)
            if is_number(to) and is_number(of):
                self._bound(argument, to)
        elif parameters and not any(p.type.kind in REFERENCES for p in parameters):
            tokens = _named_by(parameters, "", named)
            self._copy(argument, (tokens[0].start, tokens[-1].end) if tokens else None)

    def _candidates(self, callee: Cursor) -> List[Cursor]:
        """Functions that a name may mean, which depends on template parameters."""
        found: List[Cursor] = []
        for cursor in [callee, *children(callee)]:
            if cursor.kind == CursorKind.OVERLOADED_DECL_REF:
                number = conf.lib.clang_getNumOverloadedDecls(cursor)
                found += [conf.lib.clang_getOverloadedDecl(cursor, i) for i in range(number)]
        return found or self.named.get(self._last_name(callee), [])

    def _named_arguments(self, callee: Cursor) -> List[List[Token]]:
        """Of `name<A, B>`: A and B."""
        tokens, end = self.reading.tokens, self.reading.at(span(callee)[1] - 1)
        if tokens[end].text != ">":
            return []
        begin = next((i for i in range(end, 0, -1) if tokens[i].text == "<" and matching_angle(tokens, i) == end), end)
        return split(tokens[begin + 1 : end])

    def _last_name(self, callee: Cursor) -> str:
        """Of `object.template name<A>`: name."""
        tokens, (begin, end), name = self.reading.tokens, span(callee), ""
        i = self.reading.at(begin)
        while i < len(tokens) and tokens[i].start < end:
            if tokens[i].text == "<":
                i = max(matching_angle(tokens, i), i)
            elif self.reading.brackets.get(i, -1) > i:
                i = self.reading.brackets[i]
            name = tokens[i].text if tokens[i].kind == "identifier" else name
            i += 1
        return name

    def _arguments(self, cursor: Cursor, called: Cursor, operator: str) -> None:
        """Temporaries for references to thread memory, and for `this`; objects copied out of constant memory."""
        given = operands(cursor)
        method = called.kind == CursorKind.CXX_METHOD and not called.is_static_method()
        if method and is_own(called):
            object_ = given[0] if operator and given else None
            if not operator:
                callee = next(iter(children(cursor)), None)
                object_ = first_expression(callee) if callee is not None else None
            if object_ is not None and not is_pointer(object_.type) and is_value(object_, self.text):
                self._lasting(object_)
        if method and operator:
            if operator == "=" and len(given) == 2 and meaning(given[1].type).components == 1:
                taken = [space_of(p.type.get_pointee()) for p in called.get_arguments() if p.type.kind in REFERENCES]
                if taken != ["global_device"]:
                    self._copy(given[1])
            given = given[1:]
        if called.kind == CursorKind.CONSTRUCTOR and len(given) == 1 and span(given[0]) == span(cursor):
            if meaning(given[0].type).name == meaning(cursor.type).name:
                return
        if not is_own(called) and called.kind != CursorKind.FUNCTION_DECL:
            return
        is_open = bool(given) and is_dependent(cursor.type)
        for parameter, argument in zip(called.get_arguments(), given):
            if self._is_thread_reference(parameter):
                self._bound(argument, parameter.type.get_pointee())
            elif is_open and parameter.type.kind not in REFERENCES:
                self._copy(argument)  # libclang shows no copy where another argument is open

    def _deduces_bool(self, called: Cursor) -> None:
        """A vector of bool is a class to clang: what is deduced from other vectors needs an overload for it."""
        given = [meaning(p.type) for p in called.get_arguments()]
        template = conf.lib.clang_getSpecializedCursorTemplate(called)
        if template is not None and any(g.scalar == "bool" and g.components > 1 for g in given):
            self.of_bool.setdefault(span(template)[0], template)
