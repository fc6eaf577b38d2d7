"""Tiles that were measured to be the fastest on this machine: `python -m metal_flash_sdpa.selftest --tune` times the
candidates of the tile table and keeps the winners in the user's cache folder; the planner prefers them.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import math
import os
import pathlib
import sys
import warnings
from typing import Callable, Dict, Iterator, Mapping, Optional, Tuple

import torch

from .device import Device

_FORMAT = 1
_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}
_SHAPES = ((32, 32), (64, 64), (72, 72), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256))
_TOKENS, _HEADS, _HEADS_KV = 2048, 16, 4  # of the causal prefill that is timed: enough to fill the largest GPU

Key = Tuple[str, int, int]  # dtype ("f16", "bf16", "f32"), head_dim, value head_dim
_tried: contextvars.ContextVar = contextvars.ContextVar("tried", default=None)


def winners(device: Device) -> Mapping[Key, Tuple]:
    """The tile of the tile table that was the fastest on `device`, for each shape that was tuned.

    The file is read once. One that is damaged, of another machine, or of another version's tile table is ignored with
    a warning.
    """
    tried = _tried.get()
    return _stored(device) if tried is None else tried


def tune(
    print_line: Callable[[str], None],
    device: Optional[Device] = None,
    measure: Optional[Callable[[str, int, int], float]] = None,
) -> Dict[Key, Tuple]:
    """Times all candidates for every dtype and shape, stores the winners and returns them.

    device: the GPU, by default this machine's; measure(dtype, head_dim, value_dim) gives the milliseconds of a call
    with the tile at hand, by default of a prefill on `mps`. print_line takes a line for each shape. Raises RuntimeError
    without an Apple GPU, OSError when the file cannot be written.
    """
    if measure is None and not torch.backends.mps.is_available():
        raise RuntimeError("no Apple GPU here: tiles can be timed on a Mac only")
    from . import launchers, tiles

    measure = measure or _milliseconds
    device = device or launchers.metal().device
    found: Dict[Key, Tuple] = {}
    for dtype in _DTYPES:
        for shape in _SHAPES:
            times = {}
            for tile in tiles.candidates(device, _DTYPES[dtype], *shape):
                with _trying({(dtype, *shape): tile}):
                    times[tile] = _time(measure, dtype, *shape)
            best = found[(dtype, *shape)] = min(times, key=times.get)
            listed = ", ".join(f"{time:.3f}" for time in times.values())
            print_line(f"  {dtype:4} head_dim {shape[0]:3} and {shape[1]:3}: {listed} ms; kept {tuple(best)}")
    _store(device, found)
    print_line(f"  stored in {path()}")
    return found


def _time(measure: Callable[[str, int, int], float], *key) -> float:
    try:
        return measure(*key)
    except RuntimeError:  # a kernel that this GPU refuses: no winner
        return math.inf


@contextlib.contextmanager
def _trying(tile: Mapping[Key, Tuple]) -> Iterator[None]:
    """Within the block, in this thread, plans are made with these tiles."""
    from . import planner

    token = _tried.set(tile)
    planner._plan_forward.cache_clear()
    try:
        yield
    finally:
        _tried.reset(token)
        planner._plan_forward.cache_clear()


def _milliseconds(dtype: str, head_dim: int, value_dim: int) -> float:
    from . import interface
    from .selftest.timing import milliseconds

    mps = torch.device("mps")
    query, key, value = (
        torch.randn(1, _TOKENS, *shape, device=mps, dtype=_DTYPES[dtype])
        for shape in ((_HEADS, head_dim), (_HEADS_KV, head_dim), (_HEADS_KV, value_dim))
    )
    with torch.no_grad():
        return milliseconds(lambda: interface.flash_attn_func(query, key, value, causal=True), mps)


def path() -> pathlib.Path:
    """The file with the winners, in the user's cache folder."""
    if sys.platform == "darwin":
        folder = pathlib.Path.home() / "Library" / "Caches"
    else:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return folder / "metal-flash-sdpa" / "tiles.json"


def _store(device: Device, found: Mapping[Key, Tuple]) -> None:
    tiles = [[*key, list(tile)] for key, tile in found.items()]
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    complete = file.with_suffix(f".{os.getpid()}")
    complete.write_text(
        json.dumps({"format": _FORMAT, "device": list(device), "tiles": tiles}) + "\n", encoding="ascii"
    )
    complete.replace(file)
    _stored.cache_clear()


@functools.lru_cache(maxsize=8)
def _stored(device: Device) -> Mapping[Key, Tuple]:
    file = path()
    try:
        return _checked(json.loads(file.read_text(encoding="ascii")), device)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"ignored the tuned tiles in {file}: {reason}; tune again, or remove it", stacklevel=2)
        return {}


def _checked(contents, device: Device) -> Mapping[Key, Tuple]:
    """The tiles of a file's contents. Raises ValueError, TypeError or LookupError for what `tune` would not write."""
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise ValueError("not a file of this version")
    if contents["device"] != list(device):
        raise ValueError(f"of the GPU {contents['device']}, this one is {list(device)}")
    return {(dtype, *shape): _candidate(device, dtype, *shape, tile) for dtype, *shape, tile in contents["tiles"]}


def _candidate(device: Device, dtype: str, head_dim: int, value_dim: int, wanted: list) -> Tuple:
    from . import tiles

    if dtype not in _DTYPES or (head_dim, value_dim) not in _SHAPES:
        raise ValueError(f"no shape that is tuned: {dtype}, {head_dim}, {value_dim}")
    for tile in tiles.candidates(device, _DTYPES[dtype], head_dim, value_dim):
        if list(tile) == wanted:
            return tile
    raise ValueError(f"no tile of the table for {dtype}, {head_dim}, {value_dim}: {wanted}")
