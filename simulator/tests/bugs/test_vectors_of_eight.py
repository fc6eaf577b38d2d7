"""Vectors of eight elements, which public kernels use, of bool as well, and through aliases with deduced elements."""

import numpy
import pytest

ALIASES = """
struct Part {
  template <typename U> using elements = typename metal::vec<U, 8>;
  template <typename T, typename P> static void load(thread elements<T>& to, P from) {
    for (short i = 0; i < 8; i++) to[i] = static_cast<T>(from[i]);
  }
};
template <typename T> struct Tile {
  typedef typename Part::template elements<T> type;
};
template <typename T> using named = vec<T, 8>;
"""
BODIES = {
    "an alias in a class": "Tile<bool>::type m; Part::load(m, mask); Tile<float>::type v; Part::load(v, x);",
    "an alias": "named<bool> m; Part::load(m, mask); named<float> v; Part::load(v, x);",
    "itself": "vec<bool, 8> m; for (short i = 0; i < 8; i++) m[i] = mask[i]; vec<float, 8> v; Part::load(v, x);",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_masks_of_eight(written, body):
    library = written(f"""{ALIASES}
kernel void f(device const bool* mask, device const float* x, device float* out) {{
  {body}
  for (short i = 0; i < 8; i++) out[i] = m[i] ? v[i] : -1.0f;
}}""")
    mask, x, out = numpy.arange(8) % 3 == 0, numpy.arange(8, dtype=numpy.float32), numpy.zeros(8, numpy.float32)
    library.kernel("f").launch([mask, x, out], (1, 1, 1), (1, 1, 1))
    assert (out == numpy.where(mask, x, -1)).all()


def test_a_number_fills_all_eight(written):
    library = written("""
template <typename T> T filled(float x) { return T(x); }
kernel void f(device float* out) { auto v = filled<vec<float, 8>>(3); for (short i = 0; i < 8; i++) out[i] = v[i]; }""")
    out = numpy.zeros(8, numpy.float32)
    library.kernel("f").launch([out], (1, 1, 1), (1, 1, 1))
    assert (out == 3).all()
