// Joins the parts of a split forward pass. Part s has seen keys of its own, whose exponentials have the sum exp(scale *
// row_max_s) * row_sum_s, and has divided its output by it: output = sum of share_s * output_s, where share_s is the
// part's share in the sum of all exponentials, a sink's included. Maxima and sums come apart: the logarithm of a large
// sum is too coarse a number to take an exponential of. The factor of kept weights comes last, as a part's own output
// could exceed fp32 with it. A threadgroup joins one row, one token of one head: each thread some parts of one column.
#include <metal_stdlib>
#include "dropout.h"
#include "function_constants.h"
#include "mask.h"
#include "overflow.h"
#include "params.h"
#include "softmax.h"
using namespace metal;

constant constexpr short kMaxSplits = 64;     // planning/tiles.py: MAX_SPLITS
constant constexpr short kMostThreads = 512;  // planning/forward.py: COMBINE_THREADS

// Grid: (rows, 1, 1); threads: value_dim in whole SIMD groups x a power of two, at most 512. Parts of no key have row_sum
// 0; a row of such parts only gets 0, and lse -inf.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kMostThreads)]] void attention_combine(
    constant CombineParams& params [[buffer(0)]], constant ScoreParams& score [[buffer(1)]],
    device const float* partial_output [[buffer(2)]],    // [num_splits, (batch,) tokens, num_heads, value_dim]
    device const float2* partial_softmax [[buffer(3)]],  // [num_splits, (batch,) num_heads, tokens]: row_max, row_sum
    device T* output [[buffer(4)]],                      // [(batch,) tokens, num_heads, value_dim]
    device float* lse [[buffer(5), function_constant(writes_lse)]],               // [(batch,) num_heads, tokens]
    device const float* sinks [[buffer(6), function_constant(has_sinks)]],        // [num_heads]
    device float2* row_softmax [[buffer(7), function_constant(writes_softmax)]],  // as lse: row_max, log2_sum
    constant DropoutParams& dropout [[buffer(8), function_constant(has_dropout)]],
    uint2 position [[threadgroup_position_in_grid]], uint2 thread_position [[thread_position_in_threadgroup]],
    uint2 threads [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float sums[kMostThreads];
  const uint row = position.x, column = thread_position.x, first = thread_position.y;
  const int num_heads = params.num_heads, tokens = params.tokens, num_splits = params.num_splits;
  const int head = row % num_heads, token = row / num_heads % tokens, batch = row / num_heads / tokens;
  const long lse_index = batch * params.lse_batch_stride + head * params.lse_head_stride + token;

  // In each SIMD group, split s belongs to lane s % 32: its maximum and sum, then its share in the whole.
  constexpr short kParts = kMaxSplits / kSimdWidth;
  float part_max[kParts];
  float share[kParts];
  float largest = kRowMaxFloor;
  UNROLL for (short part = 0; part < kParts; part++) {
    const int split = part * kSimdWidth + lane;
    float2 part_softmax = float2{kRowMaxFloor, 0};
    if (split < num_splits) part_softmax = partial_softmax[split * params.rows + lse_index];
    part_max[part] = part_softmax[0];
    share[part] = part_softmax[1];
    largest = max(largest, part_max[part]);
  }
  largest = simd_max(largest);
  float sum = 0;
  UNROLL for (short part = 0; part < kParts; part++) {
    share[part] *= fast::exp2((part_max[part] - largest) * score.scale_log2);
    sum += share[part];
  }
  sum = simd_sum(sum);
  const bool sees_keys = sum != 0;
  Exponentials exponentials = {score.scale * largest, sum, 1, 0};
  if (has_sinks) exponentials = exponentials.with_sink(sinks[head]);
  UNROLL for (short part = 0; part < kParts; part++) share[part] *= exponentials.inverse();

  const uint value_dim = params.value_dim;
  const long part_stride = params.rows * params.value_dim, step = threads.y * part_stride;
  device const float* source = partial_output + row * params.value_dim + min(column, value_dim - 1);
  source += first * part_stride;
  float value = 0;
  UNROLL for (short part = 0; part < kParts; part++) {
    const int end = min(num_splits - part * kSimdWidth, int(kSimdWidth));
    for (int split = first; split < end; split += threads.y, source += step)
      value += simd_shuffle(share[part], ushort(split)) * *source;
  }
  if (threads.y > 1) {
    sums[first * threads.x + column] = value;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (first > 0) return;
    for (uint other = 1; other < threads.y; other++) value += sums[other * threads.x + column];
  }
  if (has_dropout) value *= dropout_factor(dropout);
  device T* target = output + batch * params.output.batch + token * params.output.token + head * params.output.head;
  if (column < value_dim) target[column] = T(saturated(value));
  if (writes_lse && column == 0) ((device uint*)lse)[lse_index] = exponentials.log_sum_exp(sees_keys);
  if (writes_softmax && column == 0) row_softmax[lse_index] = exponentials.row_softmax(largest, sees_keys);
}

#define INSTANTIATE(name, T) \
  template [[host_name("attention_combine_" #name)]] [[kernel]] decltype(attention_combine<T>) attention_combine<T>;
INSTANTIATE(f16, half)
INSTANTIATE(bf16, bfloat)
INSTANTIATE(f32, float)
