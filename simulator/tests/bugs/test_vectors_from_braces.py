"""Vectors from braces, wherever they stand; components that are not named are 0."""

import numpy as np
from checked_launch import launch_clean

SOURCE = """struct P {
  float3 v{1.0f};
  float2 w = {2, 3};
  float3 u = {4};
  uint3 f() { return uint3(v); }
};
struct Q {
  float3 v;
  float2 w;
  Q(float a) : v{a}, w{a, 2} {}
};
struct R { uint3 x; };
static inline R made(uint3 a) {
  R r = {a};
  return r;
}
kernel void f(device float* out) {
  P p;
  Q q(5);
  uint3 v{made(uint3(7)).x}, w = {made(uint3(8)).x};
  out[0] = p.v.y + 10 * p.w.y + 100 * q.v.z + 1000 * q.w.y + 10000 * v.z + 100000 * w.y;
  out[1] = p.f().x + 10 * p.u.x + 100 * p.u.z;
}
"""


def test_vectors_from_braces(written):
    library, out = written(SOURCE), np.zeros(2, np.float32)
    assert library.check() == []
    launch_clean(library, "f", [out])
    assert out.tolist() == [872030, 41]
