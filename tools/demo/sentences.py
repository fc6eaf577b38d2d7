"""Real input: sentences that the Python standard library says about itself."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

WORDS = range(4, 41)  # a sentence shorter than this says little, a longer one is usually a table or a list


def standard_library_sentences(count: int) -> list[str]:
    """`count` different first sentences of docstrings, spread evenly over the library, the same on every run.

    They depend on the Python version only. Raises `ValueError` when the library holds fewer.
    """
    found: dict[str, str] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
        for sentence in first_sentences(path.read_text(encoding="utf-8")):
            found.setdefault(sentence.casefold().rstrip("."), sentence)
    sentences = list(found.values())
    if len(sentences) < count:
        raise ValueError(f"{count} sentences wanted, but the standard library holds {len(sentences)}")
    return [sentences[index * len(sentences) // count] for index in range(count)]


def first_sentences(source: str) -> Iterator[str]:
    """The first sentence of every docstring in a Python source."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
            sentence = " ".join(docstring.split("\n\n")[0].split()).split(". ")[0]
            if is_prose(sentence):
                yield sentence


def is_prose(sentence: str) -> bool:
    """Leaves out signatures, examples and fragments."""
    if not sentence[0].isupper() or not sentence.isascii() or "->" in sentence or ">>>" in sentence:
        return False
    return len(sentence.split()) in WORDS
