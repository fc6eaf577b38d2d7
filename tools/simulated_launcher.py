"""A launcher that runs plans on the Metal simulator, on CPU tensors.

    with kernel.launchers.use_launcher(SimulatedLauncher()):
        kernel.flash_attn_func(q, k, v)     # the real .metal source, every GPU thread simulated
"""

from __future__ import annotations

import functools
import pathlib
from typing import Mapping

import torch
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "flash_sdpa"


class SimulatedLauncher:
    """Runs each plan on the simulator; raises AssertionError with the findings when `check` finds any.

    check: detect races, accesses outside a buffer and reads of unwritten threadgroup memory (slower).
    order: order of threads and threadgroups, "forward", "reverse" or the seed of a random one.
    kernels: folder of the Metal sources.
    """

    def __init__(self, check: bool = False, order="forward", kernels: pathlib.Path = KERNELS):
        self.check, self.order, self.kernels = check, order, kernels
        self.launches = 0

    def __call__(self, plan, tensors: Mapping[str, torch.Tensor]) -> None:
        kernel = _compiled(self.kernels / plan.source, plan.kernel, plan.constants)
        buffers = [_buffer(argument, tensors) for argument in plan.arguments]
        report = kernel.launch(buffers, grid=plan.grid, threads=plan.threads, order=self.order, check=self.check)
        self.launches += 1
        assert not report.findings, "\n".join(map(str, report.findings))


def _buffer(argument, tensors: Mapping[str, torch.Tensor]):
    if isinstance(argument, str):
        return tensors[argument]
    return None if argument is None else argument.data


@functools.lru_cache(maxsize=None)
def _compiled(source: pathlib.Path, kernel: str, constants):
    return _library(source).kernel(kernel, constants=dict(constants))


@functools.lru_cache(maxsize=None)
def _library(source: pathlib.Path) -> Library:
    return Library(source, include=[source.parent])
