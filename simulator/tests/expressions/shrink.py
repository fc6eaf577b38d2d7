"""The smallest program that still fails in the same way."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Callable, Iterator, List, Optional, Sequence

from .generator import input_leaf, literal
from .program import Program, written
from .runner import Outcome, run
from .tree import Input, Node, Parameter, make, replaced, size, walk
from .types import SCALARS, Undefined

CHUNK = 24  # candidates that are tried in one file
PATIENCE = 180  # seconds


def signature(outcome: Outcome) -> str:
    """What failures of the same kind have in common: a message without names and numbers."""
    message = outcome.message.splitlines()[0] if outcome.message else ""
    message = re.sub(r"^.*?: error: ", "", message)
    message = re.sub("'[^']*'|[0-9]+", "_", message)
    return f"{outcome.kind}: {message}"[:120].rstrip(": ")


def shrunk(program: Program, outcome: Outcome, avoid: Callable[[Node], bool]) -> tuple[Program, Outcome]:
    """`program` failed alone, with `outcome`; nodes that `avoid` names are not brought in."""
    end = time.monotonic() + PATIENCE
    for aspect in (signature, lambda o: o.kind):  # in another place, a fault may have another message
        wanted = aspect(outcome)
        smaller = (program, outcome)
        while smaller and time.monotonic() < end:
            program, outcome = smaller
            candidates = [p for p in _smaller(program) if not any(avoid(node) for _, node in walk(p.tree))]
            chunks = [candidates[first : first + CHUNK] for first in range(0, len(candidates), CHUNK)]
            tried = (_failing(chunk, aspect, wanted) for chunk in chunks if time.monotonic() < end)
            smaller = next(filter(None, tried), None)
    return program, outcome


def _failing(candidates: Sequence[Program], aspect: Callable, wanted: str) -> Optional[tuple[Program, Outcome]]:
    """The first that fails in the same way, alone, too."""
    for program, outcome in zip(candidates, run(candidates)):
        if aspect(outcome) == wanted:
            alone = run([program])[0]
            if aspect(alone) == wanted:
                return program, alone
    return None


def needed(program: Program, others: Sequence[Program], wanted: str) -> List[Program]:
    """Few of the other programs, beside which the program fails, though it does not alone."""
    kept = list(others)
    while len(kept) > 1:
        half = len(kept) // 2
        smaller = next((part for part in (kept[:half], kept[half:]) if _fails(program, part, wanted)), None)
        if smaller is None:
            break
        kept = smaller
    return kept


def _fails(program: Program, others: Sequence[Program], wanted: str) -> bool:
    return signature(run([*others, program])[-1]) == wanted


def _smaller(program: Program) -> List[Program]:
    """Smallest first, without doubles."""
    limit, found = _measure(program), {}
    for tree in _candidates(program.tree):
        candidate = written(tree)
        if _measure(candidate) < limit:
            found.setdefault(candidate.text, candidate)
    return sorted(found.values(), key=_measure)


def _measure(program: Program) -> tuple[int, int, int]:
    named = sum(any(node.form.names) for _, node in walk(program.tree))
    return size(program.tree), named, len(program.text)


def _candidates(tree: Node) -> Iterator[Node]:
    for path, node in walk(tree):
        for other in _instead(node, closed=_is_closed(tree, path), root=not path):
            try:
                yield replaced(tree, path, other)
            except Undefined:
                pass


def _is_closed(tree: Node, path: Sequence[int]) -> bool:
    """Whether the program's inputs are not known there: in a function's body, and in constant expressions."""
    for step in path:
        if step < 0 or step in tree.form.constants:
            return True
        tree = tree.parts[step]
    return False


def _instead(node: Node, closed: bool, root: bool) -> Iterator[Node]:
    """What can stand in place of a node. root: where any type will do"""
    for path, other in walk(node):
        if path and -1 not in path and (root or other.type == node.type):
            yield other
    if node.parts:
        if not closed:
            yield input_leaf(node.type, 0)
        low = 0 if SCALARS[node.type.scalar].kind in ("bool", "unsigned") else -1
        yield literal(node.type, [max(low, k % 2) for k in range(1, node.type.size + 1)])
    if isinstance(node.form, (Input, Parameter)):
        yield literal(node.type, [1] * node.type.size)
    if node.body is not None:
        inlined = _inlined(node)
        if inlined is not None:
            yield inlined
    if any(node.form.names):
        yield make(dataclasses.replace(node.form, names=("",) * len(node.form.names)), node.type, node.parts, node.body)


def _inlined(node: Node) -> Optional[Node]:
    """The body with arguments for parameters, where no conversion is lost."""
    if any(part.type != type for part, type in zip(node.parts, node.form.parameters)):
        return None

    def put(inner: Node) -> Node:
        if isinstance(inner.form, Parameter):
            return node.parts[inner.form.index]
        return make(inner.form, inner.type, tuple(map(put, inner.parts)), inner.body) if inner.parts else inner

    try:
        found = put(node.body)
    except Undefined:
        return None
    return found if found.type == node.type else None
