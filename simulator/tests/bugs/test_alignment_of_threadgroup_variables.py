"""A threadgroup variable has the alignment that it asks for."""

import numpy as np
import pytest
from checked_launch import launch_clean


@pytest.mark.parametrize(
    "declaration", ["threadgroup half y[8] __attribute__((aligned(128)))", "alignas(128) threadgroup half y[8]"]
)
def test_alignment_of_threadgroup_variables(written, declaration):
    text = f"kernel void f(device ulong* x) {{\n  threadgroup char odd[3];\n  {declaration};\n  odd[0] = 1;\n"
    text += "  y[0] = odd[0];\n"
    x = np.ones(1, np.uint64)
    launch_clean(written(text + "  x[0] = (ulong)&y[0] % 128 + ulong(y[0]) - 1;\n}"), "f", [x])
    assert x[0] == 0
