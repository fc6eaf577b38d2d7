"""A program is one tree: every node has a type, a value for each lane, and its text.

A node may need statements before the one it stands in (a variable, a loop), and declarations at namespace scope (a
function, a macro, a struct). So any node can be replaced by another of its type: that is how programs get smaller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Iterator, Mapping, Optional, Tuple

import numpy as np

from .arithmetic import converted
from .types import Type

# Precedence, as far as operands need parentheses.
COMMA, ASSIGNMENT, TERNARY, OR, AND, BIT_OR, XOR, BIT_AND = range(8)
EQUALITY, RELATION, SHIFT, SUM, PRODUCT, UNARY, POSTFIX = range(8, 15)


@dataclass(frozen=True)
class Form:
    """What a node is, without its operands.

    kind: its name in the statistics, and for avoid.py
    text: the expression; $0, $1, ... are the parts, $n a number of its own, $v and $w its variables, $a, $b, ... its
        parameters
    needs: precedence that each part must have to stand without parentheses; ASSIGNMENT by default
    before, top: statements before the expression, declarations at namespace scope; $s and $r in `top` are the
        statements and the result of the body
    evaluate: value from the parts; None where it is the body's
    names: what the variables are called where that is allowed; an empty one says nothing
    template_name: what $t, a template's parameter, is called
    parameters: types of the parameters of the body, whose values are the first parts'
    constants: the parts that are constant expressions
    """

    kind: str
    text: str
    evaluate: Optional[Callable] = None
    needs: Tuple[int, ...] = ()
    precedence: int = POSTFIX
    before: str = ""
    top: str = ""
    names: Tuple[str, ...] = ()
    template_name: str = ""
    parameters: Tuple[Type, ...] = ()
    constants: Tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Node:
    form: Form
    type: Type
    parts: Tuple["Node", ...]
    value: np.ndarray
    body: Optional["Node"] = None

    @property
    def kind(self) -> str:
        return self.form.kind


@dataclass(frozen=True)
class Parameter(Form):
    """A parameter of the function around it."""

    index: int = 0


@dataclass(frozen=True)
class Input(Form):
    """A parameter of the whole program."""

    type: Optional[Type] = None
    values: Optional[np.ndarray] = None


def make(form: Form, type: Type, parts: Tuple[Node, ...] = (), body: Optional[Node] = None) -> Node:
    """Raises Undefined where the result is not defined for every lane."""
    if body is not None:
        body = _bound(body, arguments(form, parts))
    value = body.value if form.evaluate is None else form.evaluate(*parts)
    return Node(form, type, tuple(parts), value, body)


def arguments(form: Form, parts: Tuple[Node, ...]) -> Tuple[np.ndarray, ...]:
    return tuple(converted(part.value, part.type, type) for type, part in zip(form.parameters, parts))


def _bound(node: Node, values: Tuple[np.ndarray, ...]) -> Node:
    """A body with other arguments."""
    if isinstance(node.form, Parameter):
        return Node(node.form, node.type, (), values[node.form.index])
    if not node.parts:
        return node
    return make(node.form, node.type, tuple(_bound(part, values) for part in node.parts), node.body)


def replaced(node: Node, path: Tuple[int, ...], other: Node) -> Node:
    """The tree with `other` at `path`, in which -1 leads to the body. Raises Undefined like `make`."""
    if not path:
        return other
    if path[0] < 0:
        return make(node.form, node.type, node.parts, replaced(node.body, path[1:], other))
    parts = list(node.parts)
    parts[path[0]] = replaced(parts[path[0]], path[1:], other)
    return make(node.form, node.type, tuple(parts), node.body)


def walk(node: Node, path: Tuple[int, ...] = ()) -> Iterator[Tuple[Tuple[int, ...], Node]]:
    """Every node with its path, bodies included, from the root on."""
    yield path, node
    for i, part in enumerate(node.parts):
        yield from walk(part, (*path, i))
    if node.body is not None:
        yield from walk(node.body, (*path, -1))


def size(node: Node) -> int:
    return sum(1 for _ in walk(node))


def kinds(node: Node) -> frozenset:
    nodes = [n for _, n in walk(node)]
    named = {"name" for n in nodes if any(n.form.names)}
    return (frozenset(n.kind for n in nodes) | named) - {"input", "literal", "parameter", "parentheses"}


_PLACE = re.compile(r"\$(\d|[a-z])")


class Renderer:
    """Text of one program. `taken` are words that no variable may be called; None gives all of them plain names."""

    def __init__(self, prefix: str, taken: Optional[frozenset]):
        self.prefix, self.plain, self.taken = prefix, taken is None, set(taken or ())
        self.tops: list[str] = []
        self.inputs: dict[str, Input] = {}
        self._count = 0

    def expression(self, node: Node, before: list[str], scope: Mapping[int, str]) -> str:
        form = node.form
        if isinstance(form, Parameter):
            return scope[form.index]
        if isinstance(form, Input):
            self.inputs.setdefault(form.text, form)
            return form.text
        needs = form.needs + (ASSIGNMENT,) * len(node.parts)
        texts = {}
        for i, part in enumerate(node.parts):
            text = self.expression(part, before, scope)
            bare = part.form.precedence >= needs[i] and not (form.kind == "macro" and "," in text)
            texts[str(i)] = text if bare else f"({text})"
        self._count += 1
        texts["n"], texts["t"] = f"{self._count}_{self.prefix}", form.template_name
        for letter, name in zip("vw", (*form.names, "", "")):
            if f"${letter}" in form.before:
                texts[letter] = self._name(name, f"{letter}{texts['n']}")
        if node.body is not None:
            self._body(node, texts)
        for template, target in ((form.top, self.tops), (form.before, before)):
            if template:
                target.append(_filled(template, texts))
        return _filled(form.text, texts)

    def _body(self, node: Node, texts: dict) -> None:
        form, scope, statements = node.form, {}, []
        hidden = {form.template_name} - self.taken
        self.taken |= hidden
        for i, letter in enumerate("abcd"[: len(form.parameters)]):
            plain = f"{letter}{texts['n']}" if form.kind == "macro" else letter
            scope[i] = texts[letter] = self._name(form.names[i], plain) if i < len(form.names) else plain
        texts["r"] = self.expression(node.body, statements, scope)
        texts["s"] = " ".join(statements)
        self.taken -= hidden

    def _name(self, wished: str, plain: str) -> str:
        if self.plain or not wished or wished in self.taken:
            return plain
        self.taken.add(wished)
        return wished


def _filled(template: str, texts: Mapping[str, str]) -> str:
    def text(match) -> str:
        found = texts[match.group(1)]
        before = template[: match.start()]
        # - -x is no --x
        return f" {found}" if before[-1:] in tuple("+-&") and found[:1] == before[-1:] else found

    return _PLACE.sub(text, template)
