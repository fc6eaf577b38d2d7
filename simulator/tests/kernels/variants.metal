#include <metal_stdlib>
using namespace metal;

constant bool has_bias [[function_constant(0)]];
constant int scale [[function_constant(1)]];
constant float offset [[function_constant(2)]];
constant bool has_offset = is_function_constant_defined(offset);

// out = x * scale (+ bias) (+ offset)
kernel void affine(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                   device const float* bias [[buffer(2), function_constant(has_bias)]],
                   uint i [[thread_position_in_grid]]) {
  float y = x[i] * scale;
  if (has_bias) y += bias[i];
  if (has_offset) y += offset;
  out[i] = y;
}
