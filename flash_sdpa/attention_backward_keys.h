// Gradients of keys and values, from the weights that attention_backward_queries has stored: dK = scale dS^T Q and
// dV = P^T dO. A plain product: masks, features and softmax are in what is stored.
//
// A threadgroup owns keys of one sequence and one key/value head, and goes through the rows that see them. Its SIMD
// groups divide the keys among them (kKeyGroups, of kStoredKeys each) and the columns, kColumns each, first those of dV
// and then those of dK.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "stored_weights.h"
#include "tile.h"
using namespace metal;

// A tile of the keys of one sequence, and the sequence.
struct OwnKeys {
  QueryTile sequence;  // its row0 means nothing
  int key0, length;    // the first key of the tile, and how many the sequence has room for
};

template <int kKeys>
inline OwnKeys dense_keys(constant ForwardParams& params, int head_kv, int tile) {
  const int query_length = params.query_length, key_length = params.key_length, heads_per_kv = params.heads_per_kv;
  const int tiles = (key_length + kKeys - 1) / kKeys;
  const QueryTile sequence = {tile / tiles, tile / tiles, 0, query_length, 0, key_length, 0, head_kv, heads_per_kv};
  return {sequence, tile % tiles * kKeys, key_length};
}

// Keys of no sequence are seen by no row, so that every row of the gradients is written.
template <int kKeys>
inline OwnKeys packed_keys(constant ForwardParams& params, device const int* cu_seqlens_q,
                           device const int* cu_seqlens_k, int head_kv, int tile) {
  const int batch = params.batch, total_q = params.query_length, total_k = params.key_length;
  const Segment segment = find_segment<kKeys>(cu_seqlens_k, batch, total_k, 1, tile);
  const int length = max(0, segment.end - segment.start), heads_per_kv = params.heads_per_kv;
  QueryTile sequence = {0, segment.index - 1, 0, 0, segment.start, length, 0, head_kv, heads_per_kv};
  if (segment.index >= 1 && segment.index <= batch) {
    sequence.query_start = clamped(cu_seqlens_q, segment.index - 1, total_q);
    sequence.query_length = max(0, clamped(cu_seqlens_q, segment.index, total_q) - sequence.query_start);
  }
  return {sequence, segment.row0, length};
}

// Grid: (key/value heads, tiles of keys of all sequences), of the chunk. kBlockM rows are brought at a time;
// kTileRows are a tile's in attention_backward_queries. Gradients are written whole, with 0 for keys that no row sees.
template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kKeyGroups, int kBlockM,
          int kTileRows, Loader kLoader>
[[kernel, max_total_threads_per_threadgroup((kHeadDim + kValueDim) / kColumns * kKeyGroups * kSimdWidth)]] void
attention_backward_keys(
    constant ChunkParams& chunk [[buffer(0)]], constant BackwardParams& params [[buffer(1)]],
    constant float& softmax_scale [[buffer(2)]],
    device const T* query [[buffer(3)]],        // [batch, query_length, num_heads, head_dim]
    device const T* grad_output [[buffer(4)]],  // [batch, query_length, num_heads, value_dim]
    device const float* weights [[buffer(5)]],  // stored_weights.h
    device T* grad_key [[buffer(6)]],           // [batch, key_length, num_heads_kv, head_dim]
    device T* grad_value [[buffer(7)]],         // [batch, key_length, num_heads_kv, value_dim]
    device float2* key_sums [[buffer(8), function_constant(carries_sums)]],        // of tiles that more rows see
    device const int* cu_seqlens_q [[buffer(9), function_constant(is_packed)]],    // [batch + 1]
    device const int* cu_seqlens_k [[buffer(10), function_constant(is_packed)]],   // [batch + 1]
    device const int* seqused_k [[buffer(11), function_constant(has_seqused_k)]],  // [batch]
    uint3 position [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kValueParts = kValueDim / kColumns, kParts = kValueParts + kHeadDim / kColumns;
  constexpr int kSimdgroups = kParts * kKeyGroups, kThreads = kSimdgroups * kSimdWidth;
  constexpr int kKeys = kKeyGroups * kStoredKeys;
  constexpr int kStoredRows = stored_block_rows(kLoader);
  using Rows = typename InTurn<kLoader>::template Rows<T, Element, kHeadDim, kValueDim, kColumns, kBlockM, kThreads>;
  static_assert(kHeadDim % kColumns == 0 && kValueDim % kColumns == 0, "a SIMD group's columns are of one gradient");
  static_assert(kTileRows % kBlockM == 0, "a block of rows lies in one tile");
  static_assert(kBlockM % kStoredRows == 0, "and has whole stored blocks");
  threadgroup float4 memory[larger(Rows::kBytes, 16) / 16];

  // This threadgroup's keys.
  constant ForwardParams& forward = params.forward;
  const int head_kv = int(chunk.first_head) + position.x;
  OwnKeys keys;
  const int key_tile = int(chunk.first_key_tile) + position.y;
  if (is_packed) keys = packed_keys<kKeys>(forward, cu_seqlens_q, cu_seqlens_k, head_kv, key_tile);
  else keys = dense_keys<kKeys>(forward, head_kv, key_tile);
  if (keys.key0 >= keys.length) return;  // a surplus tile, or inconsistent cu_seqlens
  if (keys.key0 < chunk.first_key || keys.key0 >= chunk.end_key) return;
  QueryTile sequence = keys.sequence;
  if (has_seqused_k && sequence.query_length > 0)
    sequence.key_length = clamp(seqused_k[sequence.sequence], 0, sequence.key_length);

  // The rows that see them, and those of the chunk's tiles among them.
  const int heads_per_kv = sequence.heads_per_kv, rows = sequence.rows();
  const Mask mask = sequence.mask(forward), seers = mask.transposed(sequence.query_length);
  const int last_key = min(keys.key0 + kKeys, mask.key_length) - 1;
  const bool is_used = last_key >= keys.key0;  // whether any of them is there to see
  const int first_seer = is_used ? seers.visible(keys.key0).begin * heads_per_kv : 0;
  const int end_seer = is_used ? max(0, seers.visible(last_key).end * heads_per_kv) : 0;
  const int first_tile = is_packed ? uint(sequence.query_start * heads_per_kv) / kTileRows + sequence.sequence + 1
                                   : sequence.sequence * (uint(rows + kTileRows - 1) / kTileRows);
  const Turn turn(first_tile + uint(first_seer) / kTileRows, first_tile + uint(end_seer + kTileRows - 1) / kTileRows,
                  int(chunk.first_tile), int(chunk.end_tile));
  if (!turn.is_mine) return;
  const int begin = turn.is_first ? first_seer & -kBlockM : (int(chunk.first_tile) - first_tile) * kTileRows;
  const int end = turn.is_last ? end_seer : (int(chunk.end_tile) - first_tile) * kTileRows;

  // This SIMD group's keys and columns.
  const Lane lane = lane_position(lane_index);
  const uint thread_index = simdgroup * kSimdWidth + lane_index;
  const int part = simdgroup % kParts, key0 = keys.key0 + simdgroup / kParts * kStoredKeys;
  const bool makes_value = part < kValueParts;
  const int first_column = (makes_value ? part : part - kValueParts) * kColumns;
  const int own_last = min(key0 + kStoredKeys, mask.key_length) - 1;
  const int own_begin = seers.visible(key0).begin * heads_per_kv;
  const int own_end = own_last < key0 ? 0 : seers.visible(own_last).end * heads_per_kv;

  Rows block(sequence.rows_of(grad_output, params.grad_output, 0, forward.value_dim),
             sequence.rows_of(query, forward.query, 0, forward.head_dim), begin, makes_value, first_column,
             (threadgroup Element*)memory, thread_index, lane);
  typename Rows::Sum sum;
  const int sums_tile = min(keys.key0 / kKeys, int(params.sum_tiles) - 1);
  const long sums_index = (position.x * params.sum_tiles + sums_tile) * kSimdgroups + simdgroup;
  const long sums_half = grid.x * params.sum_tiles * kSimdgroups;
  if (carries_sums && !turn.is_first) load_sums(sum, key_sums, chunk.carried_from * sums_half + sums_index, lane_index);
  else zero(sum);

  const long row_stride = stored_row_stride<kLoader>(params);
  const int tile_index = first_tile + begin / kTileRows - int(chunk.first_tile);
  weights += lane_index * InTurn<kLoader>::kStoredLane + (makes_value ? 0 : Rows::kStoredGrads);
  weights = stored_rows<kLoader, kTileRows>(weights, params, position.x, tile_index, begin % kTileRows / kFragment);
  int stored_key = 0;  // the place of key0 among those that the tile of rows stores
  for (int row0 = begin; row0 < end; row0 += kBlockM) {
    if (row0 == begin || row0 % kTileRows == 0) {
      weights -= stored_floats(kLoader, stored_key);
      stored_key = key0 - first_stored(chunk, mask.visible(sequence.token(row0 & -kTileRows)).begin);
      weights += stored_floats(kLoader, stored_key);
    }
    block.bring(row0);
    const int end_row = stored_key < params.stored_keys ? own_end : 0;  // whatever max_seqlen_k promised
  UNROLL for (short k = 0; k < kBlockM / kStoredRows; k++) {
      const int stored_row = row0 + k * kStoredRows;
      if (stored_row < end_row && stored_row + kStoredRows > own_begin) block.multiply(sum, k, weights, row_stride);
      weights += kStoredRows / kFragment * row_stride;
    }
  }

  if (carries_sums && !turn.is_last) {
    store_sums(key_sums, sum, chunk.carried_to * sums_half + sums_index, lane_index);
    return;
  }
  constant Strides& strides = makes_value ? params.grad_value : params.grad_key;
  device T* target = makes_value ? grad_value : grad_key;
  target += sequence.batch * strides.batch + sequence.key_start * strides.token + head_kv * strides.head;
  const int columns = (makes_value ? int(forward.value_dim) : int(forward.head_dim)) - first_column;
  store_sum(target + first_column, strides.token, sum, makes_value ? 1 : softmax_scale, key0, keys.length, columns,
            lane);
}
