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

from typing import List, Optional

from clang.cindex import Cursor, CursorKind

from .calls import Calls
from .cursors import TEMPLATES, children
from .declarators import Declarators
from .edits import Edit
from .reading import Reading

_TEMPLATES = {kind.value for kind in TEMPLATES}


def typed_edits(reading: Reading, text: str) -> List[Edit]:
    found = _Edits(reading, text)
    for cursor in reading.declared:
        found.visit(cursor, None)
    found.deduce_through_aliases()
    for template in found.of_bool.values():
        found.overload(template)
    return found.all_edits()


class _Edits(Calls, Declarators):
    def visit(self, cursor: Cursor, parent: Optional[Cursor]) -> None:
        kids, handler = children(cursor), _HANDLER_OF.get(cursor._kind_id)
        outer = self.result, self.in_template
        self.in_template = self.in_template or cursor._kind_id in _TEMPLATES
        if handler:
            handler(self, cursor, parent, kids)
        for kid in kids:
            self.visit(kid, cursor)
        self.result, self.in_template = outer


_HANDLERS = {
    CursorKind.BINARY_OPERATOR: _Edits._operator,
    CursorKind.COMPOUND_ASSIGNMENT_OPERATOR: _Edits._operator,
    CursorKind.UNARY_OPERATOR: _Edits._operator,
    CursorKind.CALL_EXPR: _Edits._call,
    CursorKind.CXX_FUNCTIONAL_CAST_EXPR: _Edits._functional_cast,
    CursorKind.CSTYLE_CAST_EXPR: _Edits._cast,
    CursorKind.CXX_STATIC_CAST_EXPR: _Edits._static_cast,
    CursorKind.CONDITIONAL_OPERATOR: _Edits._conditional,
    CursorKind.MEMBER_REF_EXPR: _Edits._member,
    CursorKind.UNEXPOSED_EXPR: _Edits._refused,
    CursorKind.INIT_LIST_EXPR: _Edits._list,
    CursorKind.VAR_DECL: _Edits._variable,
    CursorKind.FIELD_DECL: _Edits._field,
    CursorKind.PARM_DECL: _Edits._parameter,
    CursorKind.TEMPLATE_REF: _Edits._template_name,
    CursorKind.CONSTRUCTOR: _Edits._constructor,
    CursorKind.RETURN_STMT: _Edits._return,
    CursorKind.IF_STMT: _Edits._condition,
    CursorKind.WHILE_STMT: _Edits._condition,
    CursorKind.STATIC_ASSERT: _Edits._assertion,
    CursorKind.FUNCTION_DECL: _Edits._function,
    CursorKind.CXX_METHOD: _Edits._function,
    CursorKind.CONVERSION_FUNCTION: _Edits._function,
    CursorKind.FUNCTION_TEMPLATE: _Edits._template,
    CursorKind.LAMBDA_EXPR: _Edits._lambda,
    CursorKind.TEMPLATE_NON_TYPE_PARAMETER: _Edits._function_pointer,
    CursorKind.TYPE_ALIAS_DECL: _Edits._function_pointer,
    CursorKind.TYPEDEF_DECL: _Edits._function_pointer,
    CursorKind.TYPE_ALIAS_TEMPLATE_DECL: _Edits._alias,
    CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION: _Edits._specialisation,
}
_HANDLER_OF = {kind.value: handler for kind, handler in _HANDLERS.items()}  # by number: faster, for all cursors
