// The first step of the backward pass, as in FlashAttention-2: of each row, the number that all gradients of its scores
// share, delta = <grad_output, output> - grad_lse. lse's gradient enters here and nowhere else.
#include <metal_stdlib>
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "tile.h"
using namespace metal;

// Of a threadgroup; planning/backward.py: TERMS_TOKENS, TERMS_THREADS.
constant constexpr int kTokens = 64;
constant constexpr int kThreads = 256;
constant constexpr int kRows = kTokens * kSimdWidth / kThreads;  // of a SIMD group, one by one: they share addresses

// Grid: (tokens / kTokens, num_heads, batch, or 1 if packed). delta is 0 for a row that sees no key.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(kThreads)]] void attention_backward_terms(
    constant BackwardParams& params [[buffer(0)]],
    device const T* output [[buffer(1)]],            // [(batch,) tokens, num_heads, value_dim]
    device const T* grad_output [[buffer(2)]],       // the same
    device const float2* row_softmax [[buffer(3)]],  // [(batch,) num_heads, tokens]: row_max, log2_sum
    device const float* grad_lse [[buffer(4), function_constant(has_grad_lse)]],  // [(batch,) num_heads, tokens]
    device float* row_terms [[buffer(5)]],                                        // the same
    uint3 position [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  constant ForwardParams& forward = params.forward;
  const int first = position.x * kTokens + simdgroup * kRows, head = position.y;
  const int rows = min(kRows, int(forward.query_length) - first);
  const long batch = position.z;
  output += batch * forward.output.batch + first * forward.output.token + head * forward.output.head;
  grad_output += batch * params.grad_output.batch + first * params.grad_output.token + head * params.grad_output.head;
  float delta = 0;  // of the lane's row
  for (int row = 0; row < rows; row++) {
    float sum = 0;
    for (int column = lane; column < forward.value_dim; column += kSimdWidth)
      sum += float(output[column]) * float(grad_output[column]);
    sum = simd_sum(sum);
    if (row == int(lane)) delta = sum;
    output += forward.output.token;
    grad_output += params.grad_output.token;
  }
  if (int(lane) < rows) {
    const long index = batch * forward.lse_batch_stride + head * forward.lse_head_stride + first + lane;
    if (has_grad_lse) delta -= grad_lse[index];
    row_terms[index] = row_softmax[index][0] > kRowMaxFloor ? delta : 0;
  }
}

#define INSTANTIATE(name, T)                                                                                  \
  template [[host_name("attention_backward_terms_" #name)]] [[kernel]] decltype(attention_backward_terms<T>) \
      attention_backward_terms<T>;
INSTANTIATE(f16, half)
INSTANTIATE(bf16, bfloat)
INSTANTIATE(f32, float)
