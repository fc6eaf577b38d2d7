"""What public kernels do besides the ordinary: numbers beside NumPy's."""

import numpy as np
import pytest
from metal_simulator import Library

X = np.arange(1, 9, dtype=np.float32)


def launch(library, name, buffers, grid=(1, 1, 1), threads=(1, 1, 1)):
    report = library.kernel(name).launch(buffers, grid, threads, check=True)
    assert [str(finding) for finding in report.findings] == []


def test_right_shifts_of_vectors(written):
    text = "kernel void f(device uint4* x) {\n  auto a = x[0] >> 1u;\n  x[1] = (x[0] >> 2u) & 3u;\n"
    text += "  x[2] = uint4(x[0] >> 3u);\n  x[3] = a;\n  x[4] = uint4(x[0] > 20u);\n}"
    x = np.zeros((5, 4), np.uint32)
    x[0] = [9, 18, 27, 255]
    launch(written(text), "f", [x])
    assert np.array_equal(x[1:], [x[0] >> 2 & 3, x[0] >> 3, x[0] >> 1, x[0] > 20])


INPUTS = """uint3 id [[thread_position_in_grid]];
const uint lane [[thread_index_in_simdgroup]];
namespace n {
constant ushort2 group [[threadgroup_position_in_grid]];
uint place() { return id.x + group.y * 64; }
}
kernel void f(device uint* out) { out[n::place()] = id.x * 100 + lane + (id.y == 1 ? 10000 : 0); }
kernel void g(device uint* out, uint id [[thread_position_in_threadgroup]]) { out[id] = id + lane; }
"""


def test_positions_at_namespace_scope(written):
    library, out, i = written(INPUTS), np.zeros(128, np.uint32), np.arange(128)
    assert library.check() == []
    launch(library, "f", [out], (1, 2, 1), (64, 1, 1))
    assert np.array_equal(out, i % 64 * 100 + i % 32 + i // 64 * 10000)
    launch(library, "g", [out], threads=(64, 1, 1))
    assert np.array_equal(out[:64], i[:64] + i[:64] % 32)


def test_kernels_without_any_include(tmp_path):
    (tmp_path / "plain.metal").write_text(
        "kernel void f(device float4* x, device bfloat* b, uint i [[thread_position_in_grid]]) {\n"
        "  x[i] = float4(b[i]) + float4(x[i].xy, 0, 1);\n}\n"
    )
    library, x, b = Library(tmp_path / "plain.metal"), X.reshape(2, 4).copy(), np.uint16([0x3F80, 0x4000])
    assert library.check() == []
    launch(library, "f", [x, b], threads=(2, 1, 1))
    assert np.array_equal(x, [[2, 3, 1, 2], [7, 8, 2, 3]])


def test_instantiations_in_a_namespace(written):
    text = "namespace n {\nusing number = float;\ntemplate <typename T>\nkernel void f(device T* x) { x[0] += T(1); }\n"
    x = X.copy()
    launch(written(text + 'template [[host_name("f_n")]] kernel void f<number>(device number*);\n}'), "f_n", [x])
    assert x[0] == 2


def test_the_simd_library(written):
    text = "#include <simd/simd.h>\nstruct P { simd_float4 a; vector_uint2 b; matrix_float2x2 m; simd::float2 c; };\n"
    text += "kernel void f(constant P& p, device float* x) { x[0] = p.a.w + p.b.y + (p.m * p.c).x; }"
    p = np.concatenate([X[:4], np.uint32([5, 6]).view(np.float32), X[:6]])
    x = np.zeros(1, np.float32)
    launch(written(text), "f", [p, x])
    assert x[0] == 4 + 6 + (1 * 5 + 3 * 6)


def test_packed_vectors_as_operands(written):
    text = "kernel void f(device packed_float3* p, constant packed_float3& q, device float* x) {\n"
    text += "  packed_float3 w = p[0];\n  float3 a = w * 2.0f + p[0] * p[1] - 1.0f * q;\n"
    text += "  p[1] = w + w;\n  x[0] = a.x, x[1] = a.y, x[2] = a.z;\n"
    text += "  x[3] = (p[0].zy + q.xz).y;\n}"
    p, q, x = X[:6].reshape(2, 3).copy(), X[2:5].copy(), np.zeros(4, np.float32)
    launch(written(text), "f", [p, q, x])
    assert np.array_equal(x, [*(X[:3] * 2 + X[:3] * X[3:6] - q), 2 + 5]) and np.array_equal(p[1], X[:3] * 2)


@pytest.mark.parametrize(
    "declaration", ["threadgroup half y[8] __attribute__((aligned(128)))", "alignas(128) threadgroup half y[8]"]
)
def test_alignment_of_threadgroup_variables(written, declaration):
    text = f"kernel void f(device ulong* x) {{\n  threadgroup char odd[3];\n  {declaration};\n  odd[0] = 1;\n"
    text += "  y[0] = odd[0];\n"
    x = np.ones(1, np.uint64)
    launch(written(text + "  x[0] = (ulong)&y[0] % 128 + ulong(y[0]) - 1;\n}"), "f", [x])
    assert x[0] == 0


def test_casts_between_half_and_bfloat(written):
    text = "kernel void f(device half* h, device bfloat* b) {\n  h[0] = half(b[0]);\n"
    text += (
        "  h[1] = half2(bfloat2(b[0], b[1])).y;\n  b[2] = bfloat(h[2]);\n  h[3] = HUGE_VALH;\n  b[3] = (bfloat)h[3];\n}"
    )
    h, b = np.float16([0, 0, 1.5, 0]), np.uint16([0x3FC0, 0xC000, 0, 0])
    launch(written(text), "f", [h, b])
    assert h.tolist() == [1.5, -2, 1.5, np.inf] and b.tolist() == [0x3FC0, 0xC000, 0x3FC0, 0x7F80]
