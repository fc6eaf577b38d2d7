"""Matrices as constants at namespace scope, alone, in arrays and in structs: clang 20 and 21 crashed on them."""

import numpy as np

SOURCE = """
struct Held { float2x2 m[2]; };
constant float2x2 diagonal = float2x2(1);
constant float2x2 elements = float2x2(1, 2, 3, 4);
constant half3x3 converted = half3x3(float3x3(5));
constant float2x2 both[2] = {float2x2(6), float2x2(float2(7, 8), float2(9, 10))};
constant Held held = {{float2x2(11), float2x2(12)}};
kernel void f(device float* x, constant int& i) {
  x[0] = diagonal[i].y;
  x[1] = elements[i].x;
  x[2] = converted[i].y;
  x[3] = both[i][0].y;
  x[4] = held.m[i][1].y;
}
"""


def test_matrices_in_constant_memory(written):
    x = np.zeros(5, np.float32)
    written(SOURCE).kernel("f").launch([x, np.int32([1])], (1, 1, 1), (1, 1, 1))
    assert x.tolist() == [1, 3, 5, 8, 12]
