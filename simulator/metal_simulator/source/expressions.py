"""Integer constants of the source, for attributes such as [[buffer(kIndex)]]."""

from __future__ import annotations

import ast
import operator
import re
from typing import Dict, List, Optional

from .tokens import Token, matching, split

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.USub: operator.neg,
}


def constant_values(tokens: List[Token]) -> Dict[str, int]:
    """Values of enumerators and integer constants by name without scope; the first of a name counts."""
    values: Dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token.text == "enum":
            _enumerators(tokens, i, values)
        elif token.text == "=" and tokens[i - 1].kind == "identifier" and tokens[i - 1].text not in values:
            words = {t.text for t in tokens[max(i - 7, 0) : i]}
            if words & {"constexpr", "const", "__constant"}:
                end = next((k for k in range(i, len(tokens)) if tokens[k].text in (";", "{", ",")), i)
                value = evaluate(tokens[i + 1 : end], values)
                if value is not None:
                    values[tokens[i - 1].text] = value
    return values


def _enumerators(tokens: List[Token], i: int, values: Dict[str, int]) -> None:
    opening = next((k for k in range(i, min(i + 8, len(tokens))) if tokens[k].text in ("{", ";")), i)
    if tokens[opening].text != "{":
        return
    following: Optional[int] = 0
    for part in split(tokens[opening + 1 : matching(tokens, opening)]):
        if part:
            given = evaluate(part[2:], values) if len(part) > 2 else following
            if given is not None:
                values.setdefault(part[0].text, given)
            following = None if given is None else given + 1


def evaluate(tokens: List[Token], values: Dict[str, int]) -> Optional[int]:
    """Value of an integer expression over `values`; None for anything else."""
    words = []
    for k, token in enumerate(tokens):
        after = tokens[k + 1].text if k + 1 < len(tokens) else ""
        if token.kind == "number":
            digits = token.text.rstrip("uUlL").replace("'", "_")
            words.append(f"0o{digits}" if re.fullmatch("0[0-7_]+", digits) else digits)
        elif token.kind == "identifier" and after != "::":
            words.append(str(values[token.text]) if token.text in values else token.text)
        elif token.text != "::":
            words.append("//" if token.text == "/" else token.text)
    try:
        return _value(ast.parse(" ".join(words), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, KeyError):
        return None


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        return _value(node.args[0])  # int(x), uint(x)
    raise ValueError("not an integer expression")
