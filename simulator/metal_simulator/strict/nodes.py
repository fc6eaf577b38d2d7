"""clang's syntax tree, as -ast-dump prints it."""

from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple

_NODE = re.compile(
    r"^[|`\- ]*(\w+) (0x[0-9a-f]+) (?:prev 0x[0-9a-f]+ |parent 0x[0-9a-f]+ )*"  # kind, address
    r"(<[^<>]*(?:<[^<>]*>[^<>]*)*>)(?: (\S+:\d+(?::\d+)?))?(.*)$"  # range, place of the name, the rest
)
_PLACE = re.compile(r"([^<>,\s]+):(\d+):(\d+)|line:(\d+):(\d+)|col:(\d+)")


class Node(NamedTuple):
    kind: str
    file: str
    line: int
    column: int
    rest: str
    depth: int
    address: str


def read_nodes(dump: str) -> Iterator[Node]:
    """Nodes with absolute places: clang prints only what changed since the last place."""
    file, line = "", 0
    for text in dump.splitlines():
        match = _NODE.match(text)
        if not match:
            continue
        kind, address, span, name_place, rest = match.groups()
        places = []
        for place in _PLACE.finditer(span + " " + (name_place or "")):
            if place.group(6):
                places.append((file, line, int(place.group(6))))
                continue
            if place.group(1) and place.group(1) != "line":
                file = place.group(1)
            line = int(place.group(2) or place.group(4))
            places.append((file, line, int(place.group(3) or place.group(5))))
        if places:
            where = places[-1] if name_place else places[0]
            yield Node(kind, *where, rest, len(text) - len(text.lstrip("|`- ")), address)


def children(nodes: List[Node], i: int) -> Iterator[int]:
    """Indices of a node's own children."""
    depth = nodes[i].depth
    for k in range(i + 1, len(nodes)):
        if nodes[k].depth <= depth:
            return
        if nodes[k].depth == depth + 2:
            yield k


_TYPE = re.compile(r"'([^']*)'")


def type_of(node: Node) -> str:
    """Its type as it is spelled, or ""."""
    match = _TYPE.search(node.rest)
    return match.group(1) if match else ""
