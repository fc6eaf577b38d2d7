"""The self-test: right kernels pass it, wrong ones do not, and it says what it did."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reference as independent
import torch
from kernels.cli import benchmark as runner
from simulated_launcher import SimulatedLauncher
from wheel import write_wheel


@pytest.fixture
def selftest(kernel, monkeypatch):
    """The self-test on a machine without an Apple GPU."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return kernel.selftest


def submodule(kernel, name: str):
    return importlib.import_module(f"{kernel.__name__}.{name}")


def run(selftest, **arguments):
    lines = []
    return selftest.run(print_line=lines.append, **arguments), "\n".join(lines)


def test_the_cpu_implementation_passes_and_the_report_says_what_was_tested(selftest, tmp_path: Path) -> None:
    report, printed = run(selftest, count=18, timed=False, path=tmp_path / "report.json")
    assert "no Apple GPU here: this tests the CPU implementation, and nothing of Metal" in printed
    assert report["passed"] and report["machine"]["gpu"] is None and report["machine"]["torch"] == torch.__version__
    result = report["launchers"]["CPU implementation"]
    assert len(result["groups"]) == 9 and all(group["problems"] == 2 for group in result["groups"].values())
    for error in ("output_error", "lse_error", "gradient_error"):
        assert 0 < result["groups"]["float16 packed"][error] <= 1
    assert result["failures"] == [] and result["threads"] == "right"
    assert not {"ranges", "dropout", "append"} & set(result)  # which compare kernels
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_the_kernels_pass_on_the_simulator(kernel, selftest) -> None:
    target = kernel.launchers.Target(SimulatedLauncher(), kernel.launchers.SMALLEST)
    lines = []
    result = selftest.test_launcher(
        "simulated", target, torch.device("cpu"), 9, 3, False, kernel.selftest.display.Show(lines.append)
    )
    assert result["passed"] and result["ranges"] == result["dropout"] == result["append"] == "right", "\n".join(lines)


def test_a_wrong_result_fails(kernel, selftest, monkeypatch) -> None:
    cpu = submodule(kernel, "cpu")
    right = cpu.attention_forward

    def slightly_wrong(output, lse, *inputs):
        right(output, lse, *inputs)
        output.mul_(1.01)

    monkeypatch.setattr(cpu, "attention_forward", slightly_wrong)
    report, printed = run(selftest, count=9, timed=False)
    result = report["launchers"]["CPU implementation"]
    assert not report["passed"] and result["failures"] and result["threads"] == "WRONG"
    assert "WRONG Case(" in printed and "NOT everything is right" in printed


@pytest.mark.sampled(4)
@pytest.mark.parametrize("which", ["query", "key", "value", "sinks"])
@pytest.mark.parametrize("factor", [1.01, 1 + 2e-7, torch.nan], ids=["wrong", "unrepeatable", "nan"])
def test_wrong_gradients_are_seen(kernel, selftest, monkeypatch, which: str, factor: float) -> None:
    cpu = submodule(kernel, "cpu")
    right, calls = cpu.attention_backward, []

    def wrong(*inputs):
        grads = right(*inputs)
        calls.append(which)
        if factor != 1 + 2e-7 or len(calls) % 2:
            getattr(grads, which).mul_(factor)
        return grads

    monkeypatch.setattr(cpu, "attention_backward", wrong)
    report, _ = run(selftest, count=18, timed=False)  # some have sinks
    assert not report["passed"]


@pytest.mark.parametrize("part", ["rotary_cos", "k", "v", "q"])
def test_a_cache_that_grows_wrongly_is_seen(kernel, monkeypatch, part: str) -> None:
    appending = submodule(kernel, "selftest.appending")
    right, calls = appending._arguments, []

    def wrong(*arguments):
        calls.append(right(*arguments))
        if len(calls) == 2:
            calls[1][part][..., 0] += 1
        return calls[-1]

    assert appending.error(torch.float16, True, torch.device("cpu")) == 0
    monkeypatch.setattr(appending, "_arguments", wrong)
    assert appending.error(torch.float16, True, torch.device("cpu")) > 1


@pytest.mark.parametrize("name", ["lse", "nan", "error", "unrepeatable"])
def test_every_kind_of_failure_is_seen(kernel, selftest, monkeypatch, name: str) -> None:
    cpu = submodule(kernel, "cpu")
    right = cpu.attention_forward
    calls = []

    def wrong(output, lse, *inputs):
        right(output, lse, *inputs)
        calls.append(name)
        if name == "error":
            raise RuntimeError("the GPU is on fire")
        if name == "lse":
            lse.add_(1e-3)
        if name == "nan" and output.numel():
            output.view(-1)[0] = torch.nan
        if name == "unrepeatable" and len(calls) % 2 and lse is not None:
            lse.mul_(1 + 2e-7)

    monkeypatch.setattr(cpu, "attention_forward", wrong)
    report, printed = run(selftest, count=3, timed=False)
    assert not report["passed"]
    assert name != "error" or "RuntimeError: the GPU is on fire" in printed


def test_the_standard_shapes_are_right_and_timed(kernel, selftest) -> None:
    workloads = submodule(kernel, "selftest.workloads")
    for name, workload in workloads.WORKLOADS.items():
        problem = workloads.Problem(workload.small(), torch.device("cpu"))
        ours, peer = problem.solve(problem.ours), problem.sdpa() or problem.eager
        assert len(ours) == (4 if workload.trains else 1) and problem.error(*ours) <= 1, name
        for place in range(len(ours)):
            wrong = [result * (1.01 if number == place else 1) for number, result in enumerate(ours)]
            assert problem.error(*wrong) > 1, (name, place)
        for one, other in zip(problem.solve(peer), ours):
            assert torch.allclose(one, other, atol=4e-3 * max(1, other.abs().max())), name
    for name, has_sdpa in (("prefill_gemma", False), ("train_window", True)):
        workload = workloads.WORKLOADS[name].small()
        timings = submodule(kernel, "selftest.timing").time_workload(workload, torch.device("cpu"))
        assert timings["ours_ms"] > 0 and (timings["sdpa_ms"] is not None) == has_sdpa and timings["error"] <= 1


def test_the_problems_meet_every_feature(kernel) -> None:
    cases = submodule(kernel, "selftest.cases").random_cases(300, 0)
    assert len(set(cases)) == 300 and cases == submodule(kernel, "selftest.cases").random_cases(300, 0)
    for feature in ("layout", "dtype", "causal", "window", "softcap", "alibi_dims", "sinks", "strided", "num_heads_kv"):
        assert len({getattr(case, feature) for case in cases}) > 1, feature
    assert any(case.value_dim != case.head_dim for case in cases)
    assert any(queries > keys for case in cases for queries, keys in case.lengths)


def test_problems_without_any_key_pass(kernel) -> None:
    """Whose expected results hang on no input."""
    cases = submodule(kernel, "selftest.cases")
    empty = [case for case in cases.random_cases(1000, 0) if not any(keys for _, keys in case.lengths)]
    assert len({case.dtype for case in empty}) == 3 and any(case.sinks for case in empty)
    empty += [case._replace(layout="packed") for case in empty[:2]]
    for case in empty:
        assert cases.solve(case, torch.device("cpu")).passed, case


def test_its_reference_agrees_with_the_independent_one(kernel) -> None:
    ours = submodule(kernel, "selftest.reference")
    torch.manual_seed(0)
    query, key, value = torch.randn(40, 4, 24), torch.randn(33, 2, 24), torch.randn(33, 2, 16)
    slopes, sinks = torch.rand(4), torch.randn(4)
    for window in ((-1, -1), (-1, 0), (7, 0), (3, 5)):
        found = ours.attention(query, key, value, 0.3, window, 4.0, slopes, sinks)
        expected = independent.attention(
            *(tensor[None] for tensor in (query, key, value)),
            softmax_scale=0.3, window=window, softcap=4.0, alibi_slopes=slopes, sinks=sinks,
        )  # fmt: skip
        assert torch.allclose(found[0], expected[0][0], atol=1e-13)
        assert torch.allclose(found[1], expected[1][0], atol=1e-13)


@pytest.mark.parametrize("is_broken", [False, True])
def test_the_matrix_unit_is_timed_beside_what_serves_without(kernel, selftest, monkeypatch, is_broken: bool) -> None:
    """Of a GPU that has one; a call that fails is a failure."""
    planned_for = []

    def prefill(device, dtype, head_dim, value_dim, tokens):
        assert head_dim == value_dim
        planned_for.append((dtype, head_dim, tokens, device.matrix_unit))
        if is_broken and head_dim == 96 and device.matrix_unit:
            raise RuntimeError("the GPU refuses")
        return 2.0 if device.matrix_unit else 5.0

    monkeypatch.setattr(submodule(kernel, "selftest.timing"), "prefill_milliseconds", prefill)
    monkeypatch.setattr(selftest, "_timings", lambda device, show: {})
    monkeypatch.setattr(selftest, "_numbers", lambda problems, device, show: {"failures": []})  # tested above
    for question in ("_same_in_threads", "_same_in_ranges", "_same_dropout", "_same_caches"):
        monkeypatch.setattr(selftest, question, lambda *about: "right")
    target = kernel.launchers.Target(SimulatedLauncher(), kernel.device.Device(10, 10, matrix_unit=True))
    lines: list[str] = []
    show = submodule(kernel, "selftest.display").Show(lines.append)
    result = selftest.test_launcher("simulated", target, torch.device("cpu"), 1, 0, True, show)
    assert result["passed"] is not is_broken and len(set(planned_for)) == 48 - 6 * is_broken
    first = {"dtype": "f16", "head_dim": 64, "tokens": 512, "with_ms": 2.0, "without_ms": 5.0}
    assert result["matrix_unit"][0] == first
    assert "  f16 d64 512 tokens         2.000     5.000   2.50 ========|===========" in lines
    assert ("  bf16 d96 8192 tokens   FAILED RuntimeError: the GPU refuses" in lines) is is_broken


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheel = write_wheel(tmp_path_factory.mktemp("dist"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*command, str(wheel)], check=True)
    return folder


def command(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "metal_flash_sdpa.selftest", *arguments],
        env={**os.environ, "PYTHONPATH": str(installed)}, cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command(installed: Path, tmp_path: Path) -> None:
    result = command(installed, "--count", "9", "--no-timing", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "everything is right" in result.stderr
    assert result.stdout == "  report: selftest.json\n"  # an issue is for reports of an Apple GPU
    assert json.loads((tmp_path / "selftest.json").read_text())["passed"] is True


def test_the_command_for_programs(installed: Path, tmp_path: Path) -> None:
    """stdout has the report and nothing else; a file is written where one is named."""
    result = command(installed, "--count", "3", "--no-timing", "--json", cwd=tmp_path)
    assert result.returncode == 0 and json.loads(result.stdout)["passed"] is True
    assert "everything is right" in result.stderr and "\x1b" not in result.stderr and not list(tmp_path.iterdir())
    result = command(installed, "--count", "3", "--no-timing", "--json", "--report", "named.json", cwd=tmp_path)
    assert json.loads(result.stdout) == json.loads((tmp_path / "named.json").read_text())


def test_the_command_fails_when_anything_is_wrong(installed: Path, tmp_path: Path) -> None:
    code = """
import sys, metal_flash_sdpa.cpu as cpu
right = cpu.attention_forward
def wrong(output, lse, *inputs):
    right(output, lse, *inputs)
    output.mul_(1.01)
cpu.attention_forward = wrong
from metal_flash_sdpa.selftest.__main__ import main
sys.argv[1:] = ["--count", "3", "--no-timing"]
sys.exit(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert json.loads((tmp_path / "selftest.json").read_text())["passed"] is False


@pytest.mark.parametrize(
    "arguments",
    [("--count", "0"), ("--count", "many"), ("--what",), ("--count", "1", "--no-timing", "--report", "no/such/folder")],
)
def test_bad_arguments_of_the_command(installed: Path, tmp_path: Path, arguments) -> None:
    result = command(installed, *arguments, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr and arguments[-1] in result.stderr


def test_tuning_needs_a_gpu(installed: Path, tmp_path: Path) -> None:
    result = command(installed, "--tune", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr == "selftest: no Apple GPU here: tiles can be timed on a Mac only\n"


def test_the_benchmark_in_the_library_s_convention(kernel, tmp_path: Path, monkeypatch) -> None:
    """As `kernels benchmark` runs it, which finds the methods and verifies each."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "benchmark.py"
    [benchmark] = runner.discover_benchmark_classes(script, tmp_path)
    methods = {name.partition("_")[2] for name in dir(benchmark) if name.startswith("benchmark_")}
    assert methods == set(kernel.selftest.workloads.WORKLOADS)
    monkeypatch.setattr(runner, "get_kernel_sha_from_build_name", lambda kernel: "none")
    folder = str(Path(kernel.__file__).parents[1])
    results, _ = runner.run_benchmark_class(benchmark, 1, 0, folder, is_local=True, revision="local")
    assert set(results) == methods and all(result.verified for result in results.values())


def test_threads_have_streams_of_their_own_where_torch_has_several(selftest, monkeypatch) -> None:
    used = []

    @contextlib.contextmanager
    def stream(which):
        used.append(which)
        yield

    monkeypatch.setattr(torch.mps, "Stream", object, raising=False)
    monkeypatch.setattr(torch.mps, "stream", stream, raising=False)
    for _ in range(2):
        with selftest._own_stream(torch.device("mps")):
            pass
    with selftest._own_stream(torch.device("cpu")):
        pass
    assert len(used) == 2 and used[0] is not used[1]
