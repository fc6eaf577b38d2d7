"""Who runs a plan.

A launcher is a callable `launcher(plan, tensors)` that runs a `planner.Plan` on tensors by name and knows no attention.
Tensors on `mps` go to `metal()`; tensors on the CPU go to the CPU implementation, or, inside `use_launcher`, to the
launcher given there (a simulator, say), with plans for the device given there.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from typing import Callable, Iterator, Mapping, NamedTuple, Optional

import torch

from .device import SMALLEST, Device
from .plan import Plan

Launcher = Callable[[Plan, Mapping[str, torch.Tensor]], None]


class Target(NamedTuple):
    """Who runs plans, and the GPU that they are made for."""

    launcher: Launcher
    device: Device


_current: contextvars.ContextVar = contextvars.ContextVar("launcher", default=None)


@contextlib.contextmanager
def use_launcher(launcher: Launcher, device: Device = SMALLEST) -> Iterator[None]:
    """Within the block, and in this thread, calls on CPU tensors are planned for `device` and run by `launcher`."""
    token = _current.set(Target(launcher, device))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Optional[Target]:
    """What `use_launcher` set, or None."""
    return _current.get()


@functools.lru_cache(maxsize=1)
def metal() -> Target:
    """For tensors on `mps`."""
    from .runtime_launcher import RuntimeLauncher  # only where there is an Apple GPU

    return Target(RuntimeLauncher(), SMALLEST)
