"""Both launchers run the same plan; the compiled one, launch.mm itself, on stand-ins for Metal and torch's stream.

LAUNCHER_CASES is how many problems the specialised sources are taken from; `make launchers` takes 300.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compiled_standin
import pytest
import recorded
import torch
from shader_library import ShaderLibrary
from simulated_launcher import SimulatedLauncher, _compiled

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stands in for a Mac on Linux")
CASES = int(os.environ.get("LAUNCHER_CASES", "4"))
BYTES = torch.arange(24, dtype=torch.uint8)


def module(kernel, name: str):
    return importlib.import_module(f"{kernel.__name__}.{name}")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return compiled_standin.build(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def standin(library):
    """The operators of the stand-ins and of the compiled launcher."""
    torch.ops.load_library(library)
    return torch.ops.metal_standin, getattr(torch.ops, compiled_standin.NAMESPACE)


@pytest.fixture(autouse=True)
def no_calls(request):
    """Every test begins with none recorded."""
    if "standin" in request.fixturenames:
        request.getfixturevalue("standin")[0].take_calls()


@pytest.fixture
def setting(standin):
    """Sets how the stand-ins behave, for one test."""
    names = []

    def set_one(name: str, value: str) -> None:
        names.append(name)
        standin[0].set(name, value)

    yield set_one
    for name in names:
        standin[0].set(name, "")


def plans_of(kernel, count: int):
    """(plan, tensors) of every launch of random problems on all features, for several GPUs."""
    cases, launchers = module(kernel, "selftest.cases"), kernel.launchers
    devices = [launchers.SMALLEST, launchers.Device(8, 38), launchers.Device(9, 40), launchers.Device(10, 10)]
    plans = recorded.Plans()
    for number, case in enumerate(cases.random_cases(count, 1)):
        function, arguments = cases.call(case, torch.device("cpu"))
        if number % 4 == 1:
            arguments["dropout_p"] = 0.25
        with launchers.use_launcher(plans, devices[number % len(devices)]):
            function(**arguments)
        if number % 4 == 0:
            plans.seen += plans_of_decode(kernel, arguments["query" if "query" in arguments else "q"].dtype)
    return plans.seen


def plans_of_decode(kernel, dtype):
    """Of keys in parts, and of appending to the rows of a cache, and to pages, with rotation."""
    plans, parts = recorded.Plans(), recorded.Plans()
    q, k, v, angles = (torch.randn(2, 1, heads, 16, dtype=dtype) for heads in (4, 2, 2, 24))
    caches = [torch.randn(3, 16, 2, 16, dtype=dtype) for _ in range(2)]
    lengths, rotary = (
        torch.tensor([3, 15]),
        dict.fromkeys(("rotary_cos", "rotary_sin"), angles[0, 0, :, :5].contiguous()),
    )
    table = torch.tensor([[2], [0]], dtype=torch.int32)
    with kernel.launchers.use_launcher(plans):
        kernel.flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=lengths, cache_batch_idx=table[:, 0].long())
        kernel.flash_attn_with_kvcache(q, *caches, k, v, cache_seqlens=lengths.int(), block_table=table, **rotary)
    with kernel.launchers.use_launcher(parts):
        kernel.flash_attn_with_kvcache(q, *(cache[:2] for cache in caches), num_splits=2)
    return parts.seen + [each for each in plans.seen if each[0].source == "cache_append.metal"]


def compiled_launch(kernel, standin, plan, tensors) -> recorded.Launch:
    metal, operators = standin
    launcher = module(kernel, "launching.compiled").CompiledLauncher(operators)
    launcher(plan, on_mps(metal, tensors))
    return recorded.of_calls(metal.take_calls())


def on_mps(metal, given) -> dict:
    return {name: metal.as_mps(each) if isinstance(each, torch.Tensor) else each for name, each in given.items()}


def test_both_launchers_bind_the_same(metal_kernel, standin, monkeypatch) -> None:
    libraries = recorded.ShaderLibraries()
    monkeypatch.setattr(torch.mps, "compile_shader", libraries)
    runtime = module(metal_kernel, "launching.runtime")
    runtime._kernel.cache_clear()
    plans = plans_of(metal_kernel, 400)
    assert len(plans) > 300 and len({plan.kernel for plan, _ in plans}) > 20 and len({plan for plan, _ in plans}) > 300
    for plan, tensors in plans:
        runtime.RuntimeLauncher()(plan, tensors)
        by_runtime, by_compiled = libraries.launches.pop(), compiled_launch(metal_kernel, standin, plan, tensors)
        unbound = {index for index, argument in enumerate(plan.arguments) if argument is None}
        assert all(by_runtime.bound.pop(index) == tensors["query"].data_ptr() for index in unbound)
        extra = {
            name: by_runtime.constants.pop(name) for name in set(by_runtime.constants) - set(by_compiled.constants)
        }
        assert not any(extra.values())  # constants that the kernel does not use
        assert by_runtime == by_compiled
        assert by_compiled == expected_launch(plan, tensors)
    runtime._kernel.cache_clear()


def expected_launch(plan, tensors) -> recorded.Launch:
    """Straight from the plan's definition."""
    buffers = [tensors[argument] if isinstance(argument, str) else argument for argument in plan.arguments]
    bound = {
        index: buffer.data_ptr() if isinstance(buffer, torch.Tensor) else buffer.data
        for index, buffer in enumerate(buffers)
        if buffer is not None
    }
    return recorded.Launch(plan.kernel, dict(plan.constants), bound, plan.grid, plan.threads)


@pytest.mark.nightly
def test_specialised_sources_are_strict_and_give_the_same_bits(metal_kernel, tmp_path) -> None:
    runtime = module(metal_kernel, "launching.runtime")
    sources = {}
    for plan, tensors in plans_of(metal_kernel, CASES):
        key = plan.source, plan.kernel, plan.constants
        if key not in sources:
            folder = tmp_path / str(len(sources))
            folder.mkdir()
            sources[key] = ShaderLibrary(runtime.specialised_source(*key), folder)
            assert sources[key].library.kernels.count(plan.kernel) == 1
            assert [found for found in sources[key].library.check() if found.severity == "error"] == []
        assert results(launch_specialised(sources[key]), plan, tensors) == results(SimulatedLauncher(), plan, tensors)
    _compiled.cache_clear()
    assert sources


def launch_specialised(library: ShaderLibrary):
    def launch(plan, tensors):
        given = [tensors["query"] if buffer is None else buffer for buffer in plan.buffers(tensors)]
        buffers = [buffer if isinstance(buffer, torch.Tensor) else list(buffer.values()) for buffer in given]
        threads = [groups * threads for groups, threads in zip(plan.grid, plan.threads)]
        getattr(library, plan.kernel)(*buffers, threads=threads, group_size=plan.threads)

    return launch


def results(launcher, plan, tensors) -> list[bytes]:
    """What the launch leaves in copies of all tensors, bit by bit; those that it only writes begin as zeros."""
    inputs = {"query", "key", "value", "dropout"}
    copies = {name: tensor if name in inputs else tensor.clone() for name, tensor in tensors.items()}
    for name in ("output", "lse", "row_softmax", "partial_output", "partial_softmax"):
        if name in copies:
            copies[name].zero_()
    launcher(plan, copies)
    written = (copy for name, copy in copies.items() if name not in inputs and copy.dim())
    return [copy.contiguous().view(torch.uint8).numpy().tobytes() for copy in written]


def launch(
    standin,
    kernel="kernel",
    constants=("a",),
    values=(True,),
    buffers=None,
    grid=(1, 1, 1),
    threads=(32, 1, 1),
    waits=False,
):
    tensors = [standin[0].as_mps(torch.zeros(1)), *([BYTES] if buffers is None else buffers)]
    standin[1].launch_kernel(kernel, constants, values, tensors, grid, threads, waits)


def test_a_tensor_is_bound_with_its_offset(standin) -> None:
    tensor = torch.zeros(5, 7, dtype=torch.float16)[2:, 3:]
    launch(standin, "offset", buffers=[None, standin[0].as_mps(tensor), BYTES])
    found = recorded.of_calls(standin[0].take_calls())
    assert set(found.bound) == {0, 2, 3}
    assert found.bound[2] == tensor.data_ptr() and found.bound[3] == bytes(range(24))


def test_every_object_is_released_or_kept_as_the_table_says(standin) -> None:
    """launch.mm, Ownership."""
    before = len(standin[0].counts("pipeline"))
    for _ in range(3):
        launch(standin, "owned", ("a", "b"), (True, False))
        launch(standin, "owned", ("a", "b"), (False, False))
    counts = standin[0].counts
    assert counts("library") == [1] and set(counts("encoder")) == {1} and counts("device") == [1]
    assert set(counts("pipeline")) == {1} and len(counts("pipeline")) == before + 2
    for temporary in ("function", "MTLFunctionConstantValues", "process", "string", "error"):
        assert set(counts(temporary)) <= {0}, temporary
    assert standin[0].open_pools() == 0


def test_a_pipeline_is_described_and_made_once(metal_kernel, standin, setting) -> None:
    launcher = module(metal_kernel, "launching.compiled").CompiledLauncher(standin[1])
    plan, tensors = plans_of(metal_kernel, 1)[0]
    plan = plan._replace(kernel="described")
    setting("threads", "768")
    setting("slow", "yes")
    before = len(standin[0].counts("pipeline"))
    first, second = launcher.describe(plan), launcher.describe(plan)
    assert first[1:] == second[1:] == (768, True, 12288, 32)
    assert first.compile_ms > 50 > second.compile_ms >= 0
    assert standin[0].take_calls() == [] and standin[0].open_pools() == 0
    launcher(plan, on_mps(standin[0], tensors))
    assert len(standin[0].counts("pipeline")) == before + 1 and set(standin[0].counts("pipeline")) == {1}
    assert set(standin[0].counts("function")) == {0}


@pytest.mark.parametrize("what", ["function", "pipeline"])
def test_a_pipeline_that_cannot_be_made_is_not_described(standin, setting, what: str) -> None:
    setting(what, "it is not there")
    with pytest.raises(RuntimeError, match="it is not there"):
        standin[1].describe_pipeline(f"undescribed_{what}", [], [])
    assert standin[0].open_pools() == 0
    with pytest.raises(ValueError, match="constants and values must be as many, got 1 and 2"):
        standin[1].describe_pipeline("kernel", ["a"], [True, False])


def test_every_launch_goes_to_the_stream_that_is_current(standin, setting) -> None:
    launch(standin)
    before = len(standin[0].counts("encoder"))
    setting("other stream", "yes")
    launch(standin)
    assert len(standin[0].counts("encoder")) == before + 1


def test_a_pipeline_is_made_once_when_many_threads_want_it(standin, setting) -> None:
    setting("slow", "yes")
    before = len(standin[0].counts("pipeline"))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: launch(standin, "shared"), range(8)))
    assert len(standin[0].counts("pipeline")) == before + 1
    assert sum(call.startswith("dispatch") for call in standin[0].take_calls()) == 8


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("function", "no kernel missing_function in the Metal library of this build: it is not there.*install it anew"),
        ("pipeline", "the GPU refuses the kernel missing_pipeline: it is not there.*Please report it"),
    ],
)
def test_errors_of_metal(standin, setting, what: str, message: str) -> None:
    setting(what, "it is not there")
    with pytest.raises(RuntimeError, match=message):
        launch(standin, f"missing_{what}")
    assert standin[0].open_pools() == 0 and standin[0].take_calls() == []
    standin[0].set(what, "")
    launch(standin, f"missing_{what}")  # nothing of the failure is cached
    assert len(standin[0].take_calls()) == 4


def test_a_threadgroup_that_the_gpu_cannot_run(standin, setting) -> None:
    setting("threads", "64")
    launch(standin, threads=(32, 2, 1))
    standin[0].take_calls()
    with pytest.raises(RuntimeError, match="runs kernel with at most 64 threads a threadgroup, planned are 96"):
        launch(standin, threads=(32, 3, 1))
    assert standin[0].take_calls() == []


def test_an_error_on_the_queue_reaches_the_caller(standin, setting) -> None:
    setting("encoder", "the stream is lost")
    with pytest.raises(RuntimeError, match="the stream is lost"):
        launch(standin)


def test_only_a_launch_that_waits_waits(metal_kernel, standin) -> None:
    """A plan alone goes on at once; of a chain, each launch but the last waits, and drops the command buffer."""
    launcher = module(metal_kernel, "launching.compiled").CompiledLauncher(standin[1])
    plan, tensors = plans_of(metal_kernel, 1)[0]
    pools = standin[0].open_pools()
    for waits in (False, True):
        launcher(plan._replace(waits=waits), on_mps(standin[0], tensors))
        calls = standin[0].take_calls()
        assert (calls[-1] == "wait") == waits and calls.count("wait") == waits
    assert standin[0].counts("commands") == [0] and standin[0].open_pools() == pools


@pytest.mark.parametrize(
    ("error", "message"), [("Caused GPU Timeout", "Caused GPU Timeout"), ("nil", "no reason given")]
)
def test_an_error_of_the_gpu_is_seen_after_a_wait(standin, setting, error: str, message: str) -> None:
    setting("commands", error)
    pools = standin[0].open_pools()
    launch(standin, "long")  # nobody looks
    with pytest.raises(RuntimeError, match=f"the GPU has ended long or what came before it: {message}.*report it"):
        launch(standin, "long", waits=True)
    assert set(standin[0].counts("commands")) == {0} and standin[0].open_pools() == pools
    assert set(standin[0].counts("error")) <= {0}
    standin[0].set("commands", "")
    launch(standin, "long", waits=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": (1, 0, 1)}, "grid must be three positive numbers, got .*1, 0, 1"),
        ({"threads": (32, 1)}, "threads must be three positive numbers, got .*32, 1"),
        ({"values": ()}, "constants and values must be as many, got 1 and 0"),
        (
            {"buffers": [torch.zeros(2)]},
            "buffer 1 must be on mps, or contiguous bytes on the CPU, got torch.FloatTensor on cpu",
        ),
        ({"buffers": [BYTES[::2]]}, "buffer 1 must be on mps, or contiguous bytes"),
        ({"buffers": [torch.zeros(4097, dtype=torch.uint8)]}, "buffer 1 must have at most 4096 bytes, got 4097"),
    ],
)
def test_arguments_that_no_plan_has(standin, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch(standin, **arguments)
    assert standin[0].take_calls() == []


@pytest.mark.parametrize(("newest", "family"), [(1006, 0), (1007, 7), (1008, 8), (1009, 9), (1010, 10), (1011, 10)])
def test_the_device(standin, setting, newest: int, family: int) -> None:
    setting("family", str(newest))
    description = ("Apple M3 Max", family, 40, 28991029248, "Version 26.1 (Build 25B78)")
    assert standin[1].describe_device() == description


def test_no_device(standin, setting) -> None:
    setting("no device", "yes")
    with pytest.raises(RuntimeError, match="no Metal device: .* keep the tensors on the CPU"):
        standin[1].describe_device()


LIBRARY_DOES_NOT_LOAD = f"""
import sys, torch
torch.ops.load_library(sys.argv[1])
torch.ops.metal_standin.set("library", "language version 4.0 is newer than this system")
tensor = torch.ops.metal_standin.as_mps(torch.zeros(1))
try:
    torch.ops.{compiled_standin.NAMESPACE}.launch_kernel("kernel", [], [], [tensor], [1, 1, 1], [1, 1, 1], False)
except RuntimeError as error:
    print(str(error).splitlines()[0])
"""


def test_a_library_that_does_not_load(library) -> None:
    """In a process of its own, as a library that is loaded stays so."""
    command = [sys.executable, "-c", LIBRARY_DOES_NOT_LOAD, str(library)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.startswith(
        "the Metal library of this build does not load: language version 4.0 is newer than this system. "
        "It needs macOS 26 or newer; on an older one, install the wheel flash-sdpa-metal"
    )
