"""A program as text: one function, what it needs at namespace scope, its arguments, and the expected result."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Tuple

import numpy as np

from .tree import Node, Renderer
from .types import Type


class Argument(NamedTuple):
    name: str
    type: Type
    values: np.ndarray


class Program(NamedTuple):
    """text: declarations and the function PROGRAM, whose arguments are `arguments`"""

    text: str
    type: Type
    arguments: Tuple[Argument, ...]
    expected: np.ndarray
    tree: Optional[Node] = None

    def named(self, name: str) -> str:
        """Its text, with the function and all it declares called by a name of their own."""
        return self.text.replace("PROGRAM", name)

    @property
    def shown(self) -> str:
        return self.text.replace("_PROGRAM", "").replace("PROGRAM", "program")


def written(tree: Node) -> Program:
    plain = _render(tree, None)
    words = frozenset(re.findall(r"\w+", plain.text))
    return _render(tree, words)


def _render(tree: Node, taken: Optional[frozenset]) -> Program:
    """taken: words that no variable may be called; None: all variables have plain names"""
    renderer = Renderer("PROGRAM", taken)
    before: list[str] = []
    result = renderer.expression(tree, before, {})
    inputs = sorted(renderer.inputs.values(), key=lambda form: form.text)
    arguments = tuple(Argument(f.text, f.type, f.values) for f in inputs)
    listed = ", ".join(f"{a.type} {a.name}" for a in arguments)
    lines = [*renderer.tops, f"static inline {tree.type} PROGRAM({listed}) {{"]
    lines += [f"  {line}" for line in (*before, f"return {result};")] + ["}"]
    return Program("\n".join(lines), tree.type, arguments, tree.value, tree)
