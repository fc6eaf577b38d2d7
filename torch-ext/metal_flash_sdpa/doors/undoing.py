"""What every door returns: the way back."""

from __future__ import annotations

import threading
from typing import Callable, List


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
