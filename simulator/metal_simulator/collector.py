"""Python's garbage collector, paused while a text is read: that makes a million objects and no cycles of them, and each
collection would look at all of them again."""

from __future__ import annotations

import contextlib
import gc
from typing import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """For a block, or as a decorator for a call; on again afterwards if it was on before."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
