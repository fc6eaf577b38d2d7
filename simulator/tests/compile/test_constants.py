"""Function constants, optional buffers and the cache."""

import struct

import numpy as np
import pytest
from metal_simulator import CompileError, LaunchError, compile
from metal_simulator.source import files

X = np.arange(32, dtype=np.float32)


def run(library, constants, bias=None):
    out = np.full(32, np.nan, np.float32)
    library("variants").kernel("affine", constants).launch([X, out, bias], (1, 1, 1), (32, 1, 1))
    return out


def test_both_values(library):
    assert np.array_equal(run(library, {"has_bias": False, "scale": 3}), X * 3)
    assert np.array_equal(run(library, {"has_bias": True, "scale": -2}, bias=X), X * -2 + X)


def test_optional_constant(library):
    assert np.array_equal(run(library, {"has_bias": False, "scale": 1, "offset": 0.25}), X + 0.25)


def test_optional_buffer_may_be_left_out(library):
    out = np.zeros(32, np.float32)
    variants = library("variants")
    variants.kernel("affine", {"has_bias": False, "scale": 1}).launch([X, out], (1, 1, 1), (32, 1, 1))
    with pytest.raises(LaunchError, match="bias at buffer 2, but only 2 were given"):
        variants.kernel("affine", {"has_bias": True, "scale": 1}).launch([X, out], (1, 1, 1), (32, 1, 1))


def test_unbound_buffer_that_is_used(library):
    kernel = library("variants").kernel("affine", {"has_bias": True, "scale": 1})
    with pytest.raises(LaunchError, match="used buffer 2, which is not bound"):
        kernel.launch([X, X.copy(), None], (1, 1, 1), (32, 1, 1))


@pytest.mark.parametrize(
    "constants, message",
    [
        ({"scale": 1}, "function constant has_bias has no value"),
        ({"has_bias": 1, "scale": 1}, "has_bias is bool, not 1"),
        ({"has_bias": True, "scale": 1.5}, "scale is int, not 1.5"),
        ({"has_bias": True, "scale": True}, "scale is int, not True"),
        ({"has_bias": True, "scale": 2**31}, "out of range"),
        ({"has_bias": True, "scale": 1, "offset": "x"}, "offset is float, not 'x'"),
        ({"has_bais": True}, "no function constant 'has_bais'.*did you mean has_bias"),
    ],
)
def test_wrong_constants(library, constants, message):
    with pytest.raises(CompileError, match=message):
        library("variants").kernel("affine", constants)


def test_extreme_values(written):
    text = "constant long a [[function_constant(0)]];\nconstant ulong b [[function_constant(1)]];\n"
    text += "kernel void f(device long* out) { out[0] = a; out[1] = long(b); }"
    out = np.zeros(2, np.int64)
    written(text).kernel("f", {"a": -(2**63), "b": 2**64 - 1}).launch([out], (1, 1, 1), (1, 1, 1))
    assert out.tolist() == [-(2**63), -1]


@pytest.fixture
def count_clang(monkeypatch, tmp_path):
    """A fresh cache, and the list of tools run."""
    monkeypatch.setenv("METAL_SIMULATOR_CACHE", str(tmp_path / "cache"))
    calls, original = [], compile.run

    def counted(command, **keywords):
        calls.append(command)
        return original(command, **keywords)

    monkeypatch.setattr(compile, "run", counted)
    monkeypatch.setattr(files, "run", counted)
    return calls


def test_cache_hit_runs_no_clang(library, count_clang):
    library("row_sum").kernel("row_sum_half")
    assert count_clang
    count_clang.clear()
    again = library("row_sum")
    again.kernel("row_sum_half")
    assert not count_clang
    again.kernel("row_sum_float")
    assert count_clang


@pytest.mark.parametrize("build", ["check", "nan", "count"])
def test_only_the_build_that_is_asked_for(written, count_clang, tmp_path, build):
    kernel, out = (
        written("kernel void f(device int* out) { out[0] = 1; }").kernel("f", build=build),
        np.zeros(1, np.int32),
    )
    assert kernel.threadgroup_bytes == 0 and [p["name"] for p in kernel.parameters] == ["out"]
    assert len(list((tmp_path / "cache").glob("kernel-*.so"))) == 1
    kernel.launch([out], (1, 1, 1), (1, 1, 1))
    assert out[0] == 1 and len(list((tmp_path / "cache").glob("kernel-*.so"))) == 2


def test_unknown_build(written):
    with pytest.raises(CompileError, match="build is one of run, count, check, nan, not 'fast'"):
        written("kernel void f() {}").kernel("f", build="fast")


def test_cache_sees_changed_headers_and_constants(tmp_path, count_clang):
    from metal_simulator import Library

    header, path, out = tmp_path / "value.h", tmp_path / "f.metal", np.zeros(1, np.int32)
    path.write_text(
        '#include <metal_stdlib>\n#include "value.h"\nconstant int c [[function_constant(0)]];\n'
        "kernel void f(device int* out) { *out = VALUE + c; }"
    )
    for value in (1, 2):
        header.write_text(f"#define VALUE {value}\n")
        for c in (10, 20):
            Library(path).kernel("f", {"c": c}).launch([out], (1, 1, 1), (1, 1, 1))
            assert out[0] == value + c


def test_struct_arguments(written):
    text = "struct P { long a; float b; packed_float3 c; };\n"
    text += "kernel void f(constant P& p, device float* out) { out[0] = p.a + p.b; out[1] = float3(p.c).z; }"
    out = np.zeros(2, np.float32)
    written(text).kernel("f").launch([struct.pack("qffff", 5, 0.5, 1, 2, 3), out], (1, 1, 1), (1, 1, 1))
    assert out.tolist() == [5.5, 3]
