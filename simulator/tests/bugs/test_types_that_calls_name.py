"""What lies in constant memory, passed by calls of templates that name the parameter's type: copied, if it is no
reference."""

import numpy as np
import pytest

TYPES = {
    "a reference": "constant Scale&",
    "a reference to constant": "constant const Scale&",
    "a reference by an alias": "Reference",
    "a reference by a template's alias": "ReferenceTo<Scale>",
    "a value": "Scale",
    "a value by an alias": "Value",
}
SOURCE = """
#include <metal_stdlib>
using namespace metal;
struct Scale {{ float by; float4 more; }};
using Reference = constant Scale&;
using Value = Scale;
template <typename T> using ReferenceTo = constant T&;
template <typename T, typename S> T last(S scale, device T* x) {{ return T(x[0] * scale.by + scale.more.w); }}
template <typename T, typename S> T scaled(S scale, device T* x) {{ return last<T, S>(scale, x); }}
template <typename T>
kernel void scale(constant Scale& scale [[buffer(0)]], device T* x [[buffer(1)]]) {{
  x[0] = scaled<T, {type}>({scale}, x);
}}
template [[host_name("k")]] kernel void scale<float>(constant Scale&, device float*);
"""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("scale", ["scale", "(&scale)[0]"])
@pytest.mark.parametrize("type", TYPES.values(), ids=TYPES)
def test_types_that_calls_name(written, type, scale):
    library, x = written(SOURCE.format(type=type, scale=scale)), np.array([3.0], np.float32)
    assert library.check() == []
    library.kernel("k").launch([np.array([2, 0, 0, 0, 5, 6, 7, 8], np.float32), x], (1, 1, 1), (1, 1, 1))
    assert x[0] == 14
