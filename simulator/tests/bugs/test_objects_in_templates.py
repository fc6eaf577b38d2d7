"""In a template, what may be a temporary for some arguments and is an object for others stays that object."""

import numpy as np
from checked_launch import launch_clean

SOURCE = """struct Sum {
  float total;
  void add(float x) { total += x; }
  float twice() const { return 2 * total; }
};
struct Rows {
  Sum at[2];
  Sum x;
  float4 v;
  thread Sum& ref() { return x; }
  Sum made() const { return x; }
};
float twice(const thread float& x) { return 2 * x; }
float twice(const thread Sum& x) { return 2 * x.total; }
void add(thread Sum& s, const thread float& x) { s.total += x; }
template <typename R> float use(thread R& rows, float x) {
  rows.at[0].add(x);
  rows.at[1].add(2 * x);
  rows.x.add(3 * x);
  rows.ref().add(x);
  rows.made().add(100);
  add(rows.at[0], rows.v[1]);
  add(rows.at[0], rows.v.x);
  (x > 0 ? rows.at[0] : rows.x).add(1);
  return twice(rows.at[0]) + twice(rows.x) + twice(rows.v[1]) + twice(rows.made()) + rows.at[1].twice() +
         twice(rows.v.z + rows.v.y);
}
template <typename V> float chosen(device const V* values, uint i, uint n) {
  V v = i < n ? values[i] : V(0);
  return v[0] + v[1];
}
kernel void f(device float* out, device const float2* pairs, device const packed_float3* packed) {
  Rows rows;
  rows.at[0].total = rows.at[1].total = rows.x.total = 0;
  rows.v = float4(1, 2, 3, 4);
  out[0] = use(rows, 1.0f);
  out[1] = rows.at[0].total;
  out[2] = rows.at[1].total;
  out[3] = rows.x.total;
  out[4] = chosen(pairs, 0, 1) + 10 * chosen(pairs, 1, 1) + 100 * chosen(packed, 0, 1);
}
"""


def test_objects_in_templates(written):
    library, out = written(SOURCE), np.zeros(5, np.float32)
    assert library.check() == []
    launch_clean(library, "f", [out, np.array([[1, 2], [3, 4]], np.float32), np.array([5, 6, 7], np.float32)])
    assert out.tolist() == [44, 5, 2, 4, 1103]
