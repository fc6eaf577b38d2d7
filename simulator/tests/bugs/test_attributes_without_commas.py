"""Attributes in one pair of brackets need no comma between them."""

import numpy as np


def test_attributes_without_a_comma_between_them(written):
    text = """
struct Colors { float4 first [[color(0)]]; float4 second [[color(0) index(1)]]; };
kernel void k(device float* x) { Colors c{}; x[0] = c.second.x; }
"""
    x = np.ones(1, np.float32)
    written(text).kernel("k").launch([x], (1, 1, 1), (1, 1, 1))
    assert x[0] == 0 and not [d for d in written(text).check() if d.severity == "error"]
