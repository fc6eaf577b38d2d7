"""Runs plans through the Metal library that is compiled into this build, by the operators of torch_binding.h."""

from __future__ import annotations

import functools
from typing import Callable, Mapping

import torch

from .plan import Parameters, Plan


class CompiledLauncher:
    """Launches plans on `mps` tensors. Errors of the library, of a kernel or of the GPU raise RuntimeError."""

    def __init__(self, launch_kernel: Callable):
        self._launch_kernel = launch_kernel

    def __call__(self, plan: Plan, tensors: Mapping[str, torch.Tensor]) -> None:
        self._launch_kernel(
            plan.kernel,
            [name for name, _ in plan.constants],
            [value for _, value in plan.constants],
            [_argument(argument, tensors) for argument in plan.arguments],
            plan.grid,
            plan.threads,
        )


def _argument(argument, tensors: Mapping[str, torch.Tensor]):
    if isinstance(argument, Parameters):
        return _bytes(argument.data)
    return None if argument is None else tensors[argument]


@functools.lru_cache(maxsize=1024)  # as many as the planner keeps plans
def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
