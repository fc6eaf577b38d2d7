"""The standard shapes, in the convention of the kernels library:

    kernels benchmark org/metal-flash-sdpa --version 1
    kernels benchmark <folder with the build and benchmarks/>

On `mps` in full, on a CPU with a sixty-fourth of the tokens. Each is verified against, and timed beside, PyTorch's
F.scaled_dot_product_attention, or, where that lacks the feature, attention in PyTorch's own operators.
"""

from __future__ import annotations

import functools

import torch
from kernels.benchmark import Benchmark

# What they are is in the package: selftest/workloads.py.
WORKLOADS = (
    "decode_1x16k",
    "decode_32x8k",
    "decode_32_ragged",
    "speculative_16_ragged",
    "prefill_2k",
    "prefill_ragged",
    "prefill_window",
    "prefill_gpt_oss",
    "decode_gpt_oss",
    "prefill_gemma",
    "train_4k",
    "train_window",
    "train_ragged",
)


class AttentionBenchmark(Benchmark):
    """setup_x, benchmark_x and verify_x for each workload x."""

    seed = 0

    def prepare(self, name: str) -> None:
        workloads = self.kernel.selftest.workloads
        workload = workloads.WORKLOADS[name]
        workload = workload if self.device == "mps" else workload.small()
        self.problem = workloads.Problem(workload, torch.device(self.device))
        self.peer = self.problem.sdpa() or self.problem.eager

    def run(self) -> None:
        self.out = self.solved(self.problem.ours)

    def verify(self) -> torch.Tensor:
        return self.solved(self.peer)

    def solved(self, attend) -> torch.Tensor:
        """The output and the gradients, each in units of its largest number."""
        results = self.problem.solve(attend)
        return torch.cat([(result / result.abs().amax()).flatten() for result in results])


for _name in WORKLOADS:
    setattr(AttentionBenchmark, f"setup_{_name}", functools.partialmethod(AttentionBenchmark.prepare, _name))
    setattr(AttentionBenchmark, f"benchmark_{_name}", AttentionBenchmark.run)
    setattr(AttentionBenchmark, f"verify_{_name}", AttentionBenchmark.verify)
