"""The file with the tiles that were the fastest on this machine; selftest/tuning.py writes it, tiles.py asks for it."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import sys
import warnings
from typing import Any, Callable, Mapping, Tuple

from .device import Device

_FORMAT = 3

Tile = Any  # of tiles.py, which is above this
Key = Tuple[str, int, int]  # dtype ("f16", "bf16", "f32"), head_dim, value head_dim


@functools.lru_cache(maxsize=8)
def winners(device: Device, checked: Callable[[Device, Key, Tuple], Tile]) -> Mapping[Key, Tile]:
    """The tile that was the fastest on `device`, for each shape that was tuned.

    `checked` gives the tile of the tile table that is equal to a stored one, or raises ValueError. The file is read
    once. One that is damaged, of another machine, or of another version's tile table is ignored with a warning.
    """
    file = path()
    try:
        contents = json.loads(file.read_text(encoding="ascii"))
        if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
            raise ValueError("not a file of this version")
        described = _description(device)
        if contents["device"] != described:
            raise ValueError(f"of the GPU {contents['device']}, this one is {described}")
        return {(dtype, *shape): checked(device, (dtype, *shape), tile) for dtype, *shape, tile in contents["tiles"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"ignored the tuned tiles in {file}: {reason}; tune again, or remove it", stacklevel=2)
        return {}


def store(device: Device, found: Mapping[Key, Tile]) -> None:
    """Raises OSError when the file cannot be written."""
    tiles = [[*key, list(tile)] for key, tile in found.items()]
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    complete = file.with_suffix(f".{os.getpid()}")
    contents = {"format": _FORMAT, "device": _description(device), "tiles": tiles}
    complete.write_text(json.dumps(contents) + "\n", encoding="ascii")
    complete.replace(file)


def path() -> pathlib.Path:
    """In the user's cache folder."""
    if sys.platform == "darwin":
        folder = pathlib.Path.home() / "Library" / "Caches"
    else:
        folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return folder / "metal-flash-sdpa" / "tiles.json"


def _description(device: Device) -> list:
    return [device.family, device.cores, device.matrix_unit]
