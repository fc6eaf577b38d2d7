"""What a cast to a reference gives is the object itself, not a value: what its member functions write is kept."""

import numpy as np
import pytest

CODE = """
struct Plain { float4 v; };
struct Counter { float4 v; void set(float to) thread { v = to; } };
template <typename T> void set_any(thread T& x) { %s.set(7); }
template <typename T, typename C> void set_as(thread T& x) { reinterpret_cast<thread C&>(x).set(7); }
kernel void k(device float* out) {
  Plain x{}, y{}, z{};
  %s.set(7);
  set_any(y);
  set_as<Plain, Counter>(z);
  out[0] = x.v.x;
  out[1] = y.v.x;
  out[2] = z.v.x;
}
"""
CASTS = ["reinterpret_cast<thread Counter&>(x)", "((thread Counter&)x)", "((thread Counter& )(x))"]

COPY = """
template <typename T, uint N> void copy(device T (&to)[N], thread const float4 (&from)[N]) {
  for (uint i = 0; i < N; i++) {
    reinterpret_cast<device float4&>(to[i]) = from[i];
  }
}
kernel void k(device uint4 (&out)[2]) {
  float4 from[2] = {1, 2};
  copy(out, from);
}
"""


@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_to_a_reference(written, cast):
    out = np.zeros(3, np.float32)
    written(CODE % (cast, cast)).kernel("k").launch([out], (1, 1, 1), (1, 1, 1))
    assert out.tolist() == [7, 7, 7]


def test_what_may_look_like_a_declaration(written):
    out = np.zeros((2, 4), np.float32)
    written(COPY).kernel("k").launch([out], (1, 1, 1), (1, 1, 1))
    assert out.tolist() == [[1] * 4, [2] * 4]
