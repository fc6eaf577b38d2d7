// Joins the parts of a split forward pass: output = sum of exp(lse_s - lse) * output_s, lse = log(sum of exp(lse_s)),
// the sinks' exponentials included. A threadgroup joins one row, one token of one head: each thread one column.
#include <metal_stdlib>
#include "constants.h"
#include "mask.h"
#include "params.h"
#include "softmax.h"
using namespace metal;

constant constexpr short kMaxSplits = 64;    // planner.py: MAX_SPLITS
constant constexpr short kMaxColumns = 256;  // of value_dim

// Grid: (rows, 1, 1). Parts of no key have lse kRowMaxFloor; a row of such parts only gets 0, and lse -inf.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kMaxColumns)]] void attention_combine(
    constant CombineParams& params [[buffer(0)]],
    device const float* partial_output [[buffer(1)]],  // [num_splits, (batch,) tokens, num_heads, value_dim]
    device const float* partial_lse [[buffer(2)]],     // [num_splits, (batch,) num_heads, tokens]
    device T* output [[buffer(3)]],                    // [(batch,) tokens, num_heads, value_dim]
    device float* lse [[buffer(4), function_constant(writes_lse)]],          // [(batch,) num_heads, tokens]
    device const float* sinks [[buffer(5), function_constant(has_sinks)]],   // [num_heads]
    uint row [[threadgroup_position_in_grid]],
    uint column [[thread_position_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  const int num_heads = params.num_heads, tokens = params.tokens, num_splits = params.num_splits;
  const int head = row % num_heads, token = row / num_heads % tokens, batch = row / num_heads / tokens;
  const long lse_index = batch * params.lse_batch_stride + head * params.lse_head_stride + token;

  // In each SIMD group, split s belongs to lane s % 32: its lse, then its share in the whole.
  constexpr short kParts = kMaxSplits / kSimdWidth;
  float share[kParts];
  float largest = kRowMaxFloor;
  UNROLL for (short part = 0; part < kParts; part++) {
    const int split = part * kSimdWidth + lane;
    share[part] = split < num_splits ? partial_lse[split * params.rows + lse_index] : kRowMaxFloor;
    largest = max(largest, share[part]);
  }
  largest = simd_max(largest);
  const bool sees_keys = largest > kRowMaxFloor;
  float sum = 0;
  if (has_sinks) {
    largest = max(largest, sinks[head]);
    sum = lane == 0 ? fast::exp2((sinks[head] - largest) * M_LOG2E_F) : 0;
  }
  UNROLL for (short part = 0; part < kParts; part++) {
    const bool exists = part * kSimdWidth + int(lane) < num_splits;
    share[part] = exists ? fast::exp2((share[part] - largest) * M_LOG2E_F) : 0;
    sum += share[part];
  }
  sum = simd_sum(sum);

  const uint value_dim = params.value_dim;
  device const float* source = partial_output + row * params.value_dim + min(column, value_dim - 1);
  float value = 0;
  UNROLL for (short part = 0; part < kParts; part++)
    for (int split = part * kSimdWidth; split < min(num_splits, (part + 1) * kSimdWidth); split++)
      value += simd_shuffle(share[part], ushort(split % kSimdWidth)) * source[split * params.rows * params.value_dim];
  device T* target = output + batch * params.output.batch + token * params.output.token + head * params.output.head;
  if (column < value_dim) target[column] = T(value / sum);
  if (writes_lse && column == 0) lse[lse_index] = sees_keys ? largest + precise::log(sum) : minus_infinity();
}

#define INSTANTIATE(name, T) \
  template [[host_name("attention_combine_" #name)]] [[kernel]] decltype(attention_combine<T>) attention_combine<T>;
INSTANTIATE(f16, half)
INSTANTIATE(bf16, bfloat)
INSTANTIATE(f32, float)
