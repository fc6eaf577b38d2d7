#include <metal_stdlib>
using namespace metal;

// Sum of 256 values per threadgroup, by halving in threadgroup memory.
template <typename T, int N>
[[kernel]] void reduce(device const T* x [[buffer(0)]], device float* out [[buffer(1)]],
                       uint group [[threadgroup_position_in_grid]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup float sum[N], unused[2];
  threadgroup uint count;
  if (i == 0) count = N;
  sum[i] = float(x[group * N + i]);
  for (uint half_count = N / 2; half_count > 0; half_count /= 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < half_count) sum[i] += sum[i + half_count];
  }
  if (i == 0) out[group] = sum[0] / float(count);
}
template [[host_name("reduce_half")]] [[kernel]] void reduce<half, 256>(device const half* x, device float* out,
                                                                        uint group, uint i);

// The same with memory whose size the host chooses.
kernel void reduce_dynamic(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                           threadgroup float* sum [[threadgroup(0)]], uint i [[thread_index_in_threadgroup]],
                           uint n [[threads_per_threadgroup]]) {
  sum[i] = x[i];
  for (uint count = n / 2; count > 0; count /= 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < count) sum[i] += sum[i + count];
  }
  if (i == 0) *out = sum[0];
}
