"""Which element of a matrix each lane holds of a cooperative tensor: chosen here, for every launch."""

from __future__ import annotations

import os
from typing import Optional

from ..errors import LaunchError

VARIABLE = "METAL_SIMULATOR_MATRIX_UNIT"
# By their numbers in runtime/request.h: of family 10; of the families before it; of no GPU; of family 10 when kernels
# were compiled for a deployment target below macOS 26.2, whatever the target says (a left operand is taken for a
# destination: of 16 rows the first 8 come out right).
LAYOUTS = ("apple10", "older", "invented", "old_target")


def layout(kernel: str, wish: Optional[str]) -> int:
    """The number of a layout: of the launch's argument, else of METAL_SIMULATOR_MATRIX_UNIT, else of family 10.

    Raises LaunchError for another name."""
    source = "matrix_unit" if wish is not None else VARIABLE
    name = wish if wish is not None else os.environ.get(VARIABLE) or LAYOUTS[0]
    if name not in LAYOUTS:
        raise LaunchError(f"kernel {kernel}: {source} is one of {', '.join(LAYOUTS)}, not {name!r}")
    return LAYOUTS.index(name)
