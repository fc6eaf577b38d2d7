"""half and bfloat are cast to each other, as scalars and as vectors."""

import numpy as np
from checked_launch import launch_clean


def test_casts_between_half_and_bfloat(written):
    text = "kernel void f(device half* h, device bfloat* b) {\n  h[0] = half(b[0]);\n"
    text += (
        "  h[1] = half2(bfloat2(b[0], b[1])).y;\n  b[2] = bfloat(h[2]);\n  h[3] = HUGE_VALH;\n  b[3] = (bfloat)h[3];\n}"
    )
    h, b = np.float16([0, 0, 1.5, 0]), np.uint16([0x3FC0, 0xC000, 0, 0])
    launch_clean(written(text), "f", [h, b])
    assert h.tolist() == [1.5, -2, 1.5, np.inf] and b.tolist() == [0x3FC0, 0xC000, 0x3FC0, 0x7F80]
