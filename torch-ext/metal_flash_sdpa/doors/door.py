"""What the doors share: the devices that they are opened for, and the way back."""

from __future__ import annotations

import threading
from typing import Callable, Iterable, List, Tuple

_DEVICES = ("mps", "cpu")


def check_devices(devices: Iterable[str]) -> Tuple[str, ...]:
    chosen = (devices,) if isinstance(devices, str) else tuple(devices)
    if not chosen or not set(chosen) <= set(_DEVICES):
        raise ValueError(f'devices must be "mps", "cpu" or both, got {devices!r}')
    return chosen


class Undo:
    """Takes a change back: by `undo()`, or at the end of a `with` block. The second time does nothing."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._pending: List[Callable[[], None]] = [undo]

    def undo(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
        for undo in pending:
            undo()

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        self.undo()
