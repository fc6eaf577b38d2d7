#include <metal_stdlib>
using namespace metal;

// Sum of each row of a [rows, 32] matrix, one SIMD group a row.
template <typename T>
[[kernel]] void row_sum(const device T* x [[buffer(0)]], device float* out [[buffer(1)]],
                        uint row [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  float sum = float(x[row * 32 + lane]);
  for (ushort step = 16; step > 0; step /= 2) {
    sum += simd_shuffle_xor(sum, step);
  }
  if (lane == 0) {
    out[row] = sum;
  }
}

#define instantiate(name, type) template [[host_name("row_sum_" name)]] [[kernel]] decltype(row_sum<type>) row_sum<type>;
instantiate("half", half)
instantiate("float", float)
instantiate("bfloat", bfloat)
