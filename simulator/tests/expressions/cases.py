"""Known faults as data: cases.json holds the smallest programs, each with its arguments and the right result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict

import numpy as np

from .program import Argument, Program
from .types import integers, parse, rounded


def cases() -> Dict[str, dict]:
    """By name: text, type of the result, arguments by name with type and value, the right result; where the reader is
    wrong today, what is found: a message, or the words of the result."""
    return json.loads((Path(__file__).parent / "cases.json").read_text())


def program(case: dict) -> Program:
    arguments = [Argument(name, parse(type), _value(type, value)) for name, (type, value) in case["arguments"].items()]
    return Program(
        "\n".join(case["text"]), parse(case["type"]), tuple(arguments), _value(case["type"], case["expected"])
    )


def _value(type: str, numbers: list) -> np.ndarray:
    """One lane."""
    kind = parse(type)
    row = np.array([numbers], np.float64 if kind.is_float else object)
    return rounded(kind.scalar, row) if kind.is_float else integers(row)
