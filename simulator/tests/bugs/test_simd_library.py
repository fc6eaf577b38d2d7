"""The types of <simd/simd.h> are those of Metal."""

import numpy as np
from checked_launch import launch_clean

X = np.arange(1, 9, dtype=np.float32)


def test_the_simd_library(written):
    text = "#include <simd/simd.h>\nstruct P { simd_float4 a; vector_uint2 b; matrix_float2x2 m; simd::float2 c; };\n"
    text += "kernel void f(constant P& p, device float* x) { x[0] = p.a.w + p.b.y + (p.m * p.c).x; }"
    p = np.concatenate([X[:4], np.uint32([5, 6]).view(np.float32), X[:6]])
    x = np.zeros(1, np.float32)
    launch_clean(written(text), "f", [p, x])
    assert x[0] == 4 + 6 + (1 * 5 + 3 * 6)
