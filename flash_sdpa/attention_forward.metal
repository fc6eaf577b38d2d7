// Forward attention (FlashAttention-2, Dao 2023): softmax(scale * Q K^T) V in one pass over the keys.
//
// A threadgroup owns kBlockM rows of one sequence and one key/value head; a row is one token of one of the query heads
// that share it (row r: token r / group_size, head r % group_size of the group). Each SIMD group owns
// kBlockM / kSimdgroups of the rows.
//   for each block of kBlockN keys:  S = Q K^T;  P = exp2(scale_log2 S - row_max);  O = rescale O + P V
//   O = O / row_sum
#include <metal_stdlib>
#include "constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "softmax.h"
#include "tile.h"
using namespace metal;

// Grid: (tiles of query rows, key/value heads, 1). Tensors as params.h describes them; output rows that belong to no
// sequence are written too (0, and lse -inf).
template <typename T, int kHeadDim, int kBlockM, int kBlockN, int kSimdgroups>
[[kernel, max_total_threads_per_threadgroup(kSimdgroups * kSimdWidth)]] void attention_forward(
    constant ForwardParams& params [[buffer(0)]],
    constant ScoreParams& score [[buffer(1)]],
    device const T* query [[buffer(2)]],   // [batch, query_length, num_heads, kHeadDim] or [total_q, num_heads, kHeadDim]
    device const T* key [[buffer(3)]],     // [batch, key_length, num_heads_kv, kHeadDim] or [total_k, num_heads_kv, ...]
    device const T* value [[buffer(4)]],   // as key
    device T* output [[buffer(5)]],        // as query
    device float* lse [[buffer(6), function_constant(writes_lse)]],  // [batch, num_heads, query_length], [num_heads, total_q]
    device const int* cu_seqlens_q [[buffer(7), function_constant(is_packed)]],  // [batch + 1]
    device const int* cu_seqlens_k [[buffer(8), function_constant(is_packed)]],  // [batch + 1]
    uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kRows = kBlockM / kSimdgroups;
  constexpr int kThreads = kSimdgroups * kSimdWidth;
  using KeyValueTile = SharedTile<T, kBlockN, kHeadDim>;
  threadgroup float4 key_value_memory[KeyValueTile::kBytes / 16];

  // This threadgroup's rows, and the keys they see.
  QueryTile tile;
  if (is_packed) {
    tile = packed_tile<kBlockM>(params, cu_seqlens_q, cu_seqlens_k, group.x);
  } else {
    tile = dense_tile<kBlockM>(params, group.x);
  }
  const int group_size = params.group_size;
  const int rows = tile.query_length * group_size;
  if (tile.row0 < 0 || tile.row0 >= rows) return;  // a surplus tile, or cu_seqlens that lie
  const int first_token = tile.row0 / group_size;
  const int last_token = (min(tile.row0 + kBlockM, rows) - 1) / group_size;
  const Mask mask = {tile.key_length, tile.key_length - tile.query_length, int(params.window_left),
                     int(params.window_right)};
  const KeyBlocks blocks = key_blocks(mask, first_token, last_token, kBlockN);

  const long first_head = long(group.y) * group_size;
  query += tile.batch * params.query.batch + tile.query_start * params.query.token + first_head * params.query.head;
  output += tile.batch * params.output.batch + tile.query_start * params.output.token + first_head * params.output.head;
  key += tile.batch * params.key.batch + tile.key_start * params.key.token + group.y * params.key.head;
  value += tile.batch * params.value.batch + tile.key_start * params.value.token + group.y * params.value.head;

  const Lane lane = lane_position(lane_index);
  const uint thread_index = simdgroup * kSimdWidth + lane_index;
  const int row0 = tile.row0 + simdgroup * kRows;  // of this SIMD group
  const RowRanges<kRows> visible(mask, row0, group_size, lane);
  const KeyValueTile key_value_tile = {(threadgroup T*)key_value_memory};  // the block's keys, then its values
  RegisterTile<T, kRows, kHeadDim> query_tile;
  RegisterTile<float, kRows, kBlockN> scores;        // then weights
  RegisterTile<float, kRows, kHeadDim> accumulator;  // the output, before it is divided by row_sum
  OnlineSoftmax<kRows> softmax(score.scale_log2);

  load(query_tile, GroupedRows<const T>{query, params.query.token, params.query.head, group_size, rows}, row0,
       score.query_sign, lane);
  zero(accumulator);

  for (int key0 = blocks.begin; key0 < blocks.end; key0 += kBlockN) {
    const int count = tile.key_length - key0;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all SIMD groups are done with the previous values
    stage<kThreads>(key_value_tile, Rows<T>{key + key0 * params.key.token, params.key.token, count}, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the keys are there
    zero(scores);
    multiply_transposed(scores, query_tile, key_value_tile);  // S = Q K^T
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all SIMD groups are done with the keys
    stage<kThreads>(key_value_tile, Rows<T>{value + key0 * params.value.token, params.value.token, count}, thread_index);

    if (!blocks.is_full(key0, kBlockN)) hide_invisible(scores, visible, key0, lane);
    RowVector<kRows> rescale;
    if (softmax.update(scores, rescale)) scale_rows(accumulator, rescale);  // S -> P
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the values are there
    multiply(accumulator, scores, key_value_tile);    // O += P V
  }

  const RowVector<kRows> inverse_sum = softmax.finish();
  scale_rows(accumulator, inverse_sum);
  store(GroupedRows<T>{output, params.output.token, params.output.head, group_size, rows}, accumulator, row0, lane);
  if (writes_lse && lane.column == 0) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = row0 + i * kFragment + lane.row;
      if (row < rows)
        lse[tile.batch * params.lse_batch_stride + (first_head + row % group_size) * params.lse_head_stride +
            tile.query_start + row / group_size] = softmax.log_sum_exp(i);
    }
  }
}

#define INSTANTIATE(name, T, head_dim, block_m, block_n, simdgroups)                                               \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_m" #block_m "_n" #block_n "_s" #simdgroups)]]   \
  [[kernel]] decltype(attention_forward<T, head_dim, block_m, block_n, simdgroups>)                                \
      attention_forward<T, head_dim, block_m, block_n, simdgroups>;

// The planner's tile table (planner.py: TILES) gives the reason of each row. One row a line: the run-time launcher, which
// compiles one kernel at a time, drops the others.
INSTANTIATE(f16, half, 32, 32, 64, 4)
INSTANTIATE(f16, half, 64, 32, 64, 4)
INSTANTIATE(f16, half, 72, 32, 32, 4)
INSTANTIATE(f16, half, 80, 32, 32, 4)
INSTANTIATE(f16, half, 96, 32, 32, 4)
INSTANTIATE(f16, half, 128, 32, 32, 4)
INSTANTIATE(f16, half, 256, 32, 16, 4)
INSTANTIATE(bf16, bfloat, 32, 32, 64, 4)
INSTANTIATE(bf16, bfloat, 64, 32, 64, 4)
INSTANTIATE(bf16, bfloat, 72, 32, 32, 4)
INSTANTIATE(bf16, bfloat, 80, 32, 32, 4)
INSTANTIATE(bf16, bfloat, 96, 32, 32, 4)
INSTANTIATE(bf16, bfloat, 128, 32, 32, 4)
INSTANTIATE(bf16, bfloat, 256, 32, 16, 4)
INSTANTIATE(f32, float, 32, 32, 64, 4)
INSTANTIATE(f32, float, 64, 32, 32, 4)
INSTANTIATE(f32, float, 72, 32, 32, 4)
INSTANTIATE(f32, float, 80, 32, 32, 4)
INSTANTIATE(f32, float, 96, 32, 16, 4)
INSTANTIATE(f32, float, 128, 32, 16, 4)
INSTANTIATE(f32, float, 256, 32, 8, 4)
