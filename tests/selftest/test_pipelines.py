"""The self-test describes every pipeline that it uses, once, as the launcher tells it."""

from __future__ import annotations

import importlib
import json

import pytest
import recorded
import torch
from simulated_launcher import SimulatedLauncher


class Gpu(SimulatedLauncher):
    """A launcher that also describes pipelines. The kernels with sinks cannot be."""

    def __init__(self, kernel, threads=(1024, 832), is_capped=False):
        super().__init__()
        self.made, self.threads, self.is_capped = [], threads, is_capped
        self.launched = set()
        self.pipeline = importlib.import_module(f"{kernel.__name__}.planning.plan").Pipeline

    def __call__(self, plan, given):
        self.launched.add((plan.kernel, tuple(name for name, value in plan.constants if value)))
        super().__call__(plan, given)

    def describe(self, plan):
        if dict(plan.constants).get("has_sinks"):
            raise RuntimeError("the GPU refuses\nit")
        self.made.append((plan.kernel, plan.constants))
        number = len(self.made)
        return self.pipeline(10.0 * number, self.threads[number % len(self.threads)], self.is_capped, 4096, 32)


@pytest.fixture
def pipelines(kernel):
    return kernel.selftest.pipelines


@pytest.mark.nightly
def test_the_report_lists_every_pipeline_of_the_problems(kernel) -> None:
    gpu, lines = Gpu(kernel), []
    target = kernel.launchers.Target(gpu, kernel.launchers.SMALLEST)
    result = kernel.selftest.test_launcher(
        "simulated", target, torch.device("cpu"), 9, 3, False, kernel.selftest.display.Show(lines.append)
    )
    assert result["passed"], "\n".join(lines)  # also with pipelines that could not be described
    assert {"has_dropout", "carries_sums"} <= {name for _, constants in gpu.launched for name in constants}
    listed = result["pipelines"]
    assert sorted((entry["kernel"], tuple(entry["constants"])) for entry in listed) == sorted(gpu.launched)
    assert len(gpu.made) == len(set(gpu.made))  # each once, also those that four threads run
    described = [entry for entry in listed if "failed" not in entry]
    refused = [entry for entry in listed if "failed" in entry]
    assert len(described) > 5 and refused and all("has_sinks" in entry["constants"] for entry in refused)
    assert refused[0]["failed"] == "the GPU refuses it"
    assert described[1] == {**described[1], "compile_ms": 20.0, "max_threads": 1024, "is_capped": False,
                            "threadgroup_bytes": 4096, "simd_width": 32}  # fmt: skip
    assert json.loads(json.dumps(listed)) == listed
    printed = "\n".join(lines)
    seconds = 0.01 * sum(range(len(described) + 1))
    slowest = 10 * len(described)
    assert f"  {len(described)} pipelines compiled in {seconds:.1f} s, the slowest in {slowest} ms:" in printed
    assert f"    {described[-1]['kernel']} with {', '.join(described[-1]['constants'])}" in printed
    assert f"  {len(refused)} pipelines not described, {refused[0]['kernel']}" in printed


def entries(*threads: int, is_capped: bool = False) -> list[dict]:
    return [
        {"kernel": f"k{number}", "constants": [], "compile_ms": 1.0, "max_threads": each, "is_capped": is_capped}
        for number, each in enumerate(threads)
    ]


def test_the_classes_of_registers_are_those_of_m1_and_m2(pipelines) -> None:
    printed = "\n".join(pipelines.summary(entries(512, 1024, 512, 500), 7))
    assert "2 pipelines: at most 104 registers a thread, by Mesa's table of M1 and M2" in printed
    assert "threads that a threadgroup may have, without the kernel's own limit:\n   500 in 1 pipelines\n" in printed
    assert "1024 in 1 pipelines: at most 52 registers" in printed
    assert "registers" not in "\n".join(pipelines.summary(entries(512), 9))


def test_a_capped_figure_is_no_class_of_registers(pipelines) -> None:
    printed = "\n".join(pipelines.summary(entries(512, is_capped=True), 7))
    assert "within the kernel's own limit:\n   512 in 1 pipelines" in printed and "registers" not in printed


@pytest.mark.parametrize("silent", [SimulatedLauncher(), recorded.Plans()])
def test_a_launcher_that_describes_nothing(kernel, pipelines, silent) -> None:
    described = pipelines.Described(silent)
    query = torch.randn(1, 4, 1, 64)
    with kernel.launchers.use_launcher(described):
        kernel.flash_attn_func(query, query, query)
    [entry] = described.entries()
    assert "describe" in entry["failed"] and pipelines.summary([entry], 7) == [
        f"1 pipelines not described, {entry['kernel']} with is_aligned: {entry['failed']}"
    ]
