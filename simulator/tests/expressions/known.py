"""Faults of the reader that are known: a mend of one removes its row here."""

from __future__ import annotations

import re

from .generator import TEMPLATE_NAMES
from .tree import Node, walk
from .types import BOOL

CONDITIONS = ("if", "for", "while", "do", "switch")


def _bool_to_vector(node: Node) -> bool:
    passed = any(p.type == BOOL and t.size > 1 for p, t in zip(node.parts, node.form.parameters))
    if node.kind in ("declaration", "declarators", *CONDITIONS):
        set_ = node.parts[1:] if node.kind in CONDITIONS else node.parts
        passed |= node.type.size > 1 and any(part.type == BOOL for part in set_)
    return passed


def _name_of_a_type_elsewhere(node: Node) -> bool:
    return any(name in TEMPLATE_NAMES or (name and node.kind == "alias") for name in node.form.names)


def _is_comparison(node: Node) -> bool:
    while node.kind in ("parentheses", "comma"):
        node = node.parts[-1]
    return node.kind.startswith("comparison of vectors")


def _comparison_as_a_number(node: Node) -> bool:
    """And where its type matters: to a template's parameter, or beside another one in &&, ?: or ==."""
    users = ("component", "element", "conversion", "C cast", "static_cast", "swizzle", "alias", "overload", "sizeof",
             "deduced template", "logical && of vectors", "logical || of vectors", "ternary")  # fmt: skip
    used = node.kind in users or node.kind.startswith("comparison of vectors")
    used |= node.kind == "declarators" and node.form.before.startswith("auto")
    return used and any(map(_is_comparison, node.parts))


def _is_c_cast(node: Node) -> bool:
    return node.form.text.startswith(("($v)", f"({node.type})"))


def _cast_beside_an_operator(node: Node) -> bool:
    """Casts to a vector or an alias: of a cast, of + and *, of a sign and a cast; after !, ~, +, - -, > and >>."""
    if not node.parts:
        return False
    inner = node.parts[0]
    signed = inner.kind.startswith("unary") and _is_c_cast(inner.parts[0])
    if _is_c_cast(node):
        return _is_c_cast(inner) or signed or inner.form.text[:1] in ("+", "*")
    if node.kind.startswith("unary"):
        return signed or (node.kind != "unary -" and _is_c_cast(inner))
    return "> $1" in node.form.text and _is_c_cast(_first(node.parts[1]))


def _first(node: Node) -> Node:
    """The node that the text of this one begins with."""
    while node.form.text.startswith("$0"):
        node = node.parts[0]
    return node


def _complement_of_a_constructor(node: Node) -> bool:
    if node.kind != "unary ~":
        return False
    return bool(re.match(r"(\$v|[a-z]+[234])[({]", _first(node.parts[0]).form.text))


def _constant_vector(node: Node) -> bool:
    if node.kind not in ("constant table", "copy from constant memory"):
        return False
    vector = node.type.size > 1 and any(part.kind != "literal" for part in node.parts[:2])
    return vector or any(n.kind == "comma" for part in node.parts[:2] for _, n in walk(part))


AVOIDED = {
    "swizzle of bool": lambda node: node.kind in ("swizzle of bool", "swizzle assignment of bool"),
    "bool to vector": _bool_to_vector,
    "~ of a constructor": _complement_of_a_constructor,
    "name of a type elsewhere": _name_of_a_type_elsewhere,
    "comparison of vectors as a number": _comparison_as_a_number,
    "C cast beside a C cast or a unary operator": _cast_beside_an_operator,
    "name vec": lambda node: "vec" in node.form.names,
    "declarators by () with a type's name": lambda node: (
        node.kind == "declarators" and "(" in node.form.before and any(node.form.names)
    ),
    "vector in constant memory": _constant_vector,
}


def is_known_fault(node: Node) -> bool:
    """Whether a program with this node meets a fault that is known."""
    return any(matches(node) for matches in AVOIDED.values())


def nothing_is_known(node: Node) -> bool:
    return False
