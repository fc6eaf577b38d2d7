// Gradients of keys and values, from the weights that attention_backward_queries has stored: dK = scale dS^T Q and
// dV = P^T dO. A plain product: masks, features and softmax are in what is stored.
//
// A threadgroup owns keys of one sequence and one key/value head, and goes through the rows that see them. Its SIMD
// groups divide the keys among them (kKeyGroups, of kStoredKeys each) and the columns, kColumns each, first those of dV
// and then those of dK. They sum the transpose, [columns, keys] += dO^T P, whose right operands are the stored
// fragments as they are.
#include <metal_stdlib>
#include "blocks_staged.h"
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "staging.h"
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

// sum[kColumns, keys] += transpose(rows[8, kColumns]) * stored[8, keys]. rows: from this lane's place in the first
// transposed fragment on, which simdgroup_load would compute for each.
template <int kStride, typename T, int kColumns, int kKeys>
inline void multiply_stored(thread RegisterTile<float, kColumns, kKeys>& sum, threadgroup const T* rows,
                            device const float* stored) {
  simdgroup_matrix<float, kFragment, kFragment> weights[kKeys / kFragment];
  UNROLL for (short n = 0; n < kKeys / kFragment; n++)
    elements(weights[n]) = *(device const float2*)(stored + n * (4 * kSimdWidth));
  simdgroup_matrix<T, kFragment, kFragment> columns;
  UNROLL for (short m = 0; m < kColumns / kFragment; m++) {
    elements(columns) = vec<T, 2>{rows[m * kFragment], rows[m * kFragment + kStride]};
    UNROLL for (short n = 0; n < kKeys / kFragment; n++)
      simdgroup_multiply_accumulate(sum.frag[m][n], columns, weights[n], sum.frag[m][n]);
  }
}

// target[key, column] = factor * sum[column, key], for keys from key0 on; missing keys and columns are not written.
template <typename T, int kColumns, int kKeys>
inline void store_transposed(device T* target, long stride, thread RegisterTile<float, kColumns, kKeys>& sum,
                             float factor, int key0, int keys, int columns, Lane lane) {
  UNROLL for (short n = 0; n < kKeys / kFragment; n++)
    UNROLL for (short e = 0; e < 2; e++) {
      const int key = key0 + n * kFragment + lane.column + e;
      if (key < keys)
        UNROLL for (short m = 0; m < kColumns / kFragment; m++) {
          const int column = m * kFragment + lane.row;
          if (has_column(columns, column)) target[key * stride + column] = T(factor * elements(sum.frag[m][n])[e]);
        }
    }
}

// Grid: (key/value heads, tiles of keys of all sequences), of the chunk. kBlockM rows are staged at a time;
// kTileRows are a tile's in attention_backward_queries. Gradients are written whole, with 0 for keys that no row sees.
template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kKeyGroups, int kBlockM,
          int kTileRows>
[[kernel, max_total_threads_per_threadgroup((kHeadDim + kValueDim) / kColumns * kKeyGroups *
                                            kSimdWidth)]] void attention_backward_keys(
    constant ChunkParams& chunk [[buffer(0)]], constant BackwardParams& params [[buffer(1)]],
    constant float& softmax_scale [[buffer(2)]],
    device const T* query [[buffer(3)]],        // [batch, query_length, num_heads, head_dim]
    device const T* grad_output [[buffer(4)]],  // [batch, query_length, num_heads, value_dim]
    device const float* weights [[buffer(5)]],  // stored_weights.h
    device T* grad_key [[buffer(6)]],           // [batch, key_length, num_heads_kv, head_dim]
    device T* grad_value [[buffer(7)]],         // [batch, key_length, num_heads_kv, value_dim]
    device float2* key_sums [[buffer(8), function_constant(carries_sums)]],         // of tiles that more rows see
    device const int* cu_seqlens_q [[buffer(9), function_constant(is_packed)]],     // [batch + 1]
    device const int* cu_seqlens_k [[buffer(10), function_constant(is_packed)]],    // [batch + 1]
    device const int* seqused_k [[buffer(11), function_constant(has_seqused_k)]],   // [batch]
    uint3 position [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kValueParts = kValueDim / kColumns, kParts = kValueParts + kHeadDim / kColumns;
  constexpr int kSimdgroups = kParts * kKeyGroups, kThreads = kSimdgroups * kSimdWidth;
  constexpr int kKeys = kKeyGroups * kStoredKeys;
  constexpr int kStride = StagedTile<T, kBlockM, larger(kHeadDim, kValueDim), 1, Element>::kStride;  // of both blocks
  static_assert(kHeadDim % kColumns == 0 && kValueDim % kColumns == 0, "a SIMD group's columns are of one gradient");
  static_assert(kTileRows % kBlockM == 0, "a block of rows lies in one tile");
  threadgroup float4 memory[2 * kBlockM * kStride * sizeof(Element) / 16];

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

  threadgroup Element* grads_block = (threadgroup Element*)memory;
  threadgroup Element* queries_block = grads_block + kBlockM * kStride;
  threadgroup const Element* own_block = makes_value ? grads_block : queries_block;
  own_block += first_column + lane.column * kStride + lane.row;
  using GradStager = Stager<Element, kBlockM, kValueDim, kStride, kThreads>;
  using QueryStager = Stager<Element, kBlockM, kHeadDim, kStride, kThreads>;
  const GradStager grad_stager(thread_index, forward.value_dim);
  const QueryStager query_stager(thread_index, forward.head_dim);
  QueryWalk<T, GradStager::kStep> grads(sequence.rows_of(grad_output, params.grad_output, grad_stager.column, 0),
                                        begin + grad_stager.row);
  QueryWalk<T, QueryStager::kStep> queries(sequence.rows_of(query, forward.query, query_stager.column, 0),
                                           begin + query_stager.row);
  RegisterTile<float, kColumns, kStoredKeys> sum;
  const int sums_tile = min(keys.key0 / kKeys, int(params.sum_tiles) - 1);
  const long sums_index = (position.x * params.sum_tiles + sums_tile) * kSimdgroups + simdgroup;
  const long sums_half = grid.x * params.sum_tiles * kSimdgroups;
  if (carries_sums && !turn.is_first)
    load_sums(sum, key_sums, chunk.carried_from * sums_half + sums_index, lane_index);
  else zero(sum);

  const long row_stride = stored_row_stride(params);
  const int tile_index = first_tile + begin / kTileRows - int(chunk.first_tile);
  weights += lane_index * 4 + (makes_value ? 0 : 2);
  weights = stored_rows<kTileRows>(weights, params, position.x, tile_index, begin % kTileRows / kFragment);
  int stored_key = 0;  // the place of key0 among those that the tile of rows stores
  for (int row0 = begin; row0 < end; row0 += kBlockM) {
    if (row0 == begin || row0 % kTileRows == 0) {
      weights -= stored_key * (2 * kFragment);
      stored_key = key0 - first_stored(chunk, mask.visible(sequence.token(row0 & -kTileRows)).begin);
      weights += stored_key * (2 * kFragment);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
    grad_stager.stage(grads_block, grads, rows - row0);
    query_stager.stage(queries_block, queries, rows - row0);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the rows are there
    const int end_row = stored_key < params.stored_keys ? own_end : 0;  // whatever max_seqlen_k promised
    UNROLL for (short k = 0; k < kBlockM / kFragment; k++) {
      const int fragment_row = row0 + k * kFragment;
      if (fragment_row < end_row && fragment_row + kFragment > own_begin)
        multiply_stored<kStride>(sum, own_block + k * kFragment * kStride, weights);
      weights += row_stride;
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
  store_transposed(target + first_column, strides.token, sum, makes_value ? 1 : softmax_scale, key0, keys.length,
                   columns, lane);
}

// The host name is KeysTile.kernel's (planning/backward_tiles.py).
#define INSTANTIATE(name, T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows) \
  template [[host_name("attention_backward_keys_" #name "_d" #head_dim "_v" #value_dim "_c" #columns "_k" #key_groups \
                       "_m" #block_m "_t" #tile_rows)]] [[kernel]] decltype(attention_backward_keys< \
      T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows>) \
      attention_backward_keys<T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows>;

#include "instances_backward_keys.h"
