// Gradients of keys and values without stored weights, to be timed beside the project's own: these make scores and
// their gradients again, as FlashAttention-2 does without atomics. With attention_backward_queries, which stores nothing
// then, that is seven products and not five.
//
// attention_backward_queries with rows and keys exchanged: a SIMD group owns 8 keys, and goes through the rows that see
// them. Dense fp16 in whole blocks, one query head a key/value head, and no feature but windows.
#include <metal_stdlib>
#include "blocks_staged.h"
#include "function_constants.h"
#include "gradients.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "staging.h"
#include "tile.h"
using namespace metal;

// scores[key, row] -> weights. softmax: of the tile's first row.
template <int kRows>
inline void weigh_columns(thread RegisterTile<float, kFragment, kRows>& scores, float scale_log2,
                          device const float2* softmax) {
  UNROLL for (short j = 0; j < kRows / kFragment; j++) {
    const float4 rows = *(device const float4*)(softmax + j * kFragment);  // row_max, log2_sum of two
    const float2 pair = elements(scores.frag[0][j]);
    elements(scores.frag[0][j]) = float2{fast::exp2(min(fma(pair[0] - rows[0], scale_log2, -rows[1]), 0.0f)),
                                         fast::exp2(min(fma(pair[1] - rows[2], scale_log2, -rows[3]), 0.0f))};
  }
}

// grads[key, row] = weights[key, row] * (grads[key, row] - delta[row]). delta: of the tile's first row.
template <int kRows>
inline void differentiate(thread RegisterTile<float, kFragment, kRows>& grads,
                          thread RegisterTile<float, kFragment, kRows>& weights, device const float* delta) {
  UNROLL for (short j = 0; j < kRows / kFragment; j++)
    elements(grads.frag[0][j]) =
        elements(weights.frag[0][j]) * (elements(grads.frag[0][j]) - *(device const float2*)(delta + j * kFragment));
}

// Grid: (heads, tiles of keys, batch)
template <int kHeadDim, int kBlockM, int kKeyGroups>
[[kernel, max_total_threads_per_threadgroup(kKeyGroups * kSimdWidth)]] void seven_products_keys(
    constant BackwardParams& params [[buffer(0)]], constant ScoreParams& score [[buffer(1)]],
    constant float& softmax_scale [[buffer(2)]],
    device const half* query [[buffer(3)]],          // [batch, query_length, num_heads, head_dim]
    device const half* key [[buffer(4)]],            // [batch, key_length, num_heads, head_dim]
    device const half* value [[buffer(5)]],          // the same
    device const half* grad_output [[buffer(6)]],    // as query
    device const float2* row_softmax [[buffer(7)]],  // [batch, num_heads, query_length]: row_max, log2_sum
    device const float* row_terms [[buffer(8)]],     // [batch, num_heads, query_length]: delta
    device half* grad_key [[buffer(9)]],             // as key
    device half* grad_value [[buffer(10)]],          // as key
    uint3 position [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kThreads = kKeyGroups * kSimdWidth, kBlockN = kKeyGroups * kFragment;
  using Block = StagedTile<half, kBlockM, kHeadDim, 1>;
  threadgroup float4 memory[2 * Block::kBytes / 16];
  constant ForwardParams& forward = params.forward;
  const int head = position.x, length = forward.key_length, tile_key0 = position.y * kBlockN;
  const QueryTile sequence = {long(position.z), int(position.z), 0, int(forward.query_length), 0, length, 0, head, 1};
  const Mask seers = sequence.mask(forward).transposed(sequence.query_length);
  const int last_key = min(tile_key0 + kBlockN, length) - 1;
  const int begin = seers.visible(tile_key0).begin / kBlockM * kBlockM, end = seers.visible(last_key).end;

  const Lane lane = lane_position(lane_index);
  const uint thread_index = (simdgroup * kSimdWidth + lane_index) % kThreads;
  const int key0 = tile_key0 + simdgroup * kFragment, head_dim = forward.head_dim;
  const RowRanges<kFragment> visible(seers, key0, length, 1, lane);
  const long own_row = position.z * forward.lse_batch_stride + head * forward.lse_head_stride + lane.column;
  row_softmax += own_row;
  row_terms += own_row;

  Block queries_block = {(threadgroup half*)memory, 0};
  Block grads_block = {(threadgroup half*)memory + Block::kBytes / sizeof(half), 0};
  using RowStager = Stager<half, kBlockM, kHeadDim, Block::kStride, kThreads>;
  const RowStager stager(thread_index, head_dim);
  QueryWalk<half, RowStager::kStep> queries(sequence.rows_of(query, forward.query, stager.column, 0),
                                            begin + stager.row);
  QueryWalk<half, RowStager::kStep> grads_walk(sequence.rows_of(grad_output, params.grad_output, stager.column, 0),
                                               begin + stager.row);
  RegisterTile<half, kFragment, kHeadDim> own_key, own_value;
  RegisterTile<float, kFragment, kHeadDim> key_sum, value_sum;
  const long keys = position.z * forward.key.batch + head * forward.key.head;
  const long values = position.z * forward.value.batch + head * forward.value.head;
  load<Block>(own_key, QueryRows<const half>{key + keys, forward.key.token, 0, 1, length, head_dim}, key0,
              score.query_factor, lane);
  load<Block>(own_value, QueryRows<const half>{value + values, forward.value.token, 0, 1, length, head_dim}, key0, 1,
              lane);
  zero(key_sum);
  zero(value_sum);
  for (int row0 = begin; row0 < end; row0 += kBlockM) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
    stager.stage(queries_block.data, queries, kBlockM);
    stager.stage(grads_block.data, grads_walk, kBlockM);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the rows are there
    const bool is_full = simd_all(visible.at[0].begin <= row0 && row0 + kBlockM <= visible.at[0].end);
    if (!is_full && !simd_any(visible.at[0].meets(row0, kBlockM))) continue;
    RegisterTile<float, kFragment, kBlockM> scores, grads;
    zero(scores);
    multiply_transposed(scores, own_key, queries_block, lane);  // S^T = K Q^T
    zero(grads);
    multiply_transposed(grads, own_value, grads_block, lane);  // dP^T = V dO^T
    if (!is_full) hide_invisible(scores, visible, row0, lane);
    weigh_columns(scores, score.scale_log2, row_softmax + row0);  // P^T
    multiply(value_sum, scores, grads_block, lane);               // dV += P^T dO
    differentiate(grads, scores, row_terms + row0);               // dS^T
    multiply(key_sum, grads, queries_block, lane);                // dK += dS^T Q
  }
  scale(key_sum, softmax_scale);
  const long grad_keys = position.z * params.grad_key.batch + head * params.grad_key.head;
  const long grad_values = position.z * params.grad_value.batch + head * params.grad_value.head;
  store<Block>(QueryRows<half>{grad_key + grad_keys, params.grad_key.token, 0, 1, length, head_dim}, key_sum, key0, lane);
  store<Block>(QueryRows<half>{grad_value + grad_values, params.grad_value.token, 0, 1, length, head_dim}, value_sum,
               key0, lane);
}

// The host name is benchmarks/nvidia/backward_timing.py's.
#define INSTANTIATE(head_dim, block_m, key_groups) \
  template [[host_name("seven_products_keys_d" #head_dim)]] [[kernel]] decltype( \
      seven_products_keys<head_dim, block_m, key_groups>) seven_products_keys<head_dim, block_m, key_groups>;
INSTANTIATE(64, 32, 8)   // blocks and SIMD groups as attention_backward_queries has them
INSTANTIATE(128, 16, 8)
