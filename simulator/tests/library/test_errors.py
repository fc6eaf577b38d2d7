"""Wrong input gives one clear error; a kernel that misbehaves never harms the process."""

import numpy as np
import pytest
import torch
from metal_simulator import CompileError, LaunchError, Library, ToolchainError

X, OUT = np.zeros((1, 32), np.float16), np.zeros(1, np.float32)
ONE, WARP = (1, 1, 1), (32, 1, 1)


def test_missing_clang(monkeypatch, library):
    monkeypatch.setenv("METAL_SIMULATOR_CLANG", "/nowhere/clang")
    with pytest.raises(ToolchainError, match="METAL_SIMULATOR_CLANG names '/nowhere/clang'"):
        library("row_sum")
    monkeypatch.delenv("METAL_SIMULATOR_CLANG")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match="apt-get install clang-19"):
        library("row_sum")


def test_not_clang(monkeypatch, library):
    monkeypatch.setenv("METAL_SIMULATOR_CLANG", "true")
    with pytest.raises(ToolchainError, match="is not clang"):
        library("row_sum")


def test_clang_that_is_too_old(monkeypatch, library, tmp_path):
    (tmp_path / "clang-16").write_text("#!/bin/sh\necho clang version 16.0.6\n")
    (tmp_path / "clang-16").chmod(0o700)
    monkeypatch.setenv("METAL_SIMULATOR_CLANG", str(tmp_path / "clang-16"))
    with pytest.raises(ToolchainError, match="clang-16 is clang 16; the simulator needs 17 or newer"):
        library("row_sum")


def test_missing_file(tmp_path):
    with pytest.raises(CompileError, match="no such file"):
        Library(tmp_path / "absent.metal")
    with pytest.raises(CompileError, match="include folder .* does not exist"):
        Library(tmp_path / "absent.metal", include=[tmp_path / "absent"])


def test_missing_header(written):
    with pytest.raises(CompileError, match=r"written.metal:3:10: error: 'absent.h' file not found"):
        written('#include "absent.h"\n').kernels  # noqa: B018


def test_compile_error_names_the_users_line(written):
    with pytest.raises(CompileError, match=r"written.metal:4:\d+: error: use of undeclared identifier 'undeclared'"):
        written("kernel void f(device float* out) {\n  *out = undeclared;\n}").kernel("f")


def test_unknown_kernel(library):
    with pytest.raises(CompileError, match="no kernel 'row_sum_hlaf'.*did you mean row_sum_half"):
        library("row_sum").kernel("row_sum_hlaf")


@pytest.mark.parametrize(
    "buffers, message",
    [
        ([X], "takes out at buffer 1, but only 1 were given"),
        ([X, 3.0], "buffer 1 is a float, .*pass a scalar as bytes"),
        ([X, [1.0]], "buffer 1 is a list"),
        ([X, b"1234"], "buffer 1 is bytes, but the kernel may write to it"),
        ([X, torch.zeros(1, device="meta")], "buffer 1 is a tensor on meta"),
        ([X, np.array([None])], "array of Python objects"),
        (7, "buffers is a int, not a sequence"),
        ([X] * 32, "32 buffers"),
    ],
)
def test_wrong_buffers(library, buffers, message):
    with pytest.raises(LaunchError, match=message):
        library("row_sum").kernel("row_sum_half").launch(buffers, ONE, WARP)


def test_read_only_arrays(library):
    kernel = library("row_sum").kernel("row_sum_half")
    frozen, out = X.copy(), OUT.copy()
    frozen.flags.writeable = out.flags.writeable = False
    kernel.launch([frozen, OUT.copy()], ONE, WARP)
    with pytest.raises(LaunchError, match="buffer 1 is a read-only NumPy array"):
        kernel.launch([frozen, out], ONE, WARP)


@pytest.mark.parametrize(
    "grid, threads, order, message",
    [
        (ONE, (1025, 1, 1), "forward", "1025 threads per threadgroup; the limit is 1024"),
        (ONE, (0, 1, 1), "forward", "three positive integers"),
        ((1, 1), WARP, "forward", "grid is three"),
        (3, WARP, "forward", "grid is three"),
        ((1, 1.5, 1), WARP, "forward", "grid is three"),
        (ONE, WARP, "sideways", "order is"),
    ],
)
def test_wrong_shapes(library, grid, threads, order, message):
    with pytest.raises(LaunchError, match=message):
        library("row_sum").kernel("row_sum_half").launch([X, OUT.copy()], grid, threads, order=order)


def test_thread_limit_of_the_kernel(library):
    with pytest.raises(LaunchError, match="64 threads per threadgroup; the limit is 32"):
        library("matmul").kernel("matmul_half").launch([X, X.copy(), X.copy(), b"123456789012"], ONE, (64, 1, 1))


def test_threadgroup_memory_limit(written):
    library = written(
        "kernel void f(device int* out, uint i [[thread_index_in_threadgroup]]) {\n"
        "threadgroup int a[9000]; a[i] = i; threadgroup_barrier(mem_flags::mem_threadgroup); *out = a[i + 1]; }"
    )
    with pytest.raises(CompileError, match="36000 bytes of threadgroup memory; the limit is 32768"):
        library.kernel("f")


@pytest.mark.parametrize(
    "body, message",
    [
        ("if (i < 7) threadgroup_barrier(flags);", "deadlock at threadgroup_barrier: 7 of 64 threads wait, 57 have"),
        ("if (i < 32) threadgroup_barrier(flags); else { out[1] = 2; threadgroup_barrier(flags); out[2] = 3; }",
         "threads at different barriers"),
        ("if (i % 2) out[i] = simd_sum(float(i)); else out[i] = simd_max(float(i));",
         "SIMD group [01] diverged: lane"),
        ("if (i < 40) out[i] = simd_sum(float(i)); else threadgroup_barrier(flags);",
         "SIMD group 1 diverged: lanes 0-7 wait at simd_sum while lanes 8-31 wait at threadgroup_barrier"),
        ("if (i < 40) return; simdgroup_barrier(flags);", "SIMD group 1 is at simdgroup_barrier with 24 of 32 lanes"),
        ("if (i < 40) return; simdgroup_float8x8 a; simdgroup_multiply(a, a, a); out[i] = a.thread_elements()[0];",
         "SIMD group 1 is at simdgroup_multiply_accumulate with 24 of 32 lanes"),
        ("out[i] = 5 / int(out[0]);", "integer division by zero"),
        ("out[ulong(i + 1) << 45] = 1;", "memory fault at address"),
        ("volatile float big[200000]; big[i] = 1; big[0] = 2; out[0] = big[i];", "stack overflow|memory fault"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_misbehaving_kernels(written, body, message, order):
    library = written(
        "kernel void f(device float* out, uint i [[thread_index_in_threadgroup]]) {\n"
        f"  const auto flags = mem_flags::mem_threadgroup;\n  {body}\n}}"
    )
    with pytest.raises(LaunchError, match=message) as error:
        library.kernel("f").launch([np.zeros(64, np.float32)], (3, 1, 1), (64, 1, 1), order=order)
    assert "threadgroup (" in str(error.value)


def test_a_failed_launch_leaves_the_next_one_alone(written, library):
    bad = written("kernel void f(device float* out) { out[1ul << 45] = 1; }").kernel("f")
    for _ in range(3):
        with pytest.raises(LaunchError):
            bad.launch([np.zeros(1, np.float32)], (4, 1, 1), WARP)
        out = np.zeros(1, np.float32)
        library("row_sum").kernel("row_sum_half").launch([np.ones((1, 32), np.float16), out], ONE, WARP)
        assert out[0] == 32
