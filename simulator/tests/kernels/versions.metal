#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

// x^T x, through threadgroup memory, plus x[0][1] by way of a matrix of two columns and a member function.
template <typename T>
struct Corner {
  float2x2 m;
  T take() { return T((m * float2(0, 1)).x); }
};

template <typename T>
[[kernel]] void gram(device const half* x [[buffer(0)]], device float* out [[buffer(1)]],
                     ushort lane [[thread_index_in_simdgroup]]) {
  alignas(16) threadgroup T tile[64];
  for (ushort i = lane; i < 64; i += 32) tile[i] = T(float(x[i]));
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<T, 8, 8> left, right;
  simdgroup_load(left, tile, 8, ulong2(0, 0), true);
  simdgroup_load(right, tile, 8);
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_multiply_accumulate(sum, left, right, sum);
  Corner<T> corner{float2x2(tile[0], tile[8], tile[1], tile[9])};
  T more = corner.take() * T(2) - corner.take();
  sum.thread_elements() += float2(more);
  simdgroup_store(sum, out, 8);
}
template [[host_name("gram_half")]] [[kernel]] decltype(gram<half>) gram<half>;
template [[host_name("gram_bfloat")]] [[kernel]] decltype(gram<bfloat>) gram<bfloat>;
