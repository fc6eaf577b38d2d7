"""Traits of a vector are those of its components, but for is_scalar; types without limits have zeros for limits."""

import numpy as np
from checked_launch import launch_clean

TRAITS = ["is_integral", "is_floating_point", "is_arithmetic", "is_scalar", "is_signed", "is_unsigned", "is_vector"]
TYPES = {  # what each trait says
    "int": [1, 0, 1, 1, 1, 0, 0],
    "const uint": [1, 0, 1, 1, 0, 1, 0],
    "bool": [1, 0, 1, 1, 0, 1, 0],
    "bfloat": [0, 1, 1, 1, 1, 0, 0],
    "int4": [1, 0, 1, 0, 1, 0, 1],
    "uchar2": [1, 0, 1, 0, 0, 1, 1],
    "bool3": [1, 0, 1, 0, 0, 1, 1],
    "const half4": [0, 1, 1, 0, 1, 0, 1],
    "packed_float3": [0, 1, 1, 0, 1, 0, 1],
    "Row": [0, 0, 0, 0, 0, 0, 0],
}


def test_traits(written):
    code = "struct Row { float4 v; };\nkernel void k(device int* out) {\n"
    for i, (name, trait) in enumerate((name, trait) for name in TYPES for trait in TRAITS):
        code += f"  out[{i}] = {trait}<{name}>::value;\n"
    out = np.full((len(TYPES), len(TRAITS)), -1, np.int32)
    launch_clean(written(code + "}"), "k", [out])
    assert dict(zip(TYPES, out.tolist())) == TYPES


def test_an_overload_for_integers_takes_vectors_of_them(written):
    code = """template <typename T, typename E = typename enable_if<is_integral<T>::value>::type>
    T sign(T x) { return select(select(T(0), T(1), x > T(0)), T(-1), x < T(0)); }
    kernel void k(device int4* x) { x[0] = sign(x[0]); x[1] = int4(sign(float4(x[1]))); }"""
    x = np.array([[-3, 0, 5, 9], [-3, 0, 5, 9]], np.int32)
    launch_clean(written(code), "k", [x])
    assert x.tolist() == [[-1, 0, 1, 1]] * 2


def test_limits_of_what_has_none(written):
    code = """template <typename T> T largest(T) { return numeric_limits<T>::max(); }
    kernel void k(device float4* x) {
      x[0] = largest(x[0]);
      x[1] = numeric_limits<float4>::is_specialized ? 1 : numeric_limits<const float>::max();
      x[2] = numeric_limits<int>::has_infinity ? 1 : numeric_limits<int>::infinity();
    }"""
    x = np.ones((3, 4), np.float32)
    launch_clean(written(code), "k", [x])
    assert np.array_equal(x, np.array([[0], [np.finfo(np.float32).max], [0]]) * np.ones((3, 4), np.float32))
