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

import gc
from typing import List, Optional

from clang.cindex import Cursor, CursorKind

from .calls import Calls
from .cursors import TEMPLATES, children
from .declarators import Declarators
from .edits import Edit
from .reading import Reading


def typed_edits(reading: Reading, text: str) -> List[Edit]:
    found = _Edits(reading, text)
    collects = gc.isenabled()
    gc.disable()  # it would look at all cursors again and again, which make no cycles
    try:
        for cursor in reading.cursors():
            found.visit(cursor, None)
    finally:
        if collects:
            gc.enable()
    found.deduce_through_aliases()
    for template in found.of_bool.values():
        found.overload(template)
    return found.all_edits()


class _Edits(Calls, Declarators):
    def __init__(self, reading: Reading, text: str):
        super().__init__(reading, text)
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
            CursorKind.FIELD_DECL: self._field,
            CursorKind.PARM_DECL: self._parameter,
            CursorKind.TEMPLATE_REF: self._template_name,
            CursorKind.CONSTRUCTOR: self._constructor,
            CursorKind.RETURN_STMT: self._return,
            CursorKind.IF_STMT: self._condition,
            CursorKind.WHILE_STMT: self._condition,
            CursorKind.STATIC_ASSERT: self._assertion,
            CursorKind.FUNCTION_DECL: self._function,
            CursorKind.CXX_METHOD: self._function,
            CursorKind.CONVERSION_FUNCTION: self._function,
            CursorKind.FUNCTION_TEMPLATE: self._template,
            CursorKind.LAMBDA_EXPR: self._lambda,
            CursorKind.TEMPLATE_NON_TYPE_PARAMETER: self._function_pointer,
            CursorKind.TYPE_ALIAS_DECL: self._function_pointer,
            CursorKind.TYPEDEF_DECL: self._function_pointer,
            CursorKind.TYPE_ALIAS_TEMPLATE_DECL: self._alias,
            CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION: self._specialisation,
        }

    def visit(self, cursor: Cursor, parent: Optional[Cursor]) -> None:
        kind, kids = cursor.kind, children(cursor)
        handler, outer = self.handlers.get(kind), (self.result, self.in_template)
        self.in_template = self.in_template or kind in TEMPLATES
        if handler:
            handler(cursor, parent, kids)
        for kid in kids:
            self.visit(kid, cursor)
        self.result, self.in_template = outer
