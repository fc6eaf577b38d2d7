"""What declarations say by their types: parameters of kernels, templates that are instantiated, names of positions,
constants made of others."""

from __future__ import annotations

import bisect
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from clang.cindex import Cursor, CursorKind, TemplateArgumentKind, Type, TypeKind, conf

from ..source.declarations import Declarations, Function, Instantiation, Parameter, placed
from ..source.tokens import matching_angle, spell, split
from .cursors import TEMPLATE_PARAMETERS, canonical, children, is_own, meaning, place, space_of, span
from .edits import Edit
from .function_constants import Derived
from .positions import Input, input_edits, inputs
from .reading import Reading

_SCOPES = (CursorKind.NAMESPACE, CursorKind.LINKAGE_SPEC, CursorKind.UNEXPOSED_DECL)
_FUNCTIONS = (CursorKind.FUNCTION_DECL, CursorKind.FUNCTION_TEMPLATE)
_SPACES = {"global": "device", "global_device": "constant", "local": "threadgroup", "": ""}
_DEFINED = "is_function_constant_defined"


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


class Question(NamedTuple):
    """`is_function_constant_defined(x)`."""

    start: int
    end: int
    constant: int  # place of its name


def questions(reading: Reading) -> List[Question]:
    asked = [token.start for token in reading.tokens if token.text == _DEFINED]
    around = [c for c in reading.declared if any(begin <= at < end for begin, end in [span(c)] for at in asked)]
    return [question for cursor in around for question in _questions(cursor)]


def _questions(cursor: Cursor) -> Iterator[Question]:
    if cursor.kind == CursorKind.CALL_EXPR and cursor.spelling == _DEFINED:
        for _, of in _references(cursor):
            yield Question(*span(cursor), of)
    else:
        for child in children(cursor):
            yield from _questions(child)


def position_edits(reading: Reading, declarations: Declarations) -> List[Edit]:
    """Positions at namespace scope, where they are named."""
    found: Dict[int, Input] = {i.place: i for i in inputs(declarations)}
    named = [pair for cursor in reading.declared for pair in _references(cursor)] if found else []
    return input_edits(found.values(), [(where, found[of]) for where, of in named if of in found])


def derived(reading: Reading, declarations: Declarations) -> List[Derived]:
    """In the order of the text: constants in whose values function constants are named, and what is declared beside
    them."""
    statements = [(declarations.tokens[s].start, declarations.tokens[e].end) for s, e, _ in declarations.statements]
    found, known = [], {c.token.start for c in declarations.constants}
    for cursor in at_namespace_scope(reading.declared) if known else ():
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
    for function in at_namespace_scope(reading.declared):
        for parameter in children(function) if function.kind in _FUNCTIONS else ():
            kind: Type = canonical(parameter.type)
            reference = kind.kind == TypeKind.LVALUEREFERENCE
            if parameter.kind == CursorKind.PARM_DECL and (reference or kind.kind == TypeKind.POINTER):
                where = _SPACES[space_of(kind.get_pointee())]
                constant = where == "constant" or kind.get_pointee().is_const_qualified()
                found[place(parameter)] = ("reference" if reference else "pointer", where, constant)
    return found


def specialised(reading: Reading) -> Dict[int, Tuple[int, str]]:
    """By the place of the name of a function that is declared for some arguments of a template: the place of the
    template's name, and the arguments as text."""
    templates, found = {}, {}
    for function in at_namespace_scope(reading.declared):
        if function.kind == CursorKind.FUNCTION_TEMPLATE and function.is_definition():
            templates[function.canonical] = place(function)
        of = conf.lib.clang_getSpecializedCursorTemplate(function) if function.kind in _FUNCTIONS else None
        if of is not None and of.canonical in templates:
            found[place(function)] = (templates[of.canonical], _arguments(reading, function, of))
    return found


def _arguments(reading: Reading, function: Cursor, template: Cursor) -> str:
    """Those that are written, and those that follow from the parameters."""
    tokens, name = reading.tokens, reading.at(place(function))
    close = matching_angle(tokens, name + 1) if tokens[name + 1].text == "<" else name
    given = [spell(argument) for argument in split(tokens[name + 2 : close])] if close > name else []
    if tokens[close + 1].text == "(":
        names = [child for child in children(template) if child.kind in TEMPLATE_PARAMETERS]
        for i in range(len(given), function.get_num_template_arguments()):
            argument = _argument(function, i, names)
            if argument is None:
                break
            given.append(argument)
    return ", ".join(given)


def _argument(function: Cursor, i: int, parameters: List[Cursor]) -> Optional[str]:
    kind = function.get_template_argument_kind(i)
    if kind == TemplateArgumentKind.TYPE:
        return meaning(function.get_template_argument_type(i)).name
    if kind == TemplateArgumentKind.INTEGRAL and i < len(parameters):
        return f"({meaning(parameters[i].type).name})({function.get_template_argument_value(i)})"
    return None


def with_types(
    declarations: Declarations, pointers: Dict[int, Tuple[str, str, bool]], templates: Dict[int, Tuple[int, str]]
) -> Declarations:
    """Declarations whose kernels' parameters and instantiations are what their types say.

    pointers: see pointed; templates: see specialised"""
    tokens, places = declarations.tokens, sorted(templates)

    def typed(parameter: Parameter) -> Parameter:
        said = pointers.get(parameter.token.start)
        return parameter._replace(**dict(zip(("shape", "space", "constant"), said))) if said else parameter

    def function(f: Function) -> Function:
        if not f.kernel:
            return f
        arguments = templates[f.place][1] if f.place in templates else f.arguments
        return f._replace(parameters=placed(list(map(typed, f.parameters))), arguments=arguments)

    functions = list(map(function, declarations.functions))
    names = {f.place: f.qualified for f in functions}

    def instantiation(made: Instantiation) -> Instantiation:
        first = bisect.bisect_left(places, tokens[made.start].start)
        if first == len(places) or places[first] > tokens[made.end].start:
            return made
        template, arguments = templates[places[first]]
        name = made.host_name or names.get(template, "")
        return made._replace(host_name=name, template=template, arguments=arguments)

    instantiations = list(map(instantiation, declarations.instantiations))
    return declarations._replace(functions=functions, instantiations=instantiations)
