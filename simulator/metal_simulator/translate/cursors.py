"""What libclang's cursors say: types in Metal's words, and whether an expression is a value or names an object."""

from __future__ import annotations

import functools
import re
from typing import List, NamedTuple, Optional, Tuple

from clang.cindex import Cursor, CursorKind, SourceLocation, TranslationUnit, Type, TypeKind, callbacks, conf

from ..errors import ToolchainError

TypeKind(32)  # _Float16, for which the bindings of libclang 18 have no name
_EXPRESSION, _TRANSLATION_UNIT = 100, 350  # numbers of the first kind of expression, and behind the last statement's
_MACRO = 1 << 31  # numbers of places from here on are those of macros
_VECTOR = re.compile(r"(?:metal::)?vec<([\w ]+), (\d+)>")
_QUALIFIERS = re.compile(r"\b(?:const|volatile|__global_device|__global|__local)\b ?")
_SPACE = re.compile(r"\b__(global_device|global|local)\b")
_OF_REFERENCE = re.compile(r"&\s*[>)]\s*\(?\s*$")  # what stands in front of an operand of `(T&)x` and `cast<T&>(x)`
_NAMES = {
    "_Float16": "half",
    "double": "float",
    "signed char": "char",
    "unsigned char": "uchar",
    "unsigned short": "ushort",
    "unsigned int": "uint",
    "unsigned long": "ulong",
}
_PSEUDO = "<pseudo-object type>"  # of v.xy
_LITERALS = {
    CursorKind.INTEGER_LITERAL,
    CursorKind.FLOATING_LITERAL,
    CursorKind.CHARACTER_LITERAL,
    CursorKind.CXX_BOOL_LITERAL_EXPR,
    CursorKind.CXX_NULL_PTR_LITERAL_EXPR,
    CursorKind.CXX_THIS_EXPR,
    CursorKind.INIT_LIST_EXPR,
    CursorKind.LAMBDA_EXPR,
    CursorKind.CXX_UNARY_EXPR,  # sizeof
}
_CASTS = {
    CursorKind.CSTYLE_CAST_EXPR,
    CursorKind.CXX_FUNCTIONAL_CAST_EXPR,
    CursorKind.CXX_STATIC_CAST_EXPR,
    CursorKind.CXX_REINTERPRET_CAST_EXPR,
}
_ARRAYS = (TypeKind.CONSTANTARRAY, TypeKind.INCOMPLETEARRAY, TypeKind.DEPENDENTSIZEDARRAY)
_UNKNOWN = (TypeKind.UNEXPOSED, TypeKind.DEPENDENT, TypeKind.INVALID, TypeKind.AUTO)
TEMPLATE_PARAMETERS = (
    CursorKind.TEMPLATE_TYPE_PARAMETER,
    CursorKind.TEMPLATE_NON_TYPE_PARAMETER,
    CursorKind.TEMPLATE_TEMPLATE_PARAMETER,
)
TEMPLATES = (
    CursorKind.FUNCTION_TEMPLATE,
    CursorKind.CLASS_TEMPLATE,
    CursorKind.CLASS_TEMPLATE_PARTIAL_SPECIALIZATION,
)
REFERENCES = (TypeKind.LVALUEREFERENCE, TypeKind.RVALUEREFERENCE)


def _collect(child: Cursor, parent: Cursor, found: List[Cursor]) -> int:
    found.append(child)
    return 1  # CXChildVisit_Continue


def _identity(cursor: Cursor) -> bytes:
    """Its kind, and the address of what it stands for; the rest of it says where libclang came from."""
    words = bytes(cursor)
    at = 16 if _EXPRESSION <= cursor._kind_id < _TRANSLATION_UNIT else 8
    return words[:4] + words[at : at + 8]


def _collect_all(child: Cursor, parent: Cursor, around: List[Tuple[bytes, Cursor]]) -> int:
    of = _identity(parent)
    while around and around[-1][0] != of:
        around.pop()
    if not around:
        return 0  # CXChildVisit_Break
    outer = around[-1][1]
    outer._children.append(child)
    child._children, child._tu = [], outer._tu
    around.append((_identity(child), child))
    return 2  # CXChildVisit_Recurse


_COLLECT, _COLLECT_ALL = callbacks["cursor_visit"](_collect), callbacks["cursor_visit"](_collect_all)


def children(cursor: Cursor) -> List[Cursor]:
    """Its parts; libclang is asked once, and without what Cursor.get_children checks of each."""
    found: Optional[List[Cursor]] = getattr(cursor, "_children", None)
    if found is None:
        found = cursor._children = []
        conf.lib.clang_visitChildren(cursor, _COLLECT, found)
        for child in found:
            child._tu = cursor._tu
    return found


def with_all_parts(cursor: Cursor) -> Cursor:
    """A cursor of which everything will be looked at: libclang is asked once for its parts and theirs."""
    cursor._children = []
    if conf.lib.clang_visitChildren(cursor, _COLLECT_ALL, [(_identity(cursor), cursor)]):
        del cursor._children  # of one it is not known whose part it is: they are asked one by one
    return cursor


def span(cursor: Cursor) -> Tuple[int, int]:
    """Offsets where it starts and ends."""
    found = getattr(cursor, "_span", None)
    if found is None:
        extent, first = cursor.extent, cursor.translation_unit.first
        begin, end = extent.begin_int_data, extent.end_int_data
        if max(begin, end) < _MACRO:
            found = begin - first, end - first
        else:  # a macro of the headers, as an address space is
            found = extent.start.offset, extent.end.offset
        cursor._span = found
    return found


def place(cursor: Cursor) -> int:
    """Offset of the name that it declares."""
    location = cursor.location
    return location.int_data - cursor.translation_unit.first if location.int_data < _MACRO else location.offset


def is_own(cursor: Cursor) -> bool:
    """Whether it stands in the user's text, and not in the stand-in headers."""
    location, unit = cursor.location, cursor.translation_unit
    if location.int_data < _MACRO:
        return unit.first <= location.int_data <= unit.first + unit.length
    return location.file is not None and location.file.name == unit.spelling


def number_places(unit: TranslationUnit, length: int) -> None:
    """Notes libclang's numbers for the places of a text: those of a file follow each other, and to ask it for lines and
    columns takes far longer. Raises ToolchainError if they do not."""
    file = unit.get_file(unit.spelling)
    begin, end = (SourceLocation.from_offset(unit, file, offset).int_data for offset in (0, length))
    if begin + length != end or end >= _MACRO:
        raise ToolchainError("this libclang numbers the places of a text otherwise: libclang 18.1.1 is needed")
    unit.first, unit.length = begin, length


class Meaning(NamedTuple):
    """A type without qualifiers, in Metal's words. components: 1, or of a vector."""

    name: str
    scalar: str
    components: int


def canonical(kind: Type) -> Type:
    """Without names for types; remembered."""
    found: Optional[Type] = getattr(kind, "_canonical", None)
    if found is None:
        found = kind._canonical = kind.get_canonical()
    return found


def meaning(kind: Type) -> Meaning:
    if kind.kind in REFERENCES:
        kind = kind.get_pointee()
    return _meaning(canonical(kind).spelling)


@functools.lru_cache(maxsize=None)
def _meaning(spelling: str) -> Meaning:
    name = _QUALIFIERS.sub("", spelling).strip()
    vector = _VECTOR.fullmatch(name)
    if vector:
        scalar = _NAMES.get(vector.group(1), vector.group(1))
        return Meaning(f"::metal::vec<{scalar}, {vector.group(2)}>", scalar, int(vector.group(2)))
    name = re.sub(r"\b_Float16\b", "half", _NAMES.get(name, name))
    return Meaning(name, name, 1)


def is_dependent(kind: Type) -> bool:
    """Whether the type depends on a template parameter, or is not known."""
    if kind.kind in REFERENCES:
        kind = kind.get_pointee()
    unknown = kind.kind == TypeKind.DEPENDENT or canonical(kind).kind in _UNKNOWN
    return unknown and kind.spelling != _PSEUDO


def may_be_vector(kind: Type) -> bool:
    """Whether the type is a vector, or may become one for some template arguments."""
    if not is_dependent(kind):
        return meaning(kind).components > 1
    declared = kind.get_declaration()
    return kind.kind == TypeKind.DEPENDENT or declared.kind != CursorKind.CLASS_TEMPLATE or not is_own(declared)


def is_number(kind: Type) -> bool:
    """Whether the type is a truth value, an integer or a floating-point number, whatever the template arguments."""
    arithmetic = TypeKind.BOOL.value <= canonical(kind).kind.value <= TypeKind.LONGDOUBLE.value
    return arithmetic or meaning(kind).name in ("half", "bfloat")


def is_pointer(kind: Type) -> bool:
    return canonical(kind).kind in (TypeKind.POINTER, *_ARRAYS)


def is_array(kind: Type) -> bool:
    return canonical(kind).kind in _ARRAYS


def stands_for_integer(kind: Type) -> bool:
    """Whether it is a class that converts to an integer."""
    declared = canonical(kind).get_declaration()
    conversions = (c for c in children(declared) if c.kind == CursorKind.CONVERSION_FUNCTION)
    return canonical(kind).kind == TypeKind.RECORD and any(
        TypeKind.BOOL.value <= canonical(c.result_type).kind.value <= TypeKind.INT128.value for c in conversions
    )


def space(cursor: Cursor) -> str:
    """Address space of the object that an expression names: global_device (constant), global, local or ""."""
    kind = cursor.type
    if kind.kind in REFERENCES:
        kind = kind.get_pointee()
    return "" if is_pointer(kind) else space_of(kind)


def space_of(kind: Type) -> str:
    """Address space that a type says, or ""."""
    found = _SPACE.search(kind.spelling)
    return found.group(1) if found else ""


def points_into_space(kind: Type) -> bool:
    """Whether it is a pointer or reference into an address space."""
    of = canonical(kind)
    return of.kind in (TypeKind.POINTER, *REFERENCES) and space_of(of.get_pointee()) != ""


def differs_by_space(kind: Type, value: Cursor) -> bool:
    """Whether a value, in no address space to libclang, is all that such a pointer or reference wants.

    In a member function its object is in no address space there, and of functions that differ by that only one has its
    name. Clang knows the address spaces, and judges."""
    to, of = canonical(kind), canonical(written_type(value))
    if to.kind == TypeKind.POINTER:
        if of.kind not in (TypeKind.POINTER, *_ARRAYS):
            return False
        of = of.get_pointee() if of.kind == TypeKind.POINTER else of.element_type
    wanted = to.get_pointee()
    return space_of(of) == "" and (is_dependent(wanted) or meaning(wanted) == meaning(of))


def written(cursor: Cursor) -> Cursor:
    """The expression behind the conversions that nobody wrote."""
    place = span(cursor)
    while True:
        implicit = cursor.kind in (CursorKind.UNEXPOSED_EXPR, CursorKind.CALL_EXPR)
        implicit |= cursor.kind == CursorKind.MEMBER_REF_EXPR and cursor.spelling.startswith("operator ")
        inner = children(cursor) if implicit else []
        if len(inner) != 1 or not inner[0].kind.is_expression() or span(inner[0]) != place:
            return cursor
        cursor = inner[0]


def written_type(cursor: Cursor) -> Type:
    """Type of the expression behind the conversions that nobody wrote."""
    inner, kind = written(cursor), cursor.type
    if inner.kind == CursorKind.ARRAY_SUBSCRIPT_EXPR and inner.type.kind == TypeKind.DEPENDENT:
        array = written_type(children(inner)[0])  # of a length that depends on template parameters
        return array.element_type if array.kind in _ARRAYS else inner.type
    while cursor != inner:
        kind = cursor.type
        cursor = children(cursor)[0]
    return kind if is_swizzle(inner) else inner.type


def unwrapped(cursor: Cursor) -> Cursor:
    """And behind parentheses."""
    cursor = written(cursor)
    while cursor.kind == CursorKind.PAREN_EXPR:
        cursor = written(children(cursor)[0])
    return cursor


def operator_of(cursor: Cursor, text: str) -> str:
    """The operator of an expression, builtin or overloaded; "" if it has none."""
    kids = children(cursor)
    if cursor.kind in (CursorKind.BINARY_OPERATOR, CursorKind.COMPOUND_ASSIGNMENT_OPERATOR) and len(kids) == 2:
        return text[span(kids[0])[1] : span(kids[1])[0]].strip()
    if cursor.kind == CursorKind.UNARY_OPERATOR and kids:
        return text[span(cursor)[0] : span(kids[0])[0]].strip()
    if cursor.kind == CursorKind.CALL_EXPR:
        for kid in kids:
            name = kid.spelling
            if kid.kind == CursorKind.DECL_REF_EXPR and not name:
                name = next((c.spelling for c in children(kid)), "")
            if name.startswith("operator") and kid.kind in (CursorKind.UNEXPOSED_EXPR, CursorKind.DECL_REF_EXPR):
                if not (name[8:9].isalnum() or name[8:9] in ("_", " ")):
                    begin, end = span(kid)
                    return name[8:] if text[begin:end][:1] == name[8:9] else ""
    return ""


def operands(cursor: Cursor) -> List[Cursor]:
    """The arguments of a call, the operands of an overloaded operator."""
    return [a for a in cursor.get_arguments() if a is not None]


def is_value(cursor: Cursor, text: str) -> bool:
    """Whether an expression makes a new value, and does not name an object."""
    cursor = unwrapped(cursor)
    kind, kids = cursor.kind, children(cursor)
    if kind in _LITERALS:
        return True
    if kind in _CASTS:
        return _OF_REFERENCE.search(text[span(cursor)[0] : span(kids[-1])[0]]) is None
    if kind == CursorKind.CALL_EXPR:
        called = cursor.referenced
        if called is None or called.kind in (CursorKind.CONSTRUCTOR, CursorKind.OVERLOADED_DECL_REF):
            return True
        of_vector = called.spelling == "operator[]" and called.semantic_parent.spelling == "vec"
        return of_vector or called.result_type.kind not in REFERENCES
    if kind == CursorKind.BINARY_OPERATOR:
        operator = operator_of(cursor, text)
        return is_value(kids[1], text) if operator == "," else operator != "="
    if kind == CursorKind.UNARY_OPERATOR:
        return operator_of(cursor, text) not in ("*", "++", "--")
    if kind == CursorKind.CONDITIONAL_OPERATOR:
        a, b = written(kids[1]), written(kids[2])
        return is_value(a, text) or is_value(b, text) or meaning(a.type) != meaning(b.type)
    if kind == CursorKind.MEMBER_REF_EXPR:
        if is_swizzle(cursor) or (kids and is_component(cursor, text) and is_dependent(kids[0].type)):
            return True
        return bool(kids) and not is_pointer(kids[0].type) and is_value(kids[0], text)
    if kind == CursorKind.ARRAY_SUBSCRIPT_EXPR:
        return not is_pointer(written_type(kids[0])) and is_dependent(written_type(kids[0]))
    if kind == CursorKind.DECL_REF_EXPR:
        named = cursor.referenced
        constants = (CursorKind.ENUM_CONSTANT_DECL, CursorKind.TEMPLATE_NON_TYPE_PARAMETER)
        return named is not None and named.kind in constants
    return False


def is_swizzle(cursor: Cursor) -> bool:
    return cursor.type.kind == TypeKind.UNEXPOSED and cursor.type.spelling == _PSEUDO


def is_component(cursor: Cursor, text: str) -> bool:
    """Whether a member has a name that components of vectors have."""
    begin, end = span(cursor)
    return re.fullmatch(r"[xyzw]{1,4}|[rgba]{1,4}", text[begin:end].rpartition(".")[2].strip()) is not None


def first_expression(cursor: Cursor) -> Optional[Cursor]:
    return next((c for c in children(cursor) if c.kind.is_expression()), None)
