"""A right shift of a vector is no end of template arguments, and a shift it stays."""

import numpy as np
from checked_launch import launch_clean


def test_right_shifts_of_vectors(written):
    text = "kernel void f(device uint4* x) {\n  auto a = x[0] >> 1u;\n  x[1] = (x[0] >> 2u) & 3u;\n"
    text += "  x[2] = uint4(x[0] >> 3u);\n  x[3] = a;\n  x[4] = uint4(x[0] > 20u);\n}"
    x = np.zeros((5, 4), np.uint32)
    x[0] = [9, 18, 27, 255]
    launch_clean(written(text), "f", [x])
    assert np.array_equal(x[1:], [x[0] >> 2 & 3, x[0] >> 3, x[0] >> 1, x[0] > 20])
