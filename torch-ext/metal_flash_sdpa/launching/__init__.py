"""Who runs a plan.

A launcher is a callable `launcher(plan, given)` that runs a `plan.Plan` on tensors by name and knows no attention.
Tensors on `mps` go to `metal()`; tensors on the CPU go to the CPU implementation. Inside `use_launcher`, both go to the
launcher given there (a simulator, say), with plans for the device given there. Launchers of a GPU also compile
a plan's kernel, `prepare(plan)`, and answer `describe(plan)` with a `plan.Pipeline`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import pathlib
from typing import Callable, Dict, Iterator, NamedTuple, Optional

import torch

from .._ops import ops
from ..planning import device
from ..planning.device import SMALLEST, Device
from ..planning.plan import Given, Plan
from . import unit_check
from .compiled import CompiledLauncher
from .runtime import RuntimeLauncher

Launcher = Callable[[Plan, Given], None]


class Target(NamedTuple):
    """Who runs plans, and the GPU that they are made for."""

    launcher: Launcher
    device: Device


_current: contextvars.ContextVar = contextvars.ContextVar("launcher", default=None)


@contextlib.contextmanager
def use_launcher(launcher: Launcher, device: Device = SMALLEST) -> Iterator[None]:
    """Within the block, and in this thread, calls are planned for `device` and run by `launcher`."""
    token = _current.set(Target(launcher, device))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Optional[Target]:
    """What `use_launcher` set, or None."""
    return _current.get()


def takes(tensor: torch.Tensor) -> bool:
    """Whether calls on the tensor go to a launcher, and not to the CPU implementation."""
    return _current.get() is not None or tensor.device.type == "mps"


def target_for(tensor: torch.Tensor) -> Optional[Target]:
    """Who runs calls on the tensor: None for the CPU implementation. Raises RuntimeError as `metal`."""
    return _current.get() or (_preferred() if tensor.device.type == "mps" else None)


def metal() -> Target:
    """For tensors on `mps`. Raises RuntimeError when this build has no Metal kernels."""
    return _current.get() or _preferred()


@functools.lru_cache(maxsize=1)
def _preferred() -> Target:
    targets = available()
    if not targets:
        raise RuntimeError(
            "this build has no Metal kernels: load the kernel without asking for a CPU build, or install the wheel "
            "flash-sdpa-metal; or move the tensors to the CPU"
        )
    return with_matrix_unit(next(iter(targets.values())))


def with_matrix_unit(target: Target) -> Target:
    """The target, whose plans use this machine's matrix unit if it has one that is right. Asks the GPU, once."""
    is_usable = unit_check.verdict(target.device.family).is_usable
    return target._replace(device=target.device._replace(matrix_unit=is_usable))


def available() -> Dict[str, Target]:
    """The launchers of this build for this machine's GPU, the preferred one first. Starts nothing."""
    targets = {}
    if hasattr(ops, "launch_kernel"):
        _, family, cores, _, _ = ops.describe_device()
        targets["compiled"] = Target(CompiledLauncher(ops), device.known(family, cores))
    if (pathlib.Path(__file__).parent.parent / "flash_sdpa").is_dir():  # the kernels' text
        targets["run-time"] = Target(RuntimeLauncher(), device.of_torch())
    return targets
