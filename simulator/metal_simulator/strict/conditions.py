"""Vectors of integers where Metal wants vectors of bool: clang's comparisons of vectors give integers, too.

The stand-in headers take both, with a type of their own among the parameters where it is integers. What they are given
is a comparison, or a mistake.
"""

from __future__ import annotations

import re
from typing import Iterator, List, Tuple

from .nodes import Node, children, type_of

_CALLED = re.compile(r" '(any|all|select)' '[^']*__of_comparison")
_COMPARISONS = ("'<'", "'>'", "'<='", "'>='", "'=='", "'!='", "'&&'", "'||'")
_BITWISE = ("'&'", "'|'", "'^'")
_TRANSPARENT = {"ImplicitCastExpr", "ParenExpr", "MaterializeTemporaryExpr", "ExprWithCleanups"}


def condition_findings(nodes: List[Node]) -> Iterator[Tuple[int, str, str]]:
    """Index, severity and message of each argument that should be bool and is not."""
    for i, node in enumerate(nodes):
        if node.kind != "DeclRefExpr" or "__of_comparison" not in node.rest:
            continue
        called = _CALLED.search(node.rest)
        call = next(
            (k for k in range(i - 1, -1, -1) if nodes[k].kind == "CallExpr" and nodes[k].depth < node.depth), -1
        )
        arguments = list(children(nodes, call))[1:] if called and call >= 0 else []
        place = 2 if called and called.group(1) == "select" else 0
        if len(arguments) > place and not _is_comparison(nodes, arguments[place]):
            kind = re.sub(r"\b(?:__\w+|const) ?", "", type_of(nodes[arguments[place]])).strip()
            yield arguments[place], "error", f"{called.group(1)} takes a bool or a vector of bool, not {kind}"


def _is_comparison(nodes: List[Node], i: int) -> bool:
    node, operands = nodes[i], list(children(nodes, i))
    if node.kind == "CallExpr" and "'__construct'" in "".join(n.rest for n in nodes[i + 1 : i + 3]):
        return False  # int2(x < y)
    if "ext_vector_type" in type_of(node):  # a type without a name is one that was deduced
        return True
    if node.kind in _TRANSPARENT:
        return any(_is_comparison(nodes, k) for k in operands[:1])
    if node.kind == "BinaryOperator":
        return node.rest.endswith(_COMPARISONS) or (
            node.rest.endswith(_BITWISE) and all(_is_comparison(nodes, k) for k in operands)
        )
    if node.kind == "ConditionalOperator":
        return all(_is_comparison(nodes, k) for k in operands[1:])
    if node.kind == "UnaryOperator":
        return "prefix '!'" in node.rest or ("prefix '~'" in node.rest and _is_comparison(nodes, operands[0]))
    return node.kind == "CXXOperatorCallExpr"
