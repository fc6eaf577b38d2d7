"""Runs plans through the Metal library that is compiled into this build, by the operators of torch_binding.h."""

from __future__ import annotations

import functools
import time

import torch

from ..planning.plan import Given, Parameters, Pipeline, Plan
from . import runtime, unit_text


class CompiledLauncher:
    """Launches plans on `mps` tensors. Errors of the library, of a kernel or of the GPU raise RuntimeError.

    Kernels that are never compiled ahead of time go to the run-time launcher. ops: the operators of torch_binding.h.
    """

    def __init__(self, ops):
        self._launch_kernel = ops.launch_kernel.default
        self._describe_pipeline = ops.describe_pipeline.default
        self._runtime = runtime.RuntimeLauncher()

    def __call__(self, plan: Plan, given: Given) -> None:
        if plan.source in unit_text.TEXTS:
            self._runtime(plan, given)
            return
        self._launch_kernel(
            plan.kernel,
            *_names_and_values(plan),
            [_bytes(buffer.data) if isinstance(buffer, Parameters) else buffer for buffer in plan.buffers(given)],
            plan.grid,
            plan.threads,
            plan.waits,
        )

    def prepare(self, plan: Plan) -> None:
        """Makes a plan's pipeline, unless it is made. Raises RuntimeError as a launch does."""
        if plan.source in unit_text.TEXTS:
            self._runtime.prepare(plan)
        else:
            self._describe_pipeline(plan.kernel, *_names_and_values(plan))

    def describe(self, plan: Plan) -> Pipeline:
        """The pipeline of a plan, made if need be. Raises RuntimeError as a launch does."""
        if plan.source in unit_text.TEXTS:
            return self._runtime.describe(plan)
        started = time.perf_counter()
        max_threads, threadgroup_bytes, simd_width = self._describe_pipeline(plan.kernel, *_names_and_values(plan))
        return Pipeline((time.perf_counter() - started) * 1e3, max_threads, True, threadgroup_bytes, simd_width)


def _names_and_values(plan: Plan):
    return [name for name, _ in plan.constants], [value for _, value in plan.constants]


@functools.lru_cache(maxsize=1024)  # as many as the planner keeps plans
def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
