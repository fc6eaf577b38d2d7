#include <metal_stdlib>
using namespace metal;

// Inclusive prefix sum of each block of 256 values, one threadgroup a block: within SIMD groups, then over their totals.
kernel void scan(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                 constant uint& count [[buffer(2)]], uint group [[threadgroup_position_in_grid]],
                 uint i [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float totals[8];
  const uint at = group * 256 + i;
  const float own = at < count ? x[at] : 0.0f;
  const float inside = simd_prefix_inclusive_sum(own);
  if (lane == 31) totals[simdgroup] = inside;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup == 0) {
    const float total = lane < 8 ? totals[lane] : 0.0f;
    const float before = simd_prefix_exclusive_sum(total);
    if (lane < 8) totals[lane] = before;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (at < count) out[at] = totals[simdgroup] + inside;
}
