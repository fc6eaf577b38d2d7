#include <metal_stdlib>
using namespace metal;

// out[group] = the sum of 64 elements of x. The loop lacks a barrier.
kernel void sum(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                uint group [[threadgroup_position_in_grid]], uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float tile[64];
  tile[thread_index] = x[group * 64 + thread_index];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint step = 32; step > 0; step /= 2) {
    if (thread_index < step) {
      tile[thread_index] += tile[thread_index + step];
    }
  }
  if (thread_index == 0) {
    out[group] = tile[0];
  }
}
