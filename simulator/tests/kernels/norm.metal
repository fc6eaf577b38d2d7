#include <metal_stdlib>
using namespace metal;

// Root-mean-square norm of rows of `width` floats (a multiple of 4), one threadgroup of 64 threads a row.
kernel void norm(device const float* x [[buffer(0)]], device half* out [[buffer(1)]],
                 device const float* weight [[buffer(2)]], constant uint& width [[buffer(3)]],
                 uint row [[threadgroup_position_in_grid]], uint i [[thread_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float partial[2];
  device const float4* values = (device const float4*)(x + row * width);
  float4 squares = 0;
  for (uint c = i; c < width / 4; c += 64) squares += values[c] * values[c];
  const float sum = simd_sum(squares.x + squares.y + squares.z + squares.w);
  if (lane == 0) partial[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float scale = rsqrt((partial[0] + partial[1]) / float(width) + 1e-5f);
  for (uint c = i; c < width; c += 64) out[row * width + c] = half(x[row * width + c] * scale * weight[c]);
}
