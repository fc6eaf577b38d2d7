"""Random trees: a number decides everything.

A production makes a node of a given type out of smaller ones. It raises Inapplicable where the type does not suit it,
and Undefined where the specification does not say what comes out.
"""

from __future__ import annotations

import random
from typing import Callable, List, NamedTuple, Optional, Sequence

import numpy as np

from .tree import POSTFIX, UNARY, Form, Input, Node, Parameter
from .types import FLOATS, SCALARS, TYPES, Type, Undefined, integers, limits, rounded

LANES = 6
# Names that hide a type or a function of Metal, are keywords of OpenCL, or are templates' parameters elsewhere.
NAMES = """vec matrix array uint4 float4 half2 packed_float3 min max select any all step sign dot length cross fract
clamp mix abs floor local global generic pipe read_only convert_float4 as_float4 barrier shuffle event image
T U E V Type size value type""".split()
TEMPLATE_NAMES = ("T", "U", "E", "V", "Type", "size", "value", "type")


class Inapplicable(Exception):
    """This production cannot make what is asked for."""


class Production(NamedTuple):
    make: Callable
    weight: int
    constant: bool  # whether it suits a constant expression


PRODUCTIONS: List[Production] = []


def production(weight: int, constant: bool = False):
    def add(function):
        PRODUCTIONS.append(Production(function, weight, constant))
        return function

    return add


def input_values(type: Type, index: int) -> np.ndarray:
    """The same in every run: small numbers, a few at the ends of the type's range."""
    chance = random.Random(f"{type} {index}")
    count = (LANES, type.size)
    if type.is_float:
        numbers = [
            chance.choice((chance.randint(-40, 40) / 8, chance.randint(-20, 20) / 3)) for _ in range(np.prod(count))
        ]
        return rounded(type.scalar, np.array(numbers, np.float64).reshape(count))
    low, high = limits(type.scalar)
    ends = [low, high] if index == 2 else []
    numbers = [chance.choice([max(low, min(high, chance.randint(-9, 12))), *ends]) for _ in range(np.prod(count))]
    return integers(np.array(numbers, object).reshape(count))


class Generator:
    """avoid: whether a node is not to be made (a fault that is known)."""

    def __init__(self, seed: str, avoid: Callable[[Node], bool] = lambda node: False):
        self.random = random.Random(seed)
        self.avoid = avoid
        self._constant = False  # in a constant expression
        self._pure = False  # where no statement can stand before the expression
        self._scope: Optional[Sequence[Node]] = None  # parameters of the function around

    def program(self) -> Node:
        weighted = [t for t in TYPES for _ in range(3 if t.scalar in ("int", "uint", "float", "bool", "half") else 1)]
        return self.expression(self.random.choice(weighted), self.random.randint(2, 4))

    def expression(self, type: Type, depth: int) -> Node:
        if depth <= 0 or self.chance(0.08):
            return self.leaf(type)
        suitable = [p for p in PRODUCTIONS if p.constant or not self._constant]
        weights = [p.weight for p in suitable]
        for _ in range(12):
            try:
                node = self.random.choices(suitable, weights)[0].make(self, type, depth - 1)
            except (Inapplicable, Undefined):
                continue
            if not (self._pure and node.form.before) and not self.avoid(node):
                return node
        return self.leaf(type)

    def leaf(self, type: Type) -> Node:
        if self._constant:
            return self.literal(type)
        if self._scope is not None:
            known = [node for node in self._scope if node.type == type]
            return self.choice(known) if known and self.chance(0.9) else self.literal(type)
        return input_leaf(type, self.random.randrange(3)) if self.chance(0.8) else self.literal(type)

    def literal(self, type: Type) -> Node:
        if type.is_float:
            return literal(type, [self.random.randint(-12, 12) / 4 for _ in range(type.size)])
        low, high = limits(type.scalar)
        return literal(type, [self.random.randint(max(low, -5), min(high, 9)) for _ in range(type.size)])

    def body(self, parameters: Sequence[Node], type: Type, depth: int, pure: bool = False) -> Node:
        """The body of a function or macro, with nodes of the arguments' types and values as parameters."""
        outer = self._scope, self._pure
        self._scope, self._pure = parameters, pure or self._pure
        try:
            return self.expression(type, depth)
        finally:
            self._scope, self._pure = outer

    def constant(self, type: Type, depth: int) -> Node:
        """A constant expression."""
        outer, self._constant = self._constant, True
        try:
            return self.expression(type, depth)
        finally:
            self._constant = outer

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def choice(self, options: Sequence):
        if not options:
            raise Inapplicable
        return self.random.choice(options)

    def name(self) -> str:
        return self.random.choice(NAMES) if self.chance(0.2) else ""

    def scalar(self) -> str:
        return self.random.choice(list(SCALARS))

    def vector(self, *scalars: str) -> Type:
        return Type(self.random.choice(scalars or list(SCALARS)), self.random.choice((2, 3, 4)))


def input_leaf(type: Type, index: int) -> Node:
    values = input_values(type, index)
    return Node(Input("input", f"{type}_{index}", type=type, values=values), type, (), values)


def parameter(index: int, type: Type, values: np.ndarray) -> Node:
    return Node(Parameter("parameter", "", index=index), type, (), values)


def literal(type: Type, numbers: Sequence[float]) -> Node:
    numbers = [float(number) if type.is_float else int(number) for number in numbers]
    texts = [_spelled(type.scalar, number, type.size > 1) for number in numbers]
    if type.size > 1:
        text = f"{type}({', '.join(texts)})"
    elif type.scalar in ("bool", "int", "uint", "long", "ulong", "half", "float"):
        text = texts[0]
    else:
        text = f"{type}({texts[0]})"
    row = np.array([numbers], np.float64 if type.is_float else object)
    values = np.repeat(rounded(type.scalar, row) if type.is_float else integers(row), LANES, 0)
    return Node(Form("literal", text, precedence=UNARY if text[0] == "-" else POSTFIX), type, (), values)


def _spelled(scalar: str, number: float, inside: bool) -> str:
    if scalar == "bool":
        return "true" if number else "false"
    if scalar in FLOATS:
        return f"{number}{'h' if scalar == 'half' else 'f'}" if not inside or scalar == "bfloat" else str(number)
    return str(number) + {"uint": "u", "long": "l", "ulong": "ul"}.get(scalar, "")
