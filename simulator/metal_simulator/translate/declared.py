"""What declarations say by their types: parameters of kernels, names of positions, constants made of others."""

from __future__ import annotations

import bisect
from typing import Dict, Iterator, List, Tuple

from clang.cindex import Cursor, CursorKind, Type, TypeKind

from ..source.declarations import Declarations, Function, Parameter, placed
from .cursors import children, is_own, meaning, place, space_of, span
from .edits import Edit
from .function_constants import Derived
from .positions import Input, input_edits, inputs
from .reading import Reading

_SCOPES = (CursorKind.NAMESPACE, CursorKind.LINKAGE_SPEC, CursorKind.UNEXPOSED_DECL)
_FUNCTIONS = (CursorKind.FUNCTION_DECL, CursorKind.FUNCTION_TEMPLATE)
_SPACES = {"global": "device", "global_device": "constant", "local": "threadgroup", "": ""}


def at_namespace_scope(cursors) -> Iterator[Cursor]:
    for cursor in cursors:
        if cursor.kind in _SCOPES:
            yield from at_namespace_scope(children(cursor))
        else:
            yield cursor


def _references(cursor: Cursor) -> Iterator[Tuple[Tuple[int, int], int]]:
    """Where the user's own variables are named, and where those are declared."""
    if cursor.kind == CursorKind.DECL_REF_EXPR:
        named = cursor.referenced
        if named is not None and named.kind == CursorKind.VAR_DECL and is_own(named):
            yield span(cursor), place(named)
    for child in children(cursor):
        yield from _references(child)


def position_edits(reading: Reading, declarations: Declarations) -> List[Edit]:
    """Positions at namespace scope, where they are named."""
    found: Dict[int, Input] = {i.place: i for i in inputs(declarations)}
    named = [pair for cursor in reading.cursors() for pair in _references(cursor)] if found else []
    return input_edits(found.values(), [(where, found[of]) for where, of in named if of in found])


def derived(reading: Reading, declarations: Declarations) -> List[Derived]:
    """In the order of the text: constants in whose values function constants are named, and what is declared beside
    them."""
    statements = [(declarations.tokens[s].start, declarations.tokens[e].end) for s, e, _ in declarations.statements]
    found, known = [], {c.token.start for c in declarations.constants}
    for cursor in at_namespace_scope(reading.cursors()) if known else ():
        where = place(cursor)
        if cursor.kind == CursorKind.VAR_DECL and where not in known:
            around = statements[bisect.bisect_right(statements, (where, where)) - 1]
            uses = [of for _, of in _references(cursor) if of in known]
            known.update([where] if uses else [])
            found.append(Derived(around, where, span(cursor)[1], cursor.spelling, meaning(cursor.type).name, uses))
    wanted = {made.statement for made in found if made.uses}
    return [made for made in found if made.statement in wanted]


def pointed(reading: Reading) -> Dict[int, Tuple[str, str, bool]]:
    """By the place of a function's parameter that is a pointer or reference: its shape, address space, whether it is
    constant."""
    found = {}
    for function in at_namespace_scope(reading.cursors()):
        for parameter in children(function) if function.kind in _FUNCTIONS else ():
            kind: Type = parameter.type.get_canonical()
            reference = kind.kind == TypeKind.LVALUEREFERENCE
            if parameter.kind == CursorKind.PARM_DECL and (reference or kind.kind == TypeKind.POINTER):
                where = _SPACES[space_of(kind.get_pointee())]
                constant = where == "constant" or kind.get_pointee().is_const_qualified()
                found[place(parameter)] = ("reference" if reference else "pointer", where, constant)
    return found


def with_types(declarations: Declarations, known: Dict[int, Tuple[str, str, bool]]) -> Declarations:
    """Declarations whose kernels' parameters are what their types say."""

    def typed(parameter: Parameter) -> Parameter:
        said = known.get(parameter.token.start)
        return parameter._replace(**dict(zip(("shape", "space", "constant"), said))) if said else parameter

    def function(f: Function) -> Function:
        return f._replace(parameters=placed(list(map(typed, f.parameters)))) if f.kernel else f

    return declarations._replace(functions=list(map(function, declarations.functions)))
