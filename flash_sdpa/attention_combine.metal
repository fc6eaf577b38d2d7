// Joins the parts of a split forward pass: output = sum of exp(lse_s - lse) * output_s, lse = log(sum of exp(lse_s)),
// the sinks' exponentials included. One SIMD group a row, a row being one token of one head.
#include <metal_stdlib>
#include "constants.h"
#include "mask.h"
#include "params.h"
#include "softmax.h"
using namespace metal;

// Grid: (rows, 1, 1). Parts of no key have lse kRowMaxFloor; a row of such parts only gets 0, and lse -inf.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kSimdWidth)]] void attention_combine(
    constant CombineParams& params [[buffer(0)]],
    device const float* partial_output [[buffer(1)]],  // [num_splits, (batch,) tokens, num_heads, value_dim]
    device const float* partial_lse [[buffer(2)]],     // [num_splits, (batch,) num_heads, tokens]
    device T* output [[buffer(3)]],                    // [(batch,) tokens, num_heads, value_dim]
    device float* lse [[buffer(4), function_constant(writes_lse)]],          // [(batch,) num_heads, tokens]
    device const float* sinks [[buffer(5), function_constant(has_sinks)]],   // [num_heads]
    uint row [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  const int num_heads = params.num_heads, tokens = params.tokens, num_splits = params.num_splits;
  const int head = row % num_heads, token = row / num_heads % tokens, batch = row / num_heads / tokens;
  const long lse_index = batch * params.lse_batch_stride + head * params.lse_head_stride + token;

  float largest = kRowMaxFloor;
  for (int split = 0; split < num_splits; split++)
    largest = max(largest, partial_lse[split * params.rows + lse_index]);
  const bool sees_keys = largest > kRowMaxFloor;
  float sink_share = 0;
  if (has_sinks) {
    largest = max(largest, sinks[head]);
    sink_share = fast::exp2((sinks[head] - largest) * M_LOG2E_F);
  }
  float sum = sink_share;
  for (int split = 0; split < num_splits; split++)
    sum += fast::exp2((partial_lse[split * params.rows + lse_index] - largest) * M_LOG2E_F);

  const int value_dim = params.value_dim;
  device T* target = output + batch * params.output.batch + token * params.output.token + head * params.output.head;
  for (int column = lane; column < value_dim; column += kSimdWidth) {
    float value = 0;
    for (int split = 0; split < num_splits; split++) {
      const float share = fast::exp2((partial_lse[split * params.rows + lse_index] - largest) * M_LOG2E_F) / sum;
      value += share * partial_output[(split * params.rows + row) * value_dim + column];
    }
    target[column] = T(value);
  }
  if (writes_lse && lane == 0) lse[lse_index] = sees_keys ? largest + precise::log(sum) : minus_infinity();
}

#define INSTANTIATE(name, T) \
  template [[host_name("attention_combine_" #name)]] [[kernel]] decltype(attention_combine<T>) attention_combine<T>;
INSTANTIATE(f16, half)
INSTANTIATE(bf16, bfloat)
INSTANTIATE(f32, float)
