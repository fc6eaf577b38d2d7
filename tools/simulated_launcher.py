"""A launcher that runs plans on the Metal simulator, on CPU tensors.

with kernel.launchers.use_launcher(SimulatedLauncher()):
    kernel.flash_attn_func(q, k, v)     # the real .metal source, every GPU thread simulated
"""

from __future__ import annotations

import functools
import pathlib

import embed
import torch
from metal_simulator import Library

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "flash_sdpa"


class SimulatedLauncher:
    """Runs each plan on the simulator; raises AssertionError with the findings when `check` finds any.

    check: with the simulator's checker: races, accesses outside a buffer, reads of unwritten memory, ... (slower).
    order: order of threads and threadgroups, "forward", "reverse" or the seed of a random one.
    kernels: folder of the Metal sources.
    ignore: beginnings of the kinds of findings that are no trouble.
    timeout: seconds of processor time for one threadgroup.
    check_written: every element of the outputs must be written.
    fast_math: kernels compiled as for the compiled variant.
    matrix_unit: the lane layout of its operands, one of the simulator's.
    """

    def __init__(
        self,
        check: bool = False,
        order="forward",
        kernels: pathlib.Path = KERNELS,
        ignore=(),
        timeout: float = 60,
        check_written: bool = False,
        fast_math: bool = False,
        matrix_unit: str | None = None,
    ):
        self.check, self.order, self.kernels = check, order, kernels
        self.ignore, self.timeout, self.check_written = tuple(ignore), timeout, check_written
        self.fast_math, self.matrix_unit = fast_math, matrix_unit
        self.launches = 0

    def __call__(self, plan, given) -> None:
        build = "check" if self.check or self.check_written else "run"
        kernel = _compiled(self.kernels / plan.source, self.fast_math, plan.kernel, plan.constants, build)
        buffers = [_bound(buffer) for buffer in plan.buffers(given)]
        report = kernel.launch(
            buffers,
            grid=plan.grid,
            threads=plan.threads,
            order=self.order,
            check=self.check,
            timeout=self.timeout,
            check_written=self.check_written,
            matrix_unit=self.matrix_unit,
        )
        self.launches += 1
        findings = [finding for finding in report.findings if not finding.kind.startswith(self.ignore)]
        assert not findings, "\n".join(map(str, findings))


def _bound(buffer):
    return buffer if buffer is None or isinstance(buffer, torch.Tensor) else buffer.data


@functools.lru_cache(maxsize=None)
def _compiled(source: pathlib.Path, fast_math: bool, kernel: str, constants, build: str):
    return library(source, fast_math).kernel(kernel, dict(constants), build)


@functools.lru_cache(maxsize=None)
def library(source: pathlib.Path, fast_math: bool = False) -> Library:
    """One of the project's Metal sources, told what its compiler on a Mac is told."""
    if source.name in embed.SOURCES:  # run time only: never with fast math
        return Library(source, include=[source.parent], language="metal4.0", deployment_target="26.2")
    return Library(source, include=[source.parent], fast_math=fast_math)
