"""A kernel without any #include has vectors and bfloat all the same."""

import numpy as np
from checked_launch import launch_clean
from metal_simulator import Library

X = np.arange(1, 9, dtype=np.float32)


def test_kernels_without_any_include(tmp_path):
    (tmp_path / "plain.metal").write_text(
        "kernel void f(device float4* x, device bfloat* b, uint i [[thread_position_in_grid]]) {\n"
        "  x[i] = float4(b[i]) + float4(x[i].xy, 0, 1);\n}\n"
    )
    library, x, b = Library(tmp_path / "plain.metal"), X.reshape(2, 4).copy(), np.uint16([0x3F80, 0x4000])
    assert library.check() == []
    launch_clean(library, "f", [x, b], threads=(2, 1, 1))
    assert np.array_equal(x, [[2, 3, 1, 2], [7, 8, 2, 3]])
