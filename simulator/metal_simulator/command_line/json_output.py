"""The option --json of every command: the result for other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Optional

from ..errors import SimulatorError

STANDARD_OUTPUT = "-"


def add_option(parser: argparse.ArgumentParser, what: str) -> None:
    """`what`: the result, for the help."""
    help_text = f"write {what} as JSON; - prints nothing else to the standard output"
    parser.add_argument("--json", metavar="FILE", type=_writable, help=help_text)


def _writable(path: str) -> str:
    """Asked before anything runs."""
    if path != STANDARD_OUTPUT and not Path(path).parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {path}: no folder {Path(path).parent}")
    return path


def write(path: Optional[str], result: object) -> None:
    """Nothing for None. Raises SimulatorError for a file that cannot be written."""
    if path is None:
        return
    text = json.dumps(result)
    if path == STANDARD_OUTPUT:
        print(text)
        return
    try:
        Path(path).write_text(text + "\n")
    except OSError as error:
        raise SimulatorError(f"cannot write {path}: {error.strerror}") from None
