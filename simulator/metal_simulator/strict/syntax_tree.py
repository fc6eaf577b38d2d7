"""What only clang's syntax tree shows: pointers without an address space, and conversions that Metal does not make."""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

from ..errors import Diagnostic
from ..source.diagnostics import metal_words
from . import words
from .aliasing import aliasing_findings
from .nodes import Node, read_nodes

_DECLARED = {"ParmVarDecl", "VarDecl", "FieldDecl", "TypedefDecl", "TypeAliasDecl"}
_NAME_AND_TYPE = re.compile(
    r"^ (?:(?:used|referenced|constexpr|invalid) )*(?!(?:used|referenced|constexpr|invalid) ')([A-Za-z_]\w*) '([^']*)'"
)
_CASTS = {"CStyleCastExpr", "CXXStaticCastExpr", "CXXFunctionalCastExpr"}
_NARROW = {"__bf16": "bfloat", "_Float16": "half", "half": "half"}


def tree_findings(dump: str, files: Sequence[str]) -> List[Diagnostic]:
    """Diagnostics about the user's files from clang's -ast-dump of the whole translation unit."""
    wanted = set(files)
    starts = [at for at in (dump.find(f"<{file}:") for file in files) if at >= 0]
    if not starts:
        return []
    found = []
    parents: List[Node] = []
    nodes = list(read_nodes(dump[dump.rfind("\n", 0, min(starts)) + 1 :]))
    for node in nodes:
        while parents and parents[-1].depth >= node.depth:
            parents.pop()
        if node.file in wanted:
            word = words.of_declaration(node.kind, node.rest, _is_global(parents)) if node.kind.endswith("Decl") else ""
            for message in (_space_message(node), words.reason(word) if word else ""):
                if message:
                    found.append(Diagnostic(node.file, node.line, node.column, "error", message))
            severity, message = _conversion_message(parents, node) if parents else ("", "")
            if message:
                at = parents[-1]
                found.append(Diagnostic(node.file, at.line, at.column, severity, message))
        parents.append(node)
    places = set()
    for i, severity, message in aliasing_findings(nodes):
        place = nodes[i].file, nodes[i].line, nodes[i].column
        if place[0] in wanted and place not in places:  # once for all instantiations
            places.add(place)
            found.append(Diagnostic(*place, severity, message))
    return found


def _is_global(parents: Sequence[Node]) -> bool:
    """Whether a declaration's name is one of global scope, as that of an enumerator of an enum without `class` is."""
    return all(p.kind == "LinkageSpecDecl" or p.kind == "EnumDecl" and " class " not in p.rest for p in parents)


def _space_message(node: Node) -> str:
    if node.kind not in _DECLARED:
        return ""
    match = _NAME_AND_TYPE.match(node.rest)
    if (
        not match
        or "__generic" not in match.group(2)
        or match.group(1).startswith("__")
        or "(__generic *)" in match.group(2)
    ):
        return ""
    if re.search(r"__(?:global|constant|local|private)\b.*\* ?\(?__generic &", match.group(2)):
        return ""  # const device float*& p, or device S* (&s)[2]: the pointer says it
    kind = metal_words(match.group(2).replace("__generic ", "").replace("__generic", ""))
    noun = "reference" if kind.rstrip().endswith("&") else "pointer"
    return f"{noun} type of '{match.group(1)}' ({kind}) must have an explicit address space qualifier"


def _conversion_message(parents: Sequence[Node], operand: Node) -> Tuple[str, str]:
    """Severity and message for a narrowing to bfloat, or between half and bfloat, that nobody wrote.

    Of integers only literals count, where they are no operands and outside templates, which are known to compile so.
    """
    cast = parents[-1]
    explicit = cast.kind in _CASTS or "part_of_explicit_cast" in cast.rest
    if cast.kind != "ImplicitCastExpr" or explicit:
        return "", ""
    to, of = _type(cast.rest), _type(operand.rest)
    if "<FloatingCast>" in cast.rest and to == "bfloat" and of != "bfloat":
        return "error", f"implicit conversion from {of} to bfloat; write bfloat(x)"
    if "<FloatingCast>" in cast.rest and to == "half" and of == "bfloat":
        return "error", "implicit conversion from bfloat to half; convert to float first"
    if "<IntegralToFloating>" in cast.rest and to == "bfloat" and operand.kind == "IntegerLiteral":
        parent = parents[-2] if len(parents) > 1 else cast
        assigned = parent.kind != "BinaryOperator" or parent.rest.endswith("'='")
        if assigned and not any("Template" in p.kind for p in parents):
            return "warning", f"implicit conversion from {of} to bfloat; write bfloat(x)"
    return "", ""


def _type(rest: str) -> str:
    match = re.search(r"'([^']*)'(?::'([^']*)')?", rest)
    if not match:
        return ""
    name = re.sub(
        r"\b(const|__private|__global|__local|__constant|__generic)\b", "", match.group(2) or match.group(1)
    ).strip()
    return _NARROW.get(name, name)
