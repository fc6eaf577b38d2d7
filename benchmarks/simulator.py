"""Speed of the simulator: python benchmarks/simulator.py

Compilation with an empty cache and with a full one; then one head, fp16, head_dim 64, not causal, of the forward kernel
without and with the checker. Level: simulation; these are seconds of this machine's CPU and say nothing about a GPU.
Exit status 1 if a goal is missed.
"""

from __future__ import annotations

import os
import pathlib
import re
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "simulator")]

import kernels  # noqa: E402
import stage  # noqa: E402
import torch  # noqa: E402
from metal_simulator import Library  # noqa: E402
from simulated_launcher import SimulatedLauncher  # noqa: E402

COLD, CACHED = 2.0, 0.020  # seconds to compile a kernel; to load it compiled
RUN, CHECKED = 1.0, 12  # seconds for 1024 x 1024 without checks; times as long with them
TEACHING = {"matmul": "matmul_half", "scan": "scan", "collectives": "histogram"}
FORWARD = ("f16_d64", "bf16_d128", "f32_d256")


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compile_times() -> list:
    """(kernel, seconds with an empty cache, seconds with a full one)."""
    folder, forward = ROOT / "simulator" / "tests" / "kernels", ROOT / "flash_sdpa" / "attention_forward.metal"
    wanted = [(folder / f"{file}.metal", name, {}) for file, name in TEACHING.items()]
    constants = dict.fromkeys(
        re.findall(r"constant bool (\w+)", (ROOT / "flash_sdpa" / "function_constants.h").read_text()), False
    )
    for part in FORWARD:
        name = next(n for n in Library(forward).kernels if n.startswith(f"attention_forward_{part}_"))
        wanted.append((forward, name, constants))
    Library(folder / "row_sum.metal").kernel("row_sum_half")  # the runtime is compiled once for all kernels
    times = []
    for path, name, values in wanted:
        cold = timed(lambda: Library(path).kernel(name, values))  # noqa: B023
        times.append((name, cold, min(timed(lambda: Library(path).kernel(name, values)) for _ in range(3))))  # noqa: B023
    return times


def seconds(kernel, length: int, check: bool, rounds: int) -> float:
    """Median time of one call; the kernel is compiled before."""
    query, key, value = torch.randn(3, 1, length, 1, 64, dtype=torch.float16)
    with kernel.launchers.use_launcher(SimulatedLauncher(check=check)):
        kernel.flash_attn_func(query[:, :8], key[:, :8], value[:, :8])
        return statistics.median(timed(lambda: kernel.flash_attn_func(query, key, value)) for _ in range(rounds))


def compare_with_goals() -> bool:
    """Prints every figure; whether all are as good as they should be."""
    good = True
    with tempfile.TemporaryDirectory(prefix="simulator-") as scratch:
        former, os.environ["METAL_SIMULATOR_CACHE"] = os.environ.get("METAL_SIMULATOR_CACHE"), f"{scratch}/cache"
        for name, cold, cached in compile_times():
            good = good and cold <= COLD and cached <= CACHED
            print(f"{name:45} compiled in {cold:.2f} s (goal {COLD:.0f}), loaded in {cached * 1e3:.1f} ms (goal 20)")
        os.environ.pop("METAL_SIMULATOR_CACHE")
        if former is not None:
            os.environ["METAL_SIMULATOR_CACHE"] = former
        stage.stage(pathlib.Path(scratch) / "build")
        kernel = kernels.get_local_kernel(pathlib.Path(scratch) / "build")
        for length in (512, 1024):
            plain, checked = seconds(kernel, length, False, 5), seconds(kernel, length, True, 3)
            good = good and plain <= RUN and checked <= CHECKED * plain
            print(
                f"{length} x {length}: {plain:.3f} s (goal {RUN:.0f}); with checks {checked:.3f} s, "
                f"{checked / plain:.1f} x (goal {CHECKED})"
            )
    return good


if __name__ == "__main__":
    sys.exit(0 if compare_with_goals() else 1)
