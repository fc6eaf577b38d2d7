"""The back end for NVIDIA GPUs, as far as a machine without one can tell: kernels become cubins, and what is in them.

Level: assembled for sm_90; nothing here runs on a GPU. Skipped where there is no ptxas.
"""

from __future__ import annotations

import os
import pathlib

import pytest
from clangs import since
from metal_simulator import CompileError, LaunchError, Library, ToolchainError
from metal_simulator.nvidia import archive
from metal_simulator.nvidia.compile import build, max_threads
from metal_simulator.nvidia.driver import threadgroups
from metal_simulator.nvidia.tools import find_assembler

TEACHING = sorted((pathlib.Path(__file__).resolve().parents[1] / "kernels").glob("**/*.metal"))


def missing() -> str:
    try:
        find_assembler()
    except ToolchainError as error:
        return str(error)
    return ""


needs_ptxas = pytest.mark.skipif(bool(missing()), reason=missing())


def _marked(path):
    marks = [since(19, "makes ++ of a bfloat an addition of other types")] if path.stem == "bfloat" else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.sampled(4)
@needs_ptxas
@pytest.mark.parametrize("path", [_marked(path) for path in TEACHING])
def test_teaching_kernels(path):
    library = Library(path, [path.parent])
    for name in library.kernels:
        resources = build(library, name, threads=256).description["resources"]
        assert resources["spilled_bytes"] == resources["generic_accesses"] == 0, (name, resources)


@needs_ptxas
def test_constants_are_compiled_in_or_left_to_the_host(library):
    variants = library("variants")
    whole = build(variants, "affine", {"scale": 2, "has_bias": True, "offset": 1.0})
    assert whole.description["unset"] == []
    left = build(variants, "affine", {"scale": 2, "offset": 1.0})
    assert left.description["unset"] == ["has_bias"]
    assert b"metal_unset_has_bias" in left.cubin and b"metal_unset" not in whole.cubin


@needs_ptxas
def test_matrix_modes_differ(library):
    exact, fast = (build(library("matmul"), "matmul_half", matrix=matrix).cubin for matrix in ("exact", "fast"))
    assert exact != fast
    with pytest.raises(CompileError, match="matrix is one of exact, fast, not 'quick'"):
        build(library("matmul"), "matmul_half", matrix="quick")


@needs_ptxas
def test_stacks_are_counted(written):
    text = """
kernel void f(device float* x [[buffer(0)]], device const int* n [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  float own[8];
  for (int k = 0; k < 8; k++) own[n[k] & 7] = x[k];
  x[i] = own[n[i] & 7];
}
"""
    resources = build(written(text), "f").description["resources"]
    assert resources["stack_bytes"] > 0 and resources["generic_accesses"] == 0


@needs_ptxas
def test_generic_accesses_are_counted(written):
    text = """
kernel void f(device float* x [[buffer(0)]], device const ulong* n [[buffer(1)]], uint i [[thread_position_in_grid]]) {
  x[i] = *(thread float*)n[i];
}
"""
    assert build(written(text), "f").description["resources"]["generic_accesses"] == 1


@needs_ptxas
@pytest.mark.parametrize("attribute", ["noinline", "optnone"])
def test_every_function_is_inlined(written, attribute):
    text = f"""
__attribute__(({attribute})) static float square(float x) {{ return x * x; }}
kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {{ x[i] = square(x[i]); }}
"""
    resources = build(written(text), "f").description["resources"]
    assert resources["stack_bytes"] == resources["generic_accesses"] == 0


@needs_ptxas
def test_too_much_threadgroup_memory(written):
    text = """
kernel void f(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  threadgroup float big[8200];
  big[i % 8200] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = big[(i + 1) % 8200];
}
"""
    with pytest.raises(CompileError, match="32800 bytes of threadgroup memory; the limit is 32768"):
        build(written(text), "f")


def test_grids():
    """All threadgroups are launched in one row, so that only their number is bounded."""
    assert threadgroups((2, 266257, 1)) == 532514 and threadgroups((1, 2**31 - 1, 1)) == 2**31 - 1
    assert threadgroups((3, 0, 5)) == 0
    with pytest.raises(LaunchError, match=r"a grid of \(2, 65536, 16384\) is 2147483648 threadgroups; CUDA's limit is"):
        threadgroups((2, 65536, 16384))


def test_threads_by_attribute(written):
    text = """
constant constexpr short kMost = 96;
[[kernel, max_total_threads_per_threadgroup(64)]] void f(device float* x [[buffer(0)]]) { x[0] = 1; }
[[kernel, max_total_threads_per_threadgroup(kMost)]] void g(device float* x [[buffer(0)]]) { x[0] = 1; }
[[kernel, max_total_threads_per_threadgroup(2 * kMost)]] void h(device float* x [[buffer(0)]]) { x[0] = 1; }
[[kernel]] void i(device float* x [[buffer(0)]]) { x[0] = 1; }
"""
    assert [max_threads(written(text), name) for name in "fghi"] == [64, 96, None, None]


@needs_ptxas
def test_unknown_kernel(library):
    with pytest.raises(CompileError, match="no kernel 'row_summ'"):
        build(library("row_sum"), "row_summ")


def test_missing_ptxas(monkeypatch):
    monkeypatch.setenv("METAL_SIMULATOR_PTXAS", "/no/such/ptxas")
    with pytest.raises(ToolchainError, match="METAL_SIMULATOR_PTXAS names '/no/such/ptxas'"):
        find_assembler()


def test_something_else_as_ptxas(monkeypatch):
    monkeypatch.setenv("METAL_SIMULATOR_PTXAS", "true")
    with pytest.raises(ToolchainError, match="is not ptxas"):
        find_assembler()


@needs_ptxas
def test_archive(library, tmp_path):
    program = build(library("row_sum"), "row_sum_float")
    keys = [
        archive.Key.of("row_sum.metal", "row_sum_float", constants, "exact") for constants in ({}, {"b": 1, "a": 2})
    ]
    archive.write(tmp_path / "programs.zip", [(key, program) for key in keys])
    read = archive.Archive(tmp_path / "programs.zip")
    assert read.keys == tuple(keys) and keys[1].constants == (("a", 2), ("b", 1))
    assert read.get(keys[1]) == program
    assert read.get(keys[0]._replace(matrix="fast")) is None


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="has an NVIDIA GPU")
@needs_ptxas
def test_no_driver(library):
    from metal_simulator.nvidia.driver import LoadedProgram

    with pytest.raises((ToolchainError, LaunchError)):
        LoadedProgram(build(library("row_sum"), "row_sum_float"), {})


@needs_ptxas
def test_products_of_cooperative_tensors_are_refused():
    source = pathlib.Path(__file__).resolve().parents[1] / "matrix_unit" / "products.metal"
    library = Library(source, language="metal4.0", deployment_target="26.2")
    with pytest.raises(CompileError, match="MetalPerformancePrimitives.h.* are not there on NVIDIA GPUs"):
        build(library, "by_layout", threads=32)
