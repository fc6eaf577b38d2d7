"""Packed vectors are operands of arithmetic, swizzled too."""

import numpy as np
from checked_launch import launch_clean

X = np.arange(1, 9, dtype=np.float32)


def test_packed_vectors_as_operands(written):
    text = "kernel void f(device packed_float3* p, constant packed_float3& q, device float* x) {\n"
    text += "  packed_float3 w = p[0];\n  float3 a = w * 2.0f + p[0] * p[1] - 1.0f * q;\n"
    text += "  p[1] = w + w;\n  x[0] = a.x, x[1] = a.y, x[2] = a.z;\n"
    text += "  x[3] = (p[0].zy + q.xz).y;\n}"
    p, q, x = X[:6].reshape(2, 3).copy(), X[2:5].copy(), np.zeros(4, np.float32)
    launch_clean(written(text), "f", [p, q, x])
    assert np.array_equal(x, [*(X[:3] * 2 + X[:3] * X[3:6] - q), 2 + 5]) and np.array_equal(p[1], X[:3] * 2)
