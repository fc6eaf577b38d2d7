// Arithmetic on bfloat: results by row, for every thread's pair of operands. test_bfloat.py computes the same in NumPy.
#include <metal_stdlib>
using namespace metal;

constant bfloat table[3] = {bfloat(0.1f), bfloat(-3), bfloat(1e30f)};
constexpr constant bfloat third = bfloat(1.0f / 3);

#define ROW(n) out[(n) * size + i]

kernel void scalars(device const bfloat* x, device const bfloat* y, device const int* n, device bfloat* out,
                    uint i [[thread_position_in_grid]], uint size [[threads_per_grid]]) {
  bfloat a = x[i], b = y[i];
  ROW(0) = a + b;
  ROW(1) = a - b;
  ROW(2) = a * b;
  ROW(3) = a / b;
  ROW(4) = -a;
  ROW(5) = a * b + a * bfloat(3.0f) - b / a;
  ROW(6) = bfloat(a * 1.5f + b);  // in float, rounded once
  ROW(7) = a * 3 + 1;             // integers become bfloat
  ROW(8) = n[i] - a;
  ROW(9) = bfloat(n[i]) * static_cast<bfloat>(n[i] + 1);
  ROW(10) = a < b ? a : b;
  ROW(11) = bfloat(a < 0.5f ? 1.0f : b);
  ROW(12) = a == b || a != b && a >= 0 ? bfloat(1) : bfloat(a > b) + bfloat(a <= 1);
  ROW(13) = bfloat(int(a * bfloat(100))) + bfloat((int)b + static_cast<short>(a));
  if (b) ROW(14) = bfloat(!a);
  bfloat c = a;
  c += b;
  c *= c;
  c -= bfloat(2);
  c /= 3.5f;
  ROW(15) = c++;
  ROW(16) = ++c;
  ROW(17) = c--;
  ROW(18) = --c;
  float f = a;
  f += a * b;
  f *= b;
  ROW(19) = bfloat(f);
  int whole = 7;
  whole += a;
  ROW(20) = bfloat(whole);
}

kernel void stored(device const bfloat* x, device bfloat* out, uint i [[thread_position_in_grid]]) {
  threadgroup bfloat shared[64];
  shared[i] = x[i];
  shared[i] *= x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = shared[63 - i];
  uint at = i;
  out[at++] += table[0];  // at one place, once
  out[at - 1] += (at == i + 1 ? table[1] : table[2]) * third;
}

kernel void vectors(device const bfloat4* x, device const bfloat4* y, device bfloat4* out,
                    uint i [[thread_position_in_grid]], uint size [[threads_per_grid]]) {
  bfloat4 a = x[i], b = y[i];
  ROW(0) = a * b + a;
  ROW(1) = a.wzyx - b.x;
  ROW(2) = bfloat(2.0f) * -b / a;
  bfloat4 c = a;
  c += b;
  c.xz *= b.yw;
  c.y -= a.x;
  c[int(i + 3 - i)] /= b[0];
  c.xy = c.yx;
  ROW(3) = c;
  ROW(4) = bfloat4(bfloat2(a.x, 1), b.zw * bfloat(0.5f));
  ROW(5) = bfloat4(float4(a) * 1.25f + float4(b));
  ROW(6) = select(a, b, a < b);
  ROW(7) = bfloat4(int4(a * bfloat(10))) + bfloat4(a == a.xxxx);
  packed_bfloat4 p = packed_bfloat4(a);
  p *= b;
  ROW(8) = bfloat4(p) + p[1];
}

template <typename T> T polynomial(T x, T y) {
  T z = x * x + y;
  z += T(3) * y;
  vec<T, 2> v = vec<T, 2>(x, y);
  v = v * z - v.yx;
  return v.x > v.y ? v.x : v.y / 3;
}
template <typename T>
[[kernel]] void generic(device const bfloat* x, device const bfloat* y, device T* out,
                        uint i [[thread_position_in_grid]]) {
  out[i] = polynomial(T(float(x[i])), T(float(y[i])));
}
template [[host_name("generic_float")]] [[kernel]] decltype(generic<float>) generic<float>;
template [[host_name("generic_half")]] [[kernel]] decltype(generic<half>) generic<half>;
template [[host_name("generic_bfloat")]] [[kernel]] decltype(generic<bfloat>) generic<bfloat>;

inline float twice(float x) { return 2 * x; }
inline half twice(half x) { return 2 * x; }

kernel void functions(device const bfloat* x, device const bfloat* y, device bfloat* out,
                      uint i [[thread_position_in_grid]], uint size [[threads_per_grid]]) {
  bfloat a = x[i], b = y[i];
  ROW(0) = bfloat(sqrt(fabs(a)) + max(a, b));
  ROW(1) = bfloat(clamp(a, b, b + 1));
  ROW(2) = bfloat(simd_sum(float(a * b)));
  ROW(3) = as_type<bfloat>(simd_shuffle_xor(as_type<ushort>(b), 5)) * a;
  ROW(4) = bfloat(fma(a, b, a) - floor(b));
  ROW(5) = bfloat(isnan(a / (b - b)) || isfinite(a));
  ROW(6) = bfloat(ldexp(float(a), 2)) + bfloat(twice(float(b)));
}

kernel void product(device const bfloat* x, device const bfloat* y, device bfloat* out) {
  simdgroup_matrix<bfloat, 8, 8> a, b, c = make_filled_simdgroup_matrix<bfloat, 8, 8>(bfloat(0.5f));
  simdgroup_load(a, x, 8);
  simdgroup_load(b, y, 8);
  simdgroup_multiply_accumulate(c, a, b, c);
  c.thread_elements() *= bfloat(3);
  c.thread_elements()[0] += c.thread_elements()[1];
  simdgroup_store(c, out, 8);
}
