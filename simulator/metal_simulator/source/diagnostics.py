"""clang's messages, in Metal's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from ..errors import Diagnostic

_DIAGNOSTIC = re.compile(r"^(.+?):(\d+):(\d+):(?:\{[^ ]*\}:)? (fatal error|error|warning|note): (.*)$")
SPACES = [
    ("__global", "device"),
    ("__constant", "constant"),
    ("__local", "threadgroup"),
    ("__private", "thread"),
    ("__bf16", "bfloat"),
]


def parse_diagnostics(text: str) -> List[Diagnostic]:
    """clang's messages, with Metal's names of the address spaces."""
    messages = [parse_message(line) for line in text.splitlines()]
    return [Diagnostic(*m[:4], metal_words(m[4])) for m in messages if m and m[3] != "note"]


def parse_message(line: str) -> Optional[Tuple[str, int, int, str, str]]:
    """(file, line, column, severity, text) of one line of clang's output, if it is a message."""
    match = _DIAGNOSTIC.match(line)
    if not match:
        return None
    file, row, column, severity, message = match.groups()
    return file, int(row), int(column), severity.replace("fatal ", ""), message


def metal_words(message: str) -> str:
    for theirs, ours in SPACES:
        message = re.sub(rf"\b{theirs}\b", ours, message)
    message = re.sub(
        r"\b__metal_(?:name_)?(local|global|generic|pipe|read_only|write_only|read_write|event_t|queue_t|vec_step|atomic_\w+)\b",
        r"\1",
        message,
    )
    message = re.sub(r"static assertion failed due to requirement '.*': (?=.)", "", message)
    return re.sub(r"__attribute__\(\((?:address_space|ext_vector_type)\(.*?\)\)\)", "", message)


def summary(path: Path, problem: str, diagnostics: Sequence[Diagnostic], raw: str) -> str:
    """An error message: the first few errors, or the tool's own words when none could be parsed."""
    errors = [d for d in diagnostics if d.severity == "error"]
    if not errors:
        return f"{path} {problem}:\n{raw.strip()[:2000]}"
    lines = [str(d) for d in errors[:5]]
    if len(errors) > 5:
        lines.append(f"... and {len(errors) - 5} more errors")
    return f"{path} {problem}:\n" + "\n".join(lines)
