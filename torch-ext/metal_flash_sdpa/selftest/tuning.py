"""Times the tiles that can serve a shape on this machine and keeps the fastest, which plans then prefer:
`python -m metal_flash_sdpa.selftest --tune`.
"""

from __future__ import annotations

import functools
import math
from typing import Callable, Dict, Optional

import torch

from .. import launching as launchers
from ..call import DTYPES
from ..planning import tiles, tuned
from ..planning.device import Device
from .timing import prefill_milliseconds

_TOKENS = 2048  # of the prefill that is timed: enough to fill the largest GPU

Measure = Callable[[Device, torch.dtype, int, int], float]


def tune(
    print_line: Callable[[str], None], device: Optional[Device] = None, measure: Optional[Measure] = None
) -> Dict[tuned.Key, tuned.Tile]:
    """Times all candidates for every dtype and shape, stores the winners and returns them. A process that has planned
    calls before goes on with the tiles that it had.

    device: the GPU, by default this machine's; measure(device, dtype, head_dim, value_dim) gives the milliseconds of a
    call that is planned for a device that prefers the tile on trial, by default of a prefill on `mps`. print_line takes
    a line for each shape. Raises RuntimeError without an Apple GPU, OSError when the file cannot be written.
    """
    if measure is None and not torch.backends.mps.is_available():
        raise RuntimeError("no Apple GPU here: tiles can be timed on a Mac only")
    measure = measure or functools.partial(prefill_milliseconds, tokens=_TOKENS)
    device = device or launchers.metal().device
    found: Dict[tuned.Key, tuned.Tile] = {}
    for dtype, name in DTYPES.items():
        for shape in tiles.SHAPES:
            times = {
                tile: _time(measure, device._replace(preferred=tile), dtype, *shape)
                for tile in tiles.candidates(device, dtype, *shape)
            }
            best = found[(name, *shape)] = min(times, key=times.__getitem__)
            listed = ", ".join(f"{time:.3f}" for time in times.values())
            print_line(f"  {name:4} head_dim {shape[0]:3} and {shape[1]:3}: {listed} ms; kept {best.kernel(dtype)}")
    tuned.store(device, found)
    print_line(f"  stored in {tuned.path()}")
    return found


def _time(measure: Measure, *problem) -> float:
    try:
        return measure(*problem)
    except RuntimeError:  # a kernel that this GPU refuses: no winner
        return math.inf
