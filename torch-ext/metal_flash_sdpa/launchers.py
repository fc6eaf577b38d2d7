"""Who runs a plan.

A launcher is a callable `launcher(plan, tensors)` that runs a `planner.Plan` on tensors by name and knows no attention.
Tensors on `mps` go to `metal()`; tensors on the CPU go to the CPU implementation, or, inside `use_launcher`, to the
launcher given there (a simulator, say).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import Callable, Iterator, Mapping, Optional

import torch

from .plan import Plan

Launcher = Callable[[Plan, Mapping[str, torch.Tensor]], None]

_current: contextvars.ContextVar = contextvars.ContextVar("launcher", default=None)


@contextlib.contextmanager
def use_launcher(launcher: Launcher) -> Iterator[None]:
    """Within the block, and in this thread, calls on CPU tensors are planned as for Metal and run by `launcher`."""
    token = _current.set(launcher)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Optional[Launcher]:
    """The launcher set by `use_launcher`, or None."""
    return _current.get()


@functools.lru_cache(maxsize=1)
def metal() -> Launcher:
    """The launcher for tensors on `mps`."""
    from .runtime_launcher import RuntimeLauncher  # only where there is an Apple GPU

    return RuntimeLauncher()
