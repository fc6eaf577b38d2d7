"""Where the simulator's own files lie."""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent
INCLUDE = PACKAGE / "include"
RUNTIME = PACKAGE / "runtime"
