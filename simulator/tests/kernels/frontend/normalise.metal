// Softmax, layer norm and RMS norm over rows; one threadgroup per row.
#include <metal_stdlib>
using namespace metal;

struct Sum {
  template <typename T> T operator()(T a, T b) const { return a + b; }
  static constexpr constant float start = 0;
};
struct Max {
  template <typename T> T operator()(T a, T b) const { return max(a, b); }
  static constexpr constant float start = -INFINITY;
};

template <typename Op>
METAL_FUNC float reduce(float x, threadgroup float* scratch, Op op, uint lane, uint simdgroup, uint simdgroups) {
  for (ushort offset = 16; offset > 0; offset >>= 1) x = op(x, simd_shuffle_xor(x, offset));
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (lane == 0) scratch[simdgroup] = x;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x = lane < simdgroups ? scratch[lane] : Op::start;
  for (ushort offset = 16; offset > 0; offset >>= 1) x = op(x, simd_shuffle_xor(x, offset));
  return x;
}

#define POSITION                                       \
  uint row [[threadgroup_position_in_grid]],           \
  uint thread_index [[thread_position_in_threadgroup]], \
  uint threads [[threads_per_threadgroup]],            \
  uint lane [[thread_index_in_simdgroup]],             \
  uint simdgroup [[simdgroup_index_in_threadgroup]],   \
  uint simdgroups [[simdgroups_per_threadgroup]]

template <typename T>
[[kernel]] void softmax(const device T* x [[buffer(0)]], device T* out [[buffer(1)]],
                        constant const uint& columns [[buffer(2)]], POSITION) {
  threadgroup float scratch[32];
  x += row * columns;
  out += row * columns;
  float most = -INFINITY;
  for (uint i = thread_index; i < columns; i += threads) most = max(most, float(x[i]));
  most = reduce(most, scratch, Max{}, lane, simdgroup, simdgroups);
  float total = 0;
  for (uint i = thread_index; i < columns; i += threads) total += exp(float(x[i]) - most);
  total = reduce(total, scratch, Sum{}, lane, simdgroup, simdgroups);
  for (uint i = thread_index; i < columns; i += threads) out[i] = T(exp(float(x[i]) - most) / total);
}

struct NormShape {
  uint columns;
  float epsilon;
};

template <typename T, bool centred>
kernel void norm(const device vec<T, 4>* x [[buffer(0)]], device vec<T, 4>* out [[buffer(1)]],
                 const device T* weight [[buffer(2)]], constant NormShape& given [[buffer(3)]], POSITION) {
  threadgroup float scratch[32];
  const NormShape shape = given;  // a whole struct out of constant memory
  const uint quads = shape.columns / 4;
  x += row * quads;
  out += row * quads;
  float mean = 0;
  if constexpr (centred) {
    for (uint i = thread_index; i < quads; i += threads) mean += dot(float4(x[i]), float4(1));
    mean = reduce(mean, scratch, Sum{}, lane, simdgroup, simdgroups) / shape.columns;
  }
  float square = 0;
  for (uint i = thread_index; i < quads; i += threads) {
    float4 v = float4(x[i]) - mean;
    square += dot(v, v);
  }
  square = reduce(square, scratch, Sum{}, lane, simdgroup, simdgroups) / shape.columns;
  const float scale = metal::precise::rsqrt(square + shape.epsilon);
  for (uint i = thread_index; i < quads; i += threads) {
    const float4 w = float4(*(const device vec<T, 4>*)(weight + 4 * i));
    out[i] = vec<T, 4>((float4(x[i]) - mean) * scale * w);
  }
}

#define instantiate(name, ...) template [[host_name(name)]] [[kernel]] decltype(__VA_ARGS__) __VA_ARGS__;
instantiate("softmax_float", softmax<float>)
instantiate("softmax_half", softmax<half>)
instantiate("softmax_bfloat", softmax<bfloat>)
instantiate("layer_norm_float", norm<float, true>)
instantiate("layer_norm_half", norm<half, true>)
instantiate("rms_norm_float", norm<float, false>)
instantiate("rms_norm_bfloat", norm<bfloat, false>)
