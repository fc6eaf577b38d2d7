"""The run-time launcher, as far as Linux reaches.

A stand-in for torch.mps.compile_shader runs the text that would go to Apple's compiler on the simulator, with what the
launcher binds.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import recorded
import torch
from cases import LENGTHS, max_lengths, packed
from metal_simulator import Library
from shader_library import ShaderLibrary
from simulated_launcher import SimulatedLauncher


@pytest.fixture
def runtime(metal_kernel, monkeypatch, tmp_path):
    """The module launching.runtime of the torch-metal variant, and the libraries it compiled."""
    module = importlib.import_module(f"{metal_kernel.__name__}.launching.runtime")
    compiled = []

    def compile_shader(text):
        folder = tmp_path / str(len(compiled))
        folder.mkdir()
        compiled.append(ShaderLibrary(text, folder))
        return compiled[-1]

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    module._kernel.cache_clear()
    yield module, compiled
    module._kernel.cache_clear()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_same_bits_as_function_constants(metal_kernel, runtime, dtype, with_lse):
    module, compiled = runtime
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 64, dtype)
    results = []
    for launcher in (module.RuntimeLauncher(), SimulatedLauncher()):
        with metal_kernel.launchers.use_launcher(launcher):
            results.append(
                metal_kernel.flash_attn_varlen_func(
                    query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k), causal=True, return_attn_probs=with_lse
                )
            )
    outputs = [result[0] if with_lse else result for result in results]
    assert torch.equal(*outputs)
    assert not with_lse or torch.equal(results[0][1], results[1][1])
    assert len(compiled) == 1


def test_text_is_self_contained_and_strict(metal_kernel, runtime):
    module, compiled = runtime
    query = torch.randn(2, 40, 4, 128, dtype=torch.float16)
    with metal_kernel.launchers.use_launcher(module.RuntimeLauncher()):
        for _ in range(3):
            metal_kernel.flash_attn_func(query, query, query)
    [library] = compiled  # compiled once, kept
    text = library.path.read_text()
    assert '#include "' not in text and "function_constant" not in text
    [kernel] = library.library.kernels
    assert kernel.startswith("attention_forward_f16_d128_v128_")
    assert not [finding for finding in library.library.check() if finding.severity == "error"]


def test_compiler_errors_name_the_specialisation(metal_kernel, runtime, monkeypatch):
    module, _ = runtime

    def compile_shader(text):
        raise SyntaxError("program_source:3:1: error: unknown type name 'flaot'")

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    query = torch.randn(1, 4, 1, 64)
    with metal_kernel.launchers.use_launcher(module.RuntimeLauncher()):
        with pytest.raises(RuntimeError, match="attention_forward_f32_d64.*is_aligned.*unknown type name 'flaot'"):
            metal_kernel.flash_attn_func(query, query, query)


def test_one_kernel_of_the_table_is_instantiated(metal_kernel, runtime, tmp_path):
    """Each by its own line, and by no other."""
    kernels = metal_kernel.planning.tiles.KERNELS
    for name in [next(name for name in kernels if name.endswith(loader)) for loader in ("staged", "direct")]:
        text = runtime[0].specialised_source("attention_forward.metal", name, ())
        tile, dtype = kernels[name]
        assert [line for line in text.splitlines(True) if line.startswith("INSTANTIATE(")] == [tile.instance(dtype)]
        folder = tmp_path / name
        folder.mkdir()
        assert ShaderLibrary(text, folder).library.kernels == (name,)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("function", "loader"),
    [(name, loader) for name in ("forward", "backward_queries") for loader in ("unit", "unit_rereads")]
    + [("backward_keys", "unit")],
)
def test_a_unit_kernel_s_text(metal_kernel, runtime, tmp_path, function, loader):
    """Self-contained; strict as Metal 4, and without any kernel, or any error, where the guard does not hold."""
    module = importlib.import_module(
        f"{metal_kernel.__name__}.planning.{'tiles' if function == 'forward' else 'backward_tiles'}"
    )
    name = next(name for name in module.UNIT_KERNELS if f"_{function}_" in name and name.endswith(f"_{loader}"))
    constants = (("has_bias", True), ("writes_lse", True), ("is_paged", True), ("stores_weights", True))
    text = runtime[0].specialised_source(f"attention_{function.partition('_')[0]}_unit.metal", name, constants)
    assert '#include "' not in text and "function_constant" not in text
    path = tmp_path / "specialised.metal"
    path.write_text(text, encoding="ascii")
    library = Library(path, language="metal4.0", deployment_target="26.2")
    assert library.kernels == (name,)
    assert [found for found in library.check() if found.severity == "error"] == []
    for system in (
        {"language": "metal4.0", "deployment_target": "26.0"},
        {"language": "metal3.1", "deployment_target": "26.2"},
        {},
    ):
        other = Library(path, **system)
        assert other.kernels == ()
        if function == "backward_keys":  # the guard is the same in all
            assert [found for found in other.check() if found.severity == "error"] == []


def test_the_compiled_launcher_leaves_run_time_kernels_to_the_other(metal_kernel, runtime, monkeypatch):
    """Whose text is in the package of every variant."""
    compiled = importlib.import_module(f"{metal_kernel.__name__}.launching.compiled")
    monkeypatch.setattr(runtime[0], "_KERNELS", None)  # there is no such folder in a compiled variant
    refuse = SimpleNamespace(default=lambda *_: pytest.fail("not in the library"))
    launcher = compiled.CompiledLauncher(SimpleNamespace(launch_kernel=refuse, describe_pipeline=refuse))
    query = torch.randn(1, 40, 2, 64).half()
    device = metal_kernel.device.Device(10, 10, matrix_unit=True)
    results = []
    for each in (launcher, SimulatedLauncher()):
        with metal_kernel.launchers.use_launcher(each, device):
            results.append(metal_kernel.flash_attn_func(query, query, query, causal=True))
    assert torch.equal(*results) and len(runtime[1]) == 1


def test_a_kernel_that_the_table_lacks(runtime):
    with pytest.raises(RuntimeError, match="no kernel attention_forward_f16_d8 in attention_forward.metal: .* none"):
        runtime[0].specialised_source("attention_forward.metal", "attention_forward_f16_d8", ())


def test_without_mps(metal_kernel, monkeypatch):
    """torch's own function, which finds no GPU."""
    runtime = importlib.import_module(f"{metal_kernel.__name__}.launching.runtime")
    runtime._kernel.cache_clear()
    query = torch.randn(1, 4, 1, 64)
    with metal_kernel.launchers.use_launcher(runtime.RuntimeLauncher()):
        with pytest.raises(RuntimeError, match="Metal kernels need a Mac with Apple silicon.*tensors on the CPU"):
            metal_kernel.flash_attn_func(query, query, query)


def test_a_kernel_that_the_library_refuses(metal_kernel, runtime, monkeypatch):
    class Library:
        def __getattr__(self, name):
            raise RuntimeError(f"Failed to create function state object for: {name}")

    monkeypatch.setattr(torch.mps, "compile_shader", lambda text: Library())
    monkeypatch.setattr("platform.mac_ver", lambda: ("13.6.1", ("", "", ""), "arm64"))
    query = torch.randn(1, 4, 1, 64)
    message = r"on macOS 13.6.1 \(the kernels need 14 or newer\), the GPU refuses attention_forward_f32_d64.*Failed to"
    with metal_kernel.launchers.use_launcher(runtime[0].RuntimeLauncher()):
        with pytest.raises(RuntimeError, match=message):
            metal_kernel.flash_attn_func(query, query, query)


def test_a_build_without_kernels_says_what_to_do(kernel):
    assert kernel.launchers.available() == {}
    with pytest.raises(RuntimeError, match="this build has no Metal kernels: .*install the wheel"):
        kernel.launchers.metal()


@pytest.mark.parametrize(
    ("name", "cores", "expected"),
    [
        ("Apple M1", 7, (7, 7)),
        ("Apple M2 Ultra", 76, (8, 76)),
        ("Apple M3 Max", 40, (9, 40)),
        ("Apple M4", 10, (9, 10)),
        ("Apple M5 Pro", 20, (10, 20)),
        ("Apple M17", 64, ("newest", 64)),
        ("Apple Paravirtual device", 0, (7, 8)),
        ("AMD Radeon Pro 5500M", 24, (7, 24)),
        ("", 0, (7, 8)),
    ],
)
def test_the_gpu_by_its_name(metal_kernel, monkeypatch, name, cores, expected):
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: name)
    monkeypatch.setattr(torch.backends.mps, "get_core_count", lambda: cores)
    [target] = metal_kernel.launchers.available().values()
    family, cores = expected
    newest = metal_kernel.device.FAMILIES[-1]
    assert target.device == metal_kernel.device.Device(newest if family == "newest" else family, cores)


def test_a_torch_that_does_not_tell_the_gpu(metal_kernel, monkeypatch):
    monkeypatch.delattr(torch.backends.mps, "get_core_count")
    [target] = metal_kernel.launchers.available().values()
    assert target.device == metal_kernel.launchers.SMALLEST


def test_a_pipeline_is_described_without_the_kernel_s_own_limit(metal_kernel, runtime, monkeypatch):
    """torch's kernels tell what the GPU allows them; only the text without the limit gives the GPU's own figure."""
    module, compiled = runtime

    def compile_shader(text):
        compiled.append(text)
        is_limited = "max_total_threads_per_threadgroup" in text
        return type("Library", (), {"__getattr__": lambda self, name: StandIn(256 if is_limited else 832)})()

    class StandIn:
        static_thread_group_memory_length, thread_execution_width = 9216, 32

        def __init__(self, threads):
            self.max_threads_per_threadgroup = threads

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    plan = planned(metal_kernel)[0]
    found = module.RuntimeLauncher().describe(plan)
    assert (found.max_threads, found.is_capped, found.threadgroup_bytes, found.simd_width) == (832, False, 9216, 32)
    assert found.compile_ms > 0
    limited, free = compiled
    limit = ", max_total_threads_per_threadgroup(kRowGroups * kSlices * kKeyGroups * kSimdWidth)"
    assert limit in limited and limited.replace(limit, "") == free
    module.RuntimeLauncher().describe(plan)
    assert compiled[2:] == [free]  # the one that is launched is kept


def planned(metal_kernel):
    """The plans of a split call, which two kernels run."""
    plans = recorded.Plans()
    query = torch.randn(1, 1, 4, 64, dtype=torch.float16)
    key = torch.randn(1, 600, 4, 64, dtype=torch.float16)
    with metal_kernel.launchers.use_launcher(plans):
        metal_kernel.flash_attn_with_kvcache(query, key, key, num_splits=3)
    return [plan for plan, _ in plans.seen]


@pytest.mark.parametrize("source", ["attention_forward.metal", "attention_combine.metal"])
def test_a_kernel_without_its_limit_is_the_same_but_for_it(metal_kernel, runtime, source, tmp_path):
    module, _ = runtime
    [plan] = [each for each in planned(metal_kernel) if each.source == source]
    text = module.specialised_source(plan.source, plan.kernel, plan.constants)
    free = module.without_limit(text)
    assert text.count("max_total_threads_per_threadgroup") == 1 and "max_total_threads" not in free
    assert "[[kernel]] void" in free
    library = ShaderLibrary(free, tmp_path).library
    assert plan.kernel in library.kernels
    assert [found for found in library.check() if found.severity == "error"] == []


def test_a_pipeline_that_is_refused_is_not_described(metal_kernel, runtime, monkeypatch):
    def compile_shader(text):
        raise SyntaxError("no")

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    with pytest.raises(RuntimeError, match="the Metal compiler refuses attention_forward_f16_d64.*: no"):
        runtime[0].RuntimeLauncher().describe(planned(metal_kernel)[0])


@pytest.mark.parametrize("waits", [False, True])
def test_a_plan_that_waits_synchronises(metal_kernel, runtime, monkeypatch, waits):
    """And shows what torch says of the GPU."""
    module, _ = runtime
    calls = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.mps, "compile_shader", recorded.ShaderLibraries())
    plan = planned(metal_kernel)[0]._replace(waits=waits)
    given = dict.fromkeys((name for name in plan.arguments if isinstance(name, str)), torch.zeros(1))
    module.RuntimeLauncher()(plan, given)
    assert calls == ["synchronize"] * waits

    def fail():
        raise RuntimeError("Caused GPU Timeout Error")

    monkeypatch.setattr(torch.mps, "synchronize", fail)
    if waits:
        with pytest.raises(RuntimeError, match="the GPU has ended attention_forward_f16_d64.*Caused GPU Timeout Error"):
            module.RuntimeLauncher()(plan, given)
