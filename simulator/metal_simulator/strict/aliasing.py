"""Memory accessed as a type that it does not have, from clang's syntax tree.

Apple's compiler takes a store of one scalar type and a load of another for accesses to different memory. Characters and
vectors may be anything. Every cast to a pointer or reference is judged, in each instantiation of a template, by the
declared type of what it is made from. In device memory, and behind threadgroup pointers, nothing tells that type.
"""

from __future__ import annotations

import re
from typing import Dict, Iterator, List, Optional, Set, Tuple

from .nodes import Node, children, type_of

_CASTS = {
    "CStyleCastExpr",
    "CXXReinterpretCastExpr",
    "CXXStaticCastExpr",
    "CXXFunctionalCastExpr",
    "CXXAddrspaceCastExpr",
}
_TRANSPARENT = _CASTS | {"ImplicitCastExpr", "ParenExpr", "CXXConstCastExpr"}
_MEANING = re.compile(r"'([^']*)':'([^']*)'")
_VARIABLE = re.compile(r" Var (0x[0-9a-f]+) ")
_QUALIFIER = re.compile(r"\b(?:const|volatile|restrict|__private|__local|__global|__constant|__generic)\b")
_SPACES = {"__private": "thread", "__local": "threadgroup"}
_SCALARS = {name: name for name in "bool short int long half float bfloat".split()}
_SCALARS.update({"unsigned short": "short", "unsigned int": "int", "unsigned long": "long", "__bf16": "bfloat"})
_SCALARS.update({"unsigned": "int", "ushort": "short", "uint": "int", "ulong": "long", "size_t": "long"})
_SCALARS.update(
    {f"{u}int{bits}_t": name for u in ("", "u") for bits, name in ((16, "short"), (32, "int"), (64, "long"))}
)
_ANYTHING = "anything"
_INTEGERS = {"short", "int", "long"}  # public kernels read integers of one size as those of another: a warning


def aliasing_findings(nodes: List[Node]) -> Iterator[Tuple[int, str, str]]:
    """Index, severity and message of each cast that makes one type of another; nodes: of syntax_tree."""
    casts = [i for i, node in enumerate(nodes) if node.kind in _CASTS and node.rest.endswith("BitCast>")]
    return _Tree(nodes).findings(casts) if casts else iter(())


class _Tree:
    def __init__(self, nodes: List[Node]):
        self.nodes = nodes
        self.meanings: Dict[str, Set[str]] = {}  # of names of types
        self.members: Dict[str, Set[Tuple[str, ...]]] = {}  # types of the members of a struct, by its name
        self.variables: Dict[str, int] = {}
        for i, node in enumerate(nodes):
            for name, meaning in _MEANING.findall(node.rest):
                if _bare(name) != _bare(meaning):  # clang 17 repeats a name that has no other meaning
                    self.meanings.setdefault(_bare(name), set()).add(_bare(meaning))
            if node.kind == "VarDecl":
                self.variables[node.address] = i
            elif node.kind == "CXXRecordDecl" and node.rest.endswith(" definition") and " struct " in node.rest:
                fields = [self._type(k) for k in children(nodes, i) if nodes[k].kind == "FieldDecl"]
                based = any(nodes[k].kind in ("public", "private") for k in children(self.nodes, i))
                self.members.setdefault(node.rest.split()[-2], set()).add(tuple(fields) if not based else (_ANYTHING,))

    def findings(self, casts: List[int]) -> Iterator[Tuple[int, str, str]]:
        for i in casts:
            to = self._type(i) if self.nodes[i].rest.endswith("<LValueBitCast>") else _pointee(self._type(i))
            space = next((ours for theirs, ours in _SPACES.items() if theirs in to), "")
            of = self._origin(i, space == "threadgroup") if space else None
            source, target = (self._families(of), self._families(to)) if of is not None else (set(), set())
            if source and target and _ANYTHING not in source | target and not source & target:
                severity = "warning" if source | target <= _INTEGERS else "error"
                message = (
                    f"{space} memory of type {_metal(of)} is accessed as {_metal(to)}: scalars of different types "
                )
                yield i, severity, message + "do not alias; use the type itself or a vector"

    def _type(self, i: int) -> str:
        return type_of(self.nodes[i])

    def _origin(self, i: int, declared: bool) -> Optional[str]:
        """Type of the object from which a pointer or reference is made, behind casts to void and characters.

        declared: only if it is a variable, and not what a pointer points to."""
        node, kind = self.nodes[i], self._type(i)
        operand = next(children(self.nodes, i), None)
        if node.kind in _TRANSPARENT and operand is not None and "<LValueToRValue>" not in node.rest:
            return self._origin(operand, declared)
        if node.kind == "BinaryOperator" and "*" in kind:
            pointers = [k for k in children(self.nodes, i) if "*" in self._type(k)]
            return self._origin(pointers[0], declared) if pointers else None
        if node.kind == "UnaryOperator" and "prefix '&'" in node.rest and operand is not None:
            return self._origin(operand, declared)
        if node.kind == "ArraySubscriptExpr" and operand is not None:
            base = self.nodes[operand]
            return kind if "<ArrayToPointerDecay>" in base.rest or not declared else None
        if "*" not in kind or "[" in kind:
            return kind
        variable = _VARIABLE.search(self.nodes[operand].rest if operand is not None else "")
        start = self.variables.get(variable.group(1)) if variable else None
        if start is not None and (declared or self._families(_pointee(kind)) == {_ANYTHING}):
            values = list(children(self.nodes, start))
            return self._origin(values[-1], declared) if values else None
        return None if declared else _pointee(kind)

    def _families(self, kind: str, depth: int = 0) -> Set[str]:
        """The scalar types that an object consists of, signed and unsigned ones being the same."""
        name = re.sub(r"\[\d+\]", "", _bare(kind)).replace("()", "").strip()
        if name.endswith("*"):
            return {"pointer"}
        if name in _SCALARS:
            return {_SCALARS[name]}
        members, meanings = self.members.get(name.split("::")[-1], set()), self.meanings.get(name, set())
        if depth > 8 or len(members) + len(meanings) != 1:
            return {_ANYTHING}
        kinds = next(iter(members)) if members else meanings
        return set().union(*(self._families(k, depth + 1) for k in kinds))


def _bare(kind: str) -> str:
    return " ".join(_QUALIFIER.sub("", kind).replace(" &", "").split())


def _pointee(kind: str) -> str:
    """Of a pointer's type; `T (*)[n]` points to an array."""
    if "(*)" in kind or "(*__" in kind:
        return re.sub(r"\(\*[^)]*\)", "", kind)
    return kind.rpartition("*")[0].strip()


def _metal(kind: str) -> str:
    return re.sub(r"\s*\[\d+\]", "", _bare(kind)).replace("__bf16", "bfloat").replace("()", "").strip()
