"""The kernels that use the matrix unit, which are compiled at run time only, and all that they include. Written by
tools/embed.py from flash_sdpa/, where they are to be changed."""

# ruff: noqa: E501

TEXTS = {
    "attention_backward_keys.h": r"""// Gradients of keys and values, from the weights that attention_backward_queries has stored: dK = scale dS^T Q and
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
""",
    "attention_backward_queries.h": r"""// Gradients of the queries, and the weights that those of keys and values are made of. Rows own, as in
// attention_forward: a threadgroup has rows of one sequence and one key/value head, and goes through the keys they see.
//   for each block of kBlockN keys:  S = Q K^T;  dP = dO V^T;  P = exp2(scale_log2 (S - row_max) - log2_sum);
//                                    dS = P (dP - delta);  dQ += dS K;  P and dS to memory
// With dropout, dP is of the weights that were kept, and so is the P that is stored.
#pragma once
#include <metal_stdlib>
#include "bias.h"
#include "dropout.h"
#include "exchange.h"
#include "function_constants.h"
#include "gradients.h"
#include "mask.h"
#include "pages.h"
#include "params.h"
#include "score.h"
#include "sequence.h"
#include "stored_weights.h"
#include "tile.h"
using namespace metal;

// Grid: (key/value heads, tiles of query rows), of the chunk; the last tiles first, which causal masks make the
// heaviest. Layouts are attention_forward's. Element is what products are made of: T, or what it widens to. grad_query is
// written whole, with 0 for rows that see no key.
template <typename T, typename Element, int kHeadDim, int kValueDim, int kBlockN, int kRowGroups, int kSlices,
          Loader kLoader>
[[kernel, max_total_threads_per_threadgroup(kRowGroups * kSlices * kSimdWidth)]] void attention_backward_queries(
    constant ChunkParams& chunk [[buffer(0)]], constant BackwardParams& params [[buffer(1)]],
    constant ScoreParams& score [[buffer(2)]], constant float& softmax_scale [[buffer(3)]],
    device const T* query [[buffer(4)]],             // [batch, query_length, num_heads, head_dim]
    device const T* key [[buffer(5)]],               // [batch, key_length, num_heads_kv, head_dim]
    device const T* value [[buffer(6)]],             // [batch, key_length, num_heads_kv, value_dim]
    device const T* grad_output [[buffer(7)]],       // [batch, query_length, num_heads, value_dim]
    device const float2* row_softmax [[buffer(8)]],  // [batch, num_heads, query_length]: row_max, log2_sum
    device const float* row_terms [[buffer(9)]],     // [batch, num_heads, query_length]: delta
    device T* grad_query [[buffer(10)]],             // [batch, query_length, num_heads, head_dim]
    device float* weights [[buffer(11), function_constant(stores_weights)]],        // stored_weights.h
    device float2* query_sums [[buffer(12), function_constant(carries_sums)]],      // of tiles that see more keys
    device const int* cu_seqlens_q [[buffer(13), function_constant(is_packed)]],    // [batch + 1]
    device const int* cu_seqlens_k [[buffer(14), function_constant(is_packed)]],    // [batch + 1]
    device const int* seqused_k [[buffer(15), function_constant(has_seqused_k)]],   // [batch]
    device const int* block_table [[buffer(16), function_constant(is_paged)]],      // [batch, block_table_stride]
    device const float* alibi_slopes [[buffer(17), function_constant(has_alibi)]],  // [num_heads] or [batch, num_heads]
    device const float* sinks [[buffer(18), function_constant(has_sinks)]],         // [num_heads]
    constant DropoutParams& dropout_params [[buffer(19), function_constant(has_dropout)]],
    device const uchar* attn_bias
    [[buffer(20), function_constant(has_bias)]],  // [batch, num_heads, query_length, keys]
    uint3 position [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr bool kStaged = kLoader == Loader::staged;
  constexpr int kRows = stored_block_rows(kLoader), kBlockM = kRowGroups * kRows;
  constexpr int kSimdgroups = kRowGroups * kSlices, kThreads = kSimdgroups * kSimdWidth;
  static_assert(kStoredKeys % kBlockN == 0, "stored blocks are whole blocks of keys");
  using Kind = Kinds<kLoader>;
  using Scores = typename Kind::template Registers<kRows, kBlockN>;
  using Keys = typename InTurn<kLoader>::template Blocks<T, Element, kBlockN, kHeadDim, kSlices, kThreads>;
  using Values = typename InTurn<kLoader>::template Blocks<T, Element, kBlockN, kValueDim, kSlices, kThreads>;
  using KeyTile = typename Keys::Tile;
  using ValueTile = typename Values::Tile;
  constexpr int kBlockBytes = KeyTile::kBytes + ValueTile::kBytes;
  constexpr int kSliceBytes = slice_bytes<kRows, kBlockN, kSlices, kSimdgroups>();
  constexpr int kVoteBytes = kSimdgroups * sizeof(float4);
  threadgroup float4 memory[larger(kBlockBytes + 2 * kSliceBytes, kVoteBytes) / 16];
  threadgroup float2 saved[kSimdgroups * kRows];  // each row's softmax as the forward pass left it

  // This threadgroup's rows, and those of the keys they see that the chunk has.
  constant ForwardParams& forward = params.forward;
  const int tile_index = grid.y - 1 - position.y, head_kv = int(chunk.first_head) + position.x;
  QueryTile tile;
  if (is_packed)
    tile = packed_tile<kBlockM>(forward, cu_seqlens_q, cu_seqlens_k, head_kv, int(chunk.first_tile) + tile_index);
  else tile = dense_tile<kBlockM>(forward, head_kv, int(chunk.first_tile) + tile_index);
  if (has_seqused_k && tile.key_length > 0) tile.key_length = clamp(seqused_k[tile.sequence], 0, tile.key_length);
  const int rows = tile.rows(), last_row = min(tile.row0 + kBlockM, rows) - 1;
  if (tile.row0 >= rows) return;  // a surplus tile, or inconsistent cu_seqlens
  const Mask mask = tile.mask(forward);
  const KeyBlocks blocks = key_blocks(mask, tile.token(tile.row0), tile.token(last_row), kStoredKeys);
  const Turn turn(blocks.begin, blocks.end, int(chunk.first_key), int(chunk.end_key));
  if (!turn.is_mine) return;
  const int begin = first_stored(chunk, blocks.begin);
  int end = min((blocks.end + kStoredKeys - 1) & -kStoredKeys, int(chunk.end_key));
  if (stores_weights) end = min(end, begin + int(params.stored_keys));  // whatever max_seqlen_k promised

  // This SIMD group's rows and columns.
  const Lane lane = lane_position(lane_index);
  const uint thread_index = (simdgroup * kSimdWidth + lane_index) % kThreads;  // which bounds it for the compiler
  const int slice = simdgroup % kSlices, row0 = tile.row0 + simdgroup / kSlices * kRows;
  const int first_column = slice * (kHeadDim / kSlices), first_value_column = slice * (kValueDim / kSlices);
  Mask own_mask = mask;
  if (row0 >= rows) own_mask.key_length = 0;
  const RowRanges<kRows> visible(own_mask, row0, rows, tile.heads_per_kv, lane);

  threadgroup float2* slices = (threadgroup float2*)memory + kBlockBytes / sizeof(float2);
  typename Kind::template Query<Element, kRows, kHeadDim / kSlices> query_tile;
  typename Kind::template Query<Element, kRows, kValueDim / kSlices> grad_tile;  // dO
  Scores scores;                                                                 // then weights
  Scores grads;                                                                  // of the weights, then of the scores
  typename Kind::template Registers<kRows, kHeadDim / kSlices> accumulator;      // dQ, before it is scaled

  const int head_dim = forward.head_dim, value_dim = forward.value_dim;
  load<KeyTile>(query_tile, tile.rows_of(query, forward.query, first_column, head_dim), row0, score.query_factor, lane);
  load<ValueTile>(
      grad_tile, tile.rows_of(grad_output, params.grad_output, first_value_column, value_dim), row0, 1, lane);
  RowSoftmax<kRows> softmax(score.scale_log2);
  softmax.load(row_softmax, forward, tile, row0, lane);
  const RowVector<kRows> delta = load_rows<kRows>(row_terms, forward, tile, row0, lane);
  Pages pages;
  if (is_paged) pages = pages_of(block_table, forward, tile.sequence);
  Alibi<kRows> alibi;
  if (has_alibi && tile.key_length > 0)
    alibi.place(alibi_slopes + tile.sequence * forward.alibi_batch_stride + tile.head(0), score.scale, row0, rows,
                tile.heads_per_kv, mask.diagonal, lane);
  Bias<T, kRows> bias;
  if (has_bias) bias.place(attn_bias, forward, tile, row0, lane);
  Dropout<kRows> dropout;
  if (has_dropout) dropout.place(dropout_params, tile.sequence, tile.head(0), row0, rows, tile.heads_per_kv, lane);
  const long sums_index = (position.x * params.stored_tiles + tile_index) * kSimdgroups + simdgroup;
  if (carries_sums && !turn.is_first) load_sums(accumulator, query_sums, sums_index, lane_index);
  else zero(accumulator);
  device float* target;  // where the next block's weights go
  if (stores_weights)
    target = stored_rows<kLoader, kBlockM>(
                 weights, params, position.x, tile_index, simdgroup / kSlices * (kRows / kFragment)) +
             lane_index * InTurn<kLoader>::kStoredLane;

  // In a first pass rows with large scores find their maximum and sum anew, over all keys that they see.
  bool recounts = any_simdgroup<kSimdgroups>((threadgroup uint*)memory, softmax.any_large(), simdgroup, lane_index);
  threadgroup float2* kept_softmax = saved + simdgroup * kRows + lane.row;
  if (recounts) softmax.save(kept_softmax, lane);
  const bool sees_more = carries_sums && recounts;  // than the keys of the chunk
  threadgroup Element* blocks_memory = (threadgroup Element*)memory;
  Keys keys(tile.keys_of(key, forward.key, sees_more ? blocks.begin : begin, head_dim, pages), blocks_memory, slice,
            thread_index, lane);
  Values values(tile.keys_of(value, forward.value, begin, value_dim, pages),
                blocks_memory + KeyTile::kBytes / sizeof(Element), slice, thread_index, lane);
  for (;;) {
    const int first_key = carries_sums && recounts ? blocks.begin : begin;
    const int end_key = carries_sums && recounts ? blocks.end : end;
    int key0 = first_key;
    for (; key0 < end_key; key0 += kBlockN, target += stored_floats(kLoader, kBlockN)) {
      if (kStaged || kSlices > 1 || recounts)
        threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
      else threadgroup_barrier(mem_flags::mem_none);      // for SIMD groups to find keys and values in the cache
      keys.bring(key0);
      if (!recounts) values.bring(key0);
      if (kStaged) threadgroup_barrier(mem_flags::mem_threadgroup);  // keys and values are there
      // Each lane asks its own row: ranges of the tile and of the SIMD group would take registers through the loop.
      const bool is_full = see_all(visible, key0, kBlockN);
      const bool is_seen = is_full || is_stored(visible, key0);
      if (kSlices == 1 && !is_seen) continue;  // loaded for the others; nothing to compute

      zero(scores);
      multiply_transposed(scores, query_tile, keys.tile, lane);  // S = Q K^T
      if (kSlices > 1) add_slices<kSlices>(slices, scores, simdgroup, lane_index);
      if (!recounts) {
        if (slice > 0 || has_dropout) zero(grads);
        else fill_negative(grads, delta);
        multiply_transposed(grads, grad_tile, values.tile, lane);  // dP - delta
        if (kSlices > 1) add_slices<kSlices>(slices + kSliceBytes / sizeof(float2), grads, simdgroup, lane_index);
      }
      Kept<kRows> kept;
      if (has_dropout && !recounts) {
        kept = kept_weights<kBlockN>(dropout, key0, lane);
        arrange<Scores>(kept, lane);
        drop(grads, kept);
        scale_less_rows(grads, dropout_factor(dropout_params), delta);
      }
      if (has_softcap) {
        apply_softcap(scores, score.tanh_scale);
        if (!recounts) multiply_by_derivative(grads, scores);
      }
      if (has_alibi) add_alibi(scores, alibi, score.bias_factor, key0, lane);
      if (has_bias)
        add_bias(scores, bias, visible, is_full, has_alibi ? 1 : score.bias_factor, score.scale, key0, lane);
      if (!is_full) hide_invisible(scores, visible, key0, lane);
      if (recounts) {
        RowVector<kRows> rescale;
        softmax.online.update(scores, rescale);
        continue;
      }
      softmax.weigh(scores);             // S -> P
      multiply_elements(grads, scores);  // dP - delta -> dS
      round_tile(grads);
      if (has_dropout && stores_weights) {
        drop(scores, kept);
        scale(scores, dropout_factor(dropout_params));
      }
      if (stores_weights && is_seen)
        store_weights<kSlices>(target, stored_row_stride<kLoader>(params), scores, grads, slice, lane_index);
      multiply(accumulator, grads, keys.tile, lane);  // dQ += dS K
    }
    if (!recounts) break;
    softmax.finish(kept_softmax, score.scale, sinks, tile, row0, lane);
    keys.skip(begin - key0);
    target -= stored_floats(kLoader, key0 - first_key);
    recounts = false;
  }

  if (carries_sums && !turn.is_last) {
    store_sums(query_sums, accumulator, sums_index, lane_index);
    return;
  }
  scale(accumulator, softmax_scale);
  store<KeyTile>(tile.rows_of(grad_query, params.grad_query, first_column, head_dim), accumulator, row0, lane);
}
""",
    "attention_backward_unit.metal": r"""// The backward kernels that use the matrix unit, under the conditions of attention_forward_unit.metal.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include "unit_gradients.h"

// After what the loader declares, as they call that.
#include "attention_backward_keys.h"
#include "attention_backward_queries.h"
using namespace metal;

// The host names are QueriesTile.kernel's and KeysTile.kernel's (planning/backward_tiles.py).
#define INSTANTIATE_QUERIES(name, T, head_dim, value_dim, block_n, row_groups, slices, loader) \
  template [[host_name("attention_backward_queries_" #name "_d" #head_dim "_v" #value_dim "_n" #block_n "_g" \
                       #row_groups "x" #slices "_" #loader)]] [[kernel]] decltype(attention_backward_queries< \
      T, T, head_dim, value_dim, block_n, row_groups, slices, Loader::loader>) \
      attention_backward_queries<T, T, head_dim, value_dim, block_n, row_groups, slices, Loader::loader>;
#define INSTANTIATE_KEYS(name, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, loader) \
  template [[host_name("attention_backward_keys_" #name "_d" #head_dim "_v" #value_dim "_c" #columns "_k" #key_groups \
                       "_m" #block_m "_t" #tile_rows "_" #loader)]] [[kernel]] decltype(attention_backward_keys< \
      T, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, Loader::loader>) \
      attention_backward_keys<T, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, Loader::loader>;

#include "instances_backward_unit.h"
#endif
""",
    "attention_forward.h": r"""// Forward attention (FlashAttention-2, Dao 2023): softmax(scale * Q K^T) V in one pass over the keys.
//
// A threadgroup owns rows of one sequence and one key/value head; a row is one token of one of the query heads that
// share it (row r: token r / heads_per_kv, head r % heads_per_kv of them). Its SIMD groups divide the rows among them
// (kRowGroups, of kRows rows each), and may divide the columns of a row (kSlices) or the keys (kKeyGroups).
//   for each block of kBlockN keys:  S = Q K^T;  P = exp2(scale_log2 (S - row_max));  O = rescale O + P V
//   O = O / row_sum
#pragma once
#include <metal_stdlib>
#include "bias.h"
#include "dropout.h"
#include "exchange.h"
#include "function_constants.h"
#include "mask.h"
#include "overflow.h"
#include "pages.h"
#include "params.h"
#include "score.h"
#include "sequence.h"
#include "softmax.h"
#include "tile.h"
using namespace metal;

// Grid: (key/value heads, tiles of query rows from first_tile on, splits). Threadgroups start in the order of their
// linear index: all heads of a tile together, and the last tiles first, which causal masks make the heaviest, so that the
// light ones are left to fill the cores at the end.
//
// Packed tensors have total_q or total_k in the place of batch and length, paged keys and values num_pages and
// page_size. Rows hold params.head_dim (query, key) and params.value_dim (value, output) elements, up to kHeadDim and
// kValueDim. Output rows of no sequence are written too (0, and lse -inf). With is_split each split writes the result
// of its own keys, for attention_combine to join: [num_splits, ...], the output in fp32, and in the place of lse the
// row_max and row_sum of its softmax, a float2.
template <typename T, int kHeadDim, int kValueDim, int kRows, int kBlockN, int kRowGroups, int kSlices, int kKeyGroups,
          Loader kLoader>
[[kernel, max_total_threads_per_threadgroup(kRowGroups * kSlices * kKeyGroups * kSimdWidth)]] void attention_forward(
    constant ForwardParams& params [[buffer(0)]], constant ScoreParams& score [[buffer(1)]],
    device const T* query [[buffer(2)]],                             // [batch, query_length, num_heads, head_dim]
    device const T* key [[buffer(3)]],                               // [batch, key_length, num_heads_kv, head_dim]
    device const T* value [[buffer(4)]],                             // [batch, key_length, num_heads_kv, value_dim]
    device T* output [[buffer(5)]],                                  // [batch, query_length, num_heads, value_dim]
    device float* lse [[buffer(6), function_constant(writes_lse)]],  // [batch, num_heads, query_length]
    device const int* cu_seqlens_q [[buffer(7), function_constant(is_packed)]],     // [batch + 1]
    device const int* cu_seqlens_k [[buffer(8), function_constant(is_packed)]],     // [batch + 1]
    device const int* seqused_k [[buffer(9), function_constant(has_seqused_k)]],    // [batch]
    device const int* block_table [[buffer(10), function_constant(is_paged)]],      // [batch, block_table_stride]
    device const float* alibi_slopes [[buffer(11), function_constant(has_alibi)]],  // [num_heads] or [batch, num_heads]
    device const float* sinks [[buffer(12), function_constant(has_sinks)]],         // [num_heads]
    device float2* row_softmax [[buffer(13), function_constant(writes_softmax)]],   // as lse: row_max, log2_sum
    constant DropoutParams& dropout_params [[buffer(14), function_constant(has_dropout)]],
    device const uchar* attn_bias
    [[buffer(15), function_constant(has_bias)]],  // [batch, num_heads, query_length, keys]
    uint3 position [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kSimdgroups = kRowGroups * kSlices * kKeyGroups, kThreads = kSimdgroups * kSimdWidth;
  constexpr int kBlockM = kRowGroups * kRows;
  constexpr bool kStaged = kLoader == Loader::staged;
  constexpr bool kUnit = kLoader == Loader::unit || kLoader == Loader::unit_rereads;
  static_assert(kKeyGroups == 1 || (kRowGroups == 1 && kSlices == 1 && !kStaged), "no barriers for every block");
  using Kind = Kinds<kLoader>;
  using KeyTile = typename Kind::template Block<T, kBlockN, kHeadDim, kSlices>;
  using ValueTile = typename Kind::template Block<T, kBlockN, kValueDim, kSlices>;
  using Element = typename KeyTile::Element;  // of the products: T, or what it widens to
  using Scores = typename Kind::template Registers<kRows, kBlockN>;
  constexpr int kSliceBytes = slice_bytes<kRows, kBlockN, kSlices, kSimdgroups>();
  // Where keys and values do not fit together, values take the keys' place once all have multiplied with those.
  constexpr bool kTakeTurns = KeyTile::kBytes + ValueTile::kBytes + kSliceBytes > kThreadgroupBytes;
  static_assert(!kTakeTurns || kSlices > 1, "no barrier between keys and values");
  constexpr int kValueOffset = kTakeTurns ? 0 : KeyTile::kBytes;
  constexpr int kBlockBytes = larger(KeyTile::kBytes, kValueOffset + ValueTile::kBytes);
  constexpr int kMemory =
      larger(kBlockBytes + kSliceBytes, merge_bytes<kRows, kValueDim, kKeyGroups, Scores::kRounds>());
  constexpr bool kMayOverflow = !is_same_v<T, half>;    // no sum of 2^30 half values leaves fp32
  constexpr bool kKeepsStep = kUnit && kRowGroups > 1;  // for SIMD groups to find keys and values in the cache
  constexpr bool kIsShared = kStaged || kKeepsStep || kSlices > 1 || kKeyGroups > 1;  // they go through keys together
  constexpr int kVoteBytes = kKeepsStep ? kSimdgroups * sizeof(uint2) : 16;
  threadgroup float4 memory[larger(kMemory, kVoteBytes) / 16];

  // This threadgroup's rows, and the keys they see.
  const int head_kv = position.x, tile_index = int(params.first_tile) + grid.y - 1 - position.y;
  QueryTile tile;
  if (is_packed) tile = packed_tile<kBlockM>(params, cu_seqlens_q, cu_seqlens_k, head_kv, tile_index);
  else tile = dense_tile<kBlockM>(params, head_kv, tile_index);
  if (has_seqused_k && tile.key_length > 0) tile.key_length = clamp(seqused_k[tile.sequence], 0, tile.key_length);
  const int rows = tile.rows(), last_row = min(tile.row0 + kBlockM, rows) - 1;
  if (tile.row0 >= rows) return;  // a surplus tile, or inconsistent cu_seqlens
  const Mask mask = tile.mask(params);
  KeyBlocks blocks = key_blocks(mask, tile.token(tile.row0), tile.token(last_row), kBlockN);
  if (is_split) blocks = split_blocks(blocks, position.z, int(params.num_splits), kBlockN);

  // This SIMD group's rows, columns and keys.
  const Lane lane = lane_position(lane_index);
  const uint thread_index = simdgroup * kSimdWidth + lane_index;
  const int slice = simdgroup % kSlices, key_group = simdgroup % kKeyGroups;
  const int row0 = tile.row0 + simdgroup / (kSlices * kKeyGroups) * kRows;
  const int first_column = slice * (kHeadDim / kSlices), first_value_column = slice * (kValueDim / kSlices);
  const int begin = blocks.begin + key_group * kBlockN, step = kKeyGroups * kBlockN;
  const RowRanges<kRows> visible(mask, row0, rows, tile.heads_per_kv, lane);
  KeyRange own = visible.any_row();  // seen by any of these rows
  if (row0 >= rows) own.end = 0;

  threadgroup float2* shared = (threadgroup float2*)memory;
  threadgroup float2* slices = shared + kBlockBytes / sizeof(float2);
  KeyTile key_tile = {(threadgroup Element*)memory, slice};
  ValueTile value_tile = {(threadgroup Element*)memory + kValueOffset / sizeof(Element), slice};
  typename Kind::template Query<Element, kRows, kHeadDim / kSlices> query_tile;
  Scores scores;                                                              // then weights
  typename Kind::template Registers<kRows, kValueDim / kSlices> accumulator;  // the output, until divided by row_sum
  OnlineSoftmax<kRows, Scores::kRounds> softmax(score.scale_log2);

  const int head_dim = params.head_dim, value_dim = params.value_dim;
  load<KeyTile>(query_tile, tile.rows_of(query, params.query, first_column, head_dim), row0, score.query_factor, lane);
  Pages pages;
  if (is_paged) pages = pages_of(block_table, params, tile.sequence);
  KeyRows<T> keys = tile.keys_of(key, params.key, begin, head_dim, pages);
  KeyRows<T> values = tile.keys_of(value, params.value, begin, value_dim, pages);
  KeyTile::place(keys, slice, lane);
  ValueTile::place(values, slice, lane);
  Alibi<kRows> alibi;
  if (has_alibi && tile.key_length > 0)
    alibi.place(alibi_slopes + tile.sequence * params.alibi_batch_stride + tile.head(0), score.scale, row0, rows,
                tile.heads_per_kv, mask.diagonal, lane);
  Bias<T, kRows> bias;
  if (has_bias) bias.place(attn_bias, params, tile, row0, lane);
  Dropout<kRows> dropout;
  if (has_dropout) dropout.place(dropout_params, tile.sequence, tile.head(0), row0, rows, tile.heads_per_kv, lane);

  bool shrinks = false;  // true in a second pass, for sums of values that overflowed in the first
  for (;;) {
    softmax.start();
    zero(accumulator);
    int key0 = begin;
    for (; key0 < blocks.end; key0 += step, keys.advance(step), values.advance(step)) {
      keys.first = values.first = key0;
      if (kStaged || kSlices > 1) threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
      else if (kKeepsStep) threadgroup_barrier(mem_flags::mem_none);
      load_block<kThreads>(key_tile, keys, thread_index);
      if (!kTakeTurns) load_block<kThreads>(value_tile, values, thread_index);
      if (kStaged) threadgroup_barrier(mem_flags::mem_threadgroup);  // keys and values are there
      if (kSlices == 1 && !own.meets(key0, kBlockN)) continue;       // loaded for the others; nothing to compute
      if (bias_is_mask && kSlices == 1 && !shows_any<Scores>(bias, visible, blocks.is_full(key0, kBlockN), key0, lane))
        continue;

      zero(scores);
      multiply_transposed(scores, query_tile, key_tile, lane);  // S = Q K^T
      if (kSlices > 1) add_slices<kSlices>(slices, scores, simdgroup, lane_index);
      if (kTakeTurns) load_block<kThreads>(value_tile, values, thread_index);
      const bool is_full = blocks.is_full(key0, kBlockN);  // asked for again: kept, it costs the product a register
      if (has_softcap) apply_softcap(scores, score.tanh_scale);
      if (has_alibi) add_alibi(scores, alibi, score.bias_factor, key0, lane);
      if (has_bias)
        add_bias(scores, bias, visible, is_full, has_alibi ? 1 : score.bias_factor, score.scale, key0, lane);
      if (!is_full) hide_invisible(scores, visible, key0, lane);
      RowVector<kRows> rescale;
      if (softmax.update(scores, rescale)) scale_rows(accumulator, rescale);  // S -> P
      if (has_dropout) {
        Kept<kRows> kept = kept_weights<kBlockN>(dropout, key0, lane);
        arrange<Scores>(kept, lane);
        drop(scores, kept);
      }
      if (kTakeTurns) threadgroup_barrier(mem_flags::mem_threadgroup);  // values are there
      multiply(accumulator, scores, value_tile, lane);                  // O += P V
    }
    if (kKeyGroups > 1) merge_key_groups<kKeyGroups>(shared, accumulator, softmax, key_group, lane_index);
    if (!kMayOverflow || shrinks) break;
    shrinks =
        shrink_overflowed<kIsShared, kSimdgroups, kKeyGroups>(shared, accumulator, softmax, simdgroup, lane_index);
    if (!shrinks) break;
    keys.advance(begin - key0);
    values.advance(begin - key0);
  }
  if (key_group > 0) return;

  RowExponentials<kRows> exponentials = softmax.finish(score.scale);
  if (has_sinks) exponentials.add_sinks(sinks + tile.head(0), row0, tile.heads_per_kv, lane);
  const float factor = has_dropout && !is_split ? dropout_factor(dropout_params) : 1;
  const RowVector<kRows> inverse_sum = exponentials.inverse(factor);
  scale_rows(accumulator, inverse_sum);
  if (softmax.keeps_exact_sum()) {
    exponentials = softmax.finish_exact(score.scale);
    if (has_sinks) exponentials.add_sinks(sinks + tile.head(0), row0, tile.heads_per_kv, lane);
  }
  if (kMayOverflow && shrinks) saturate(accumulator);
  if (is_split) {
    device float* part = (device float*)output + position.z * params.output_split_stride;
    store<ValueTile>(tile.rows_of(part, params.output, first_value_column, value_dim), accumulator, row0, lane);
  } else {
    store<ValueTile>(tile.rows_of(output, params.output, first_value_column, value_dim), accumulator, row0, lane);
  }
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    const int row = row0 + i * kFragment + lane.row;
    if ((writes_lse || writes_softmax) && lane.column == 0 && slice == 0 && row < rows) {
      const long index = tile.lse_index(params, row);
      const bool sees_keys = softmax.row_sum.at[i] != 0;
      if (is_split) {
        device float2* part = (device float2*)lse + position.z * params.lse_split_stride;
        part[index] = float2{softmax.row_max.at[i], exponentials.at[i].sum};
      } else if (writes_lse) {
        ((device uint*)lse)[index] = exponentials.at[i].log_sum_exp(sees_keys);
      }
      if (writes_softmax) row_softmax[index] = exponentials.at[i].row_softmax(softmax.row_max.at[i], sees_keys);
    }
  }
}
""",
    "attention_forward_unit.metal": r"""// The forward kernels that use the matrix unit of Apple10 GPUs. Never compiled ahead of time: with a deployment target
// below macOS 26.2, which the kernel builder does not let one set, operands in registers are silently laid out in another
// way. Then, and where there is no matrix unit in the language, this file has no kernel.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include "unit.h"

// After what the loader declares, as it calls that.
#include "attention_forward.h"
using namespace metal;

// The host name is Tile.kernel's (planning/tiles.py).
#define INSTANTIATE(name, T, head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows) \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_v" #value_dim "_r" #rows "_n" #block_n "_g" \
                       #row_groups "x" #slices "x" #key_groups "_" #loader)]] [[kernel]] decltype(attention_forward< \
      T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>) \
      attention_forward<T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>;

#include "instances_unit.h"
#endif
""",
    "bias.h": r"""// A bias of every score, or a mask, as the caller gave it: bias[(batch,) head, token, key]. A key is hidden where a mask
// is 0 and where a bias is -inf. An axis of one element has a stride of 0.
#pragma once
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "tile.h"

// Whether a bias is -inf. Compares bits, as fast math may assume that all numbers are finite.
inline bool is_hiding(float bias) { return as_type<uint>(bias) == 0xff800000u; }
inline bool is_hiding(half bias) { return as_type<ushort>(bias) == 0xfc00u; }
inline bool is_hiding(bfloat bias) { return as_type<ushort>(bias) == 0xff80u; }

// The biases of a lane's rows: row[i] belongs to row 8 * i + lane.row. A missing row has those of the last.
template <typename T, int kRows>
struct Bias {
  device const uchar* row[kRows / kFragment];  // of key 0
  int key_stride;                              // 1, or 0 where one bias is that of all keys

  void place(device const uchar* bias, constant ForwardParams& params, QueryTile tile, int row0, Lane lane) {
    const int bytes = bias_is_mask ? 1 : bias_is_float ? sizeof(float) : sizeof(T);
    key_stride = params.bias_key_stride;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int r = min(row0 + i * kFragment + lane.row, tile.rows() - 1);
      row[i] = bias + bytes * (tile.batch * params.bias.batch + tile.head(r) * params.bias.head +
                               (tile.query_start + tile.token(r)) * params.bias.token);
    }
  }
};

// What the bias of a score makes of it, and a mask, whose elements are bytes.
template <typename Element>
inline float biased(float score, Element bias, float factor, float unit) {
  return is_hiding(bias) ? kMaskedScore : fma(float(bias), unit, factor * score);
}
inline float biased(float score, uchar seen, float, float) { return seen == 0 ? kMaskedScore : score; }

// That of column(j, lane) + e of the block from key0 on, for row i. kWhole: every row sees every key, so that addresses
// differ by constants; else no key is read behind the last that a row sees.
template <typename Tile, typename Element, bool kWhole, typename T, int kRows>
inline Element load_element(thread const Bias<T, kRows>& bias, thread const RowRanges<kRows>& visible, short i, short j,
                            short e, int key0, Lane lane) {
  const int first = key0 + Tile::column(0, lane), key = Tile::column(j, Lane{0, 0}) + e;  // from the lane's first on
  device const Element* row = (device const Element*)bias.row[i] + first;
  const int last = max(visible.at[i].end - 1, 0) * bias.key_stride - first;
  return row[kWhole ? key : min(key, last)];
}

// scores[row, key] = factor * scores[row, key] + unit * bias[row, key], or kMaskedScore where the key is hidden. Element:
// of the bias.
template <bool kWhole, typename Element, typename Tile, typename T, int kRows>
inline void add_elements(thread Tile& scores, thread const Bias<T, kRows>& bias,
                         thread const RowRanges<kRows>& visible, float factor, float unit, int key0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const Element element = load_element<Tile, Element, kWhole>(bias, visible, i, j, e, key0, lane);
        pair(scores, i, j)[e] = biased(pair(scores, i, j)[e], element, factor, unit);
      }
}
template <typename Element, typename Tile, typename T, int kRows>
inline void add_elements(thread Tile& scores, thread const Bias<T, kRows>& bias,
                         thread const RowRanges<kRows>& visible, bool is_full, float factor, float unit, int key0,
                         Lane lane) {
  if (is_full && bias.key_stride == 1)
    add_elements<true, Element>(scores, bias, visible, factor, unit, key0, lane);
  else
    add_elements<false, Element>(scores, bias, visible, factor, unit, key0, lane);
}

// What the caller's bias or mask does to scores. is_full: every row sees every key; factor, scale: of ScoreParams.
template <typename Tile, typename T, int kRows>
inline void add_bias(thread Tile& scores, thread const Bias<T, kRows>& bias, thread const RowRanges<kRows>& visible,
                     bool is_full, float factor, float scale, int key0, Lane lane) {
  if (bias_is_mask) add_elements<uchar>(scores, bias, visible, is_full, factor, 1, key0, lane);
  else if (bias_is_float) add_elements<float>(scores, bias, visible, is_full, factor, 1 / scale, key0, lane);
  else add_elements<T>(scores, bias, visible, is_full, factor, 1 / scale, key0, lane);
}

// Whether a mask shows a row of the SIMD group any key of a block. The bytes are loaded again for the scores: kept, they
// would take registers, or clocks to be packed, through the product of queries and keys.
template <typename Tile, bool kWhole, typename T, int kRows>
inline bool shows_any(thread const Bias<T, kRows>& mask, thread const RowRanges<kRows>& visible, int key0, Lane lane) {
  uint shown = 0;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++)
        shown |= load_element<Tile, uchar, kWhole>(mask, visible, i, j, e, key0, lane);
  return simd_any(shown != 0);
}
template <typename Tile, typename T, int kRows>
inline bool shows_any(thread const Bias<T, kRows>& mask, thread const RowRanges<kRows>& visible, bool is_full, int key0,
                      Lane lane) {
  if (is_full && mask.key_stride == 1) return shows_any<Tile, true>(mask, visible, key0, lane);
  return shows_any<Tile, false>(mask, visible, key0, lane);
}
""",
    "blocks_direct.h": r"""// Key or value blocks that each SIMD group loads from device memory straight into its registers.
//
// A lane owns two elements of every 8x8 fragment, but loads a chunk of up to 16 adjacent bytes, and so holds its
// elements of several fragments. That only permutes the columns. A product over them (keys) takes any order that the
// query's columns have, too; store() puts those of the output (values) back.
#pragma once
#include "tile.h"

constexpr int chunk_of(int limit, int columns) {  // largest power of two, at most limit and 8, that divides columns
  return limit >= 8 && columns % 8 == 0   ? 8
         : limit >= 4 && columns % 4 == 0 ? 4
         : limit >= 2 && columns % 2 == 0 ? 2
                                          : 1;
}

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct DirectTile {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  // Elements of a chunk. A fragment of keys has its columns on eight lanes, one of values on four, two each.
  static constant constexpr int kKeyChunk = chunk_of(16 / sizeof(T), kSliceColumns / 8);
  static constant constexpr int kValueChunk = chunk_of(16 / sizeof(T), kSliceColumns / 4);
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of fragment j: kKeyChunk fragments, or kValueChunk / 2, share each chunk.
  static short key_column(short j, short c) { return j / kKeyChunk * kKeyChunk * 8 + c * kKeyChunk + j % kKeyChunk; }
  static short value_column(short j, short c) {
    constexpr short kFragments = kValueChunk / 2;
    return j / kFragments * kValueChunk * 4 + c / 2 * kValueChunk + j % kFragments * 2 + c % 2;
  }
  // A lane finds its place in each block anew.
  static void place(thread KeyRows<T>&, int, Lane) {}

  // This SIMD group's slice of a row: KeyRows' row.
  device const T* row(short begin, short r) const { return rows.row(begin, r) + slice * kSliceColumns; }
  int columns() const { return rows.columns - slice * kSliceColumns; }
};

template <>
struct Kinds<Loader::direct> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = DirectTile<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = RegisterTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = RegisterTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread DirectTile<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

template <int kCount, typename T>
inline void clear_chunk(thread T* chunk) {
  UNROLL for (short e = 0; e < kCount; e++) chunk[e] = T(0);
}

// chunk = source[0 ... kCount - 1]; elements from columns on do not exist and become 0. Copied as vectors: these may
// alias elements of any type, where the compiler takes a scalar of another type to be elsewhere in memory.
template <int kCount, typename T>
inline void load_chunk(thread T* chunk, device const T* source, int columns) {
  constexpr int kBytes = kCount * sizeof(T);
  if (is_aligned && kCount >= 2 && !has_column(columns, 0)) {
    clear_chunk<kCount>(chunk);
  } else if (is_aligned && kBytes == 16) {
    *(thread uint4*)chunk = *(device const uint4*)source;
  } else if (is_aligned && kBytes == 8) {
    *(thread uint2*)chunk = *(device const uint2*)source;
  } else if (is_aligned && kCount == 2) {
    *(thread vec<T, 2>*)chunk = *(device const vec<T, 2>*)source;
  } else {
    UNROLL for (short e = 0; e < kCount; e++) chunk[e] = has_column(columns, e) ? source[e] : T(0);
  }
}

// c[kM, kN] += a[kM, kK] * transpose(slice of b[kN, kColumns])
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<T, kM, kK>& a,
                                DirectTile<T, kN, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kN, kColumns, kSlices>::kKeyChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T first[kChunk];  // of two adjacent keys
  alignas(16) T second[kChunk];
  UNROLL for (short n = 0; n < kN / kFragment; n++) {
    device const T* first_row = b.row(n * kFragment, lane.column);
    device const T* second_row = b.row(n * kFragment, lane.column + 1);
    UNROLL for (short k = 0; k < kK / kFragment; k += kChunk) {
      const short column = b.key_column(k, lane.row);
      load_chunk<kChunk>(first, first_row + column, b.columns() - column);
      load_chunk<kChunk>(second, second_row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk; e++) {
        elements(b_fragment) = vec<T, 2>{first[e], second[e]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k + e], b_fragment, c.frag[m][n]);
      }
    }
  }
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]. a stays fp32, whatever b's type: nothing is rounded before the
// product.
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     DirectTile<T, kK, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kK, kColumns, kSlices>::kValueChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T pairs[kChunk];
  UNROLL for (short k = 0; k < kK / kFragment; k++) {
    device const T* row = b.row(k * kFragment, lane.row);
    UNROLL for (short n = 0; n < kN / kFragment; n += kChunk / 2) {
      const short column = b.value_column(n, lane.column);
      load_chunk<kChunk>(pairs, row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk / 2; e++) {
        elements(b_fragment) = vec<T, 2>{pairs[2 * e], pairs[2 * e + 1]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n + e], a.frag[m][k], b_fragment, c.frag[m][n + e]);
      }
    }
  }
}
""",
    "blocks_staged.h": r"""// Key or value blocks in threadgroup memory, where all SIMD groups read them.
#pragma once
#include "tile.h"

// For GPUs that have no bfloat operands, bfloat is widened on its way here, once, and not by each SIMD group for each
// product.
template <typename T>
using Widened = conditional_t<is_same_v<T, bfloat>, float, T>;

// [kRows, kColumns] of T, as E, row-major. A SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices, typename E = Widened<T>>
struct StagedTile {
  using Element = E;
  static constant constexpr int kChunk = 16 / sizeof(Element);  // elements that move together
  static constant constexpr int kStride = kColumns + kChunk;    // one chunk more: rows start in different banks
  static constant constexpr int kBytes = kRows * kStride * sizeof(Element);
  static_assert(kColumns % kChunk == 0, "whole chunks");
  threadgroup Element* data;  // 16-byte aligned
  int slice;

  threadgroup Element* frag(short i, short j) const {
    return data + i * kFragment * kStride + j * kFragment + slice * (kColumns / kSlices);
  }

  // Column of a slice that is column c of fragment j.
  static short key_column(short j, short c) { return j * kFragment + c; }
  static short value_column(short j, short c) { return j * kFragment + c; }
  // A lane finds its place in each block anew.
  static void place(thread KeyRows<T>&, int, Lane) {}
};

template <>
struct Kinds<Loader::staged> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = StagedTile<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = RegisterTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = RegisterTile<float, kRows, kColumns>;
};

// What fills 16 bytes of threadgroup memory, from device memory.
template <typename T>
inline void copy_whole_chunk(threadgroup T* target, device const T* source) {
  *(threadgroup float4*)target = *(device const float4*)source;
}
inline void copy_whole_chunk(threadgroup float* target, device const bfloat* source) {
  *(threadgroup float4*)target = float4(*(device const bfloat4*)source);
}

// The same; elements from count on do not exist and become 0.
template <typename Element, typename T>
inline void copy_chunk(threadgroup Element* target, device const T* source, int count) {
  if (is_aligned) {
    copy_whole_chunk(target, source);
    return;
  }
  UNROLL for (short e = 0; e < 16 / sizeof(Element); e++) target[e] = has_column(count, e) ? source[e] : T(0);
}

// tile = rows, by all kThreads threads of the threadgroup; missing rows and columns are 0, so that 0 * value stays 0.
// A thread keeps to one chunk of 16 bytes in every kRowStep-th row: addresses advance by a constant.
template <int kThreads, typename T, int kRows, int kColumns, int kSlices, typename Element>
inline void load_block(thread StagedTile<T, kRows, kColumns, kSlices, Element>& tile, KeyRows<T> rows,
                       uint thread_index) {
  using Tile = StagedTile<T, kRows, kColumns, kSlices, Element>;
  constexpr uint kChunksPerRow = kColumns / Tile::kChunk;
  constexpr int kRowStep = kThreads / kChunksPerRow;
  static_assert(kRowStep > 0, "a thread for each chunk of a row");
  const int row = thread_index / kChunksPerRow, column = thread_index % kChunksPerRow * Tile::kChunk;
  if (row >= kRowStep) return;  // left over where rows do not divide the threads
  threadgroup Element* target = tile.data + row * Tile::kStride + column;
  device const T* source = rows.data + row * rows.stride + column;  // unless paged
  const bool is_whole = rows.count() >= kRows;
  UNROLL for (int r = 0; r < kRows; r += kRowStep) {
    if (kRows % kRowStep == 0 || r + row < kRows) {
      if ((is_whole || r + row < rows.count()) && has_column(rows.columns, column)) {
        if (is_paged) source = rows.paged_row(r + row) + column;
        copy_chunk(target, source, rows.columns - column);
      } else {
        *(threadgroup float4*)target = float4(0);
      }
    }
    target += kRowStep * Tile::kStride;
    source += kRowStep * rows.stride;
  }
}

// c[kM, kN] += a[kM, kK] * transpose(slice of b[kN, kColumns])
template <typename Element, typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<Element, kM, kK>& a,
                                StagedTile<T, kN, kColumns, kSlices, Element> b, Lane) {
  simdgroup_matrix<Element, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.frag(n, k), b.kStride, ulong2(0, 0), true);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k], b_fragment, c.frag[m][n]);
    }
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]. a stays fp32, whatever b's type: nothing is rounded before the
// product.
template <typename Element, typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     StagedTile<T, kK, kColumns, kSlices, Element> b, Lane) {
  simdgroup_matrix<Element, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.frag(k, n), b.kStride);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k], b_fragment, c.frag[m][n]);
    }
}
""",
    "dropout.h": r"""// Dropout by counter: Philox 4x32 with 7 rounds (Salmon, Moraes, Dror & Shaw, 2011), keyed by the seed and counted by
// where a weight is, has 16 random bits for each weight. So the same weights are dropped in the forward, in the backward
// and on the CPU (cpu/dropout.py), whatever the tile, the split and the layout.
#pragma once
#include "params.h"
#include "tile.h"

constant constexpr int kPhiloxRounds = 7;

template <int kRounds>
inline uint4 philox(uint4 counter, uint2 key) {
  UNROLL for (short round = 0; round < kRounds; round++) {
    const uint low = counter[0] * 0xD2511F53u, high = mulhi(counter[0], 0xD2511F53u);
    const uint other_low = counter[2] * 0xCD9E8D57u, other_high = mulhi(counter[2], 0xCD9E8D57u);
    counter = uint4{other_high ^ counter[1] ^ key[0], other_low, high ^ counter[3] ^ key[1], low};
    key += uint2{0x9E3779B9u, 0xBB67AE85u};
  }
  return counter;
}

// Which of a lane's weights of a block of keys are kept: bit 2 * j + e of at[i] is that of element e of pair [i][j].
template <int kRows>
struct Kept {
  uint at[kRows / kFragment];
};

// A lane's rows, by where they are in the batch.
template <int kRows>
struct Dropout {
  uint2 seed;
  uint threshold;  // of 2^16: a weight whose number is below is kept
  uint sequence;
  uint token[kRows / kFragment], head[kRows / kFragment];

  // first_head: of the query heads that share the key/value head.
  void place(constant DropoutParams& params, int sequence_, int first_head, int row0, int rows, int heads_per_kv,
             Lane lane) {
    seed = uint2{uint(params.seed), uint(params.seed >> 32)};
    threshold = params.threshold;
    sequence = sequence_;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = min(row0 + i * kFragment + lane.row, rows - 1);
      token[i] = row / heads_per_kv;
      head[i] = first_head + row % heads_per_kv;
    }
  }
};

// What a sum over the kept weights is multiplied by: 1 / (share that is kept), at least 1. Its bits say so, or fast math
// would multiply by 65536 first, which may leave fp32.
inline float dropout_factor(constant DropoutParams& params) {
  return as_type<float>(max(as_type<uint>(65536 / float(params.threshold)), 0x3f800000u));
}

// Of kKeys keys from key0, a multiple of kKeys, on. One counter has a lane's eight numbers for 32 keys: word w, half e
// belong to key 8 * w + lane.column + e of them.
template <int kKeys, int kRows>
inline Kept<kRows> kept_weights(thread const Dropout<kRows>& dropout, int key0, Lane lane) {
  constexpr short kWords = kKeys < 32 ? kKeys / kFragment : 4;  // of a counter that these keys take
  static_assert(kKeys % (kWords * kFragment) == 0 && kKeys <= 128, "whole counters, and a bit for each weight");
  Kept<kRows> kept;
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    kept.at[i] = 0;
    UNROLL for (short first = 0; first < kKeys; first += kWords * kFragment) {
      const uint block = uint(key0 + first) / 32 * 4 + lane.column / 2;
      const uint4 counter = uint4{block, dropout.token[i], dropout.head[i], dropout.sequence};
      uint4 words = philox<kPhiloxRounds>(counter, dropout.seed);
      if (kWords <= 2 && (key0 & 16)) words = words.zwxy;
      if (kWords == 1 && (key0 & 8)) words = words.yxwz;
      UNROLL for (short word = 0; word < kWords; word++) {
        const uint low = (words[word] & 0xffffu) < dropout.threshold, high = words[word] >> 16 < dropout.threshold;
        kept.at[i] |= (low | high << 1) << 2 * (first / kFragment + word);
      }
    }
  }
  return kept;
}

// From the order of 8x8 fragments, in which a counter's numbers belong to lanes, to that of another kind of tile.
template <typename Tile, int kRows>
inline void arrange(thread Kept<kRows>& kept, Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++) kept.at[i] = Tile::own_bits(kept.at[i], lane);
}

// tile[row, key] = 0 where it is not kept.
template <typename Tile, int kRows>
inline void drop(thread Tile& tile, thread const Kept<kRows>& kept) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = pair(tile, i, j);
      const uint bits = kept.at[i] >> 2 * j;
      pair(tile, i, j) = float2{bits & 1 ? two[0] : 0, bits & 2 ? two[1] : 0};
    }
}
""",
    "exchange.h": r"""// Exchange between SIMD groups that share a tile of rows: they add up scores over slices of head_dim, or merge their
// results for different keys. All threads of the threadgroup call these functions, as they contain barriers. Memory
// holds a float2 of every lane side by side.
#pragma once
#include "softmax.h"

// Threadgroup memory for add_slices, of scores [kRows, kKeys] on each of kSimdgroups SIMD groups.
template <int kRows, int kKeys, int kSlices, int kSimdgroups>
constexpr int slice_bytes() {
  return kSlices > 1 ? kSimdgroups * kRows * kKeys * sizeof(float) : 0;
}

// Scores of kSlices adjacent SIMD groups, each over a slice of head_dim, become the sums over all slices, with the same
// bits in each SIMD group. Another barrier must come before the next call.
template <int kSlices, typename Tile>
inline void add_slices(threadgroup float2* memory, thread Tile& scores, uint simdgroup, uint lane_index) {
  constexpr short kPairs = Tile::kLaneRows * Tile::kLanePairs;
  threadgroup float2* own = memory + simdgroup * kPairs * kSimdWidth + lane_index;
  threadgroup const float2* first = memory + simdgroup / kSlices * kSlices * kPairs * kSimdWidth + lane_index;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      own[(i * Tile::kLanePairs + j) * kSimdWidth] = pair(scores, i, j);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      float2 sum = 0;
      UNROLL for (short slice = 0; slice < kSlices; slice++)
        sum += first[((slice * Tile::kLaneRows + i) * Tile::kLanePairs + j) * kSimdWidth];
      pair(scores, i, j) = sum;
    }
}

// Pairs of a lane's row that merge_key_groups hands over: its softmax, then its output.
constexpr int merged_softmax_pairs(bool rounds) { return rounds ? 2 : 1; }

// Threadgroup memory for merge_key_groups.
template <int kRows, int kColumns, int kKeyGroups, bool kRounds = false>
constexpr int merge_bytes() {
  return kKeyGroups / 2 * kRows / kFragment * (kColumns / kFragment + merged_softmax_pairs(kRounds)) * kSimdWidth *
         sizeof(float2);
}

// kKeyGroups SIMD groups, a power of two, have each seen keys of their own: the first one's result becomes that for the
// keys of all.
template <int kKeyGroups, typename Tile, int kRows, bool kRounds>
inline void merge_key_groups(threadgroup float2* memory, thread Tile& accumulator,
                             thread OnlineSoftmax<kRows, kRounds>& softmax, uint key_group, uint lane_index) {
  constexpr short kFirst = merged_softmax_pairs(kRounds), kRowPairs = kFirst + Tile::kLanePairs;
  constexpr short kPairs = Tile::kLaneRows * kRowPairs;  // of a lane
  constexpr short kSteps = kKeyGroups == 1 ? 0 : kKeyGroups == 2 ? 1 : 2;
  static_assert(kKeyGroups == 1 << kSteps, "1, 2 or 4 groups of keys");
  UNROLL for (short step = 0; step < kSteps; step++) {
    const uint half_of = kKeyGroups >> (step + 1);  // SIMD groups that merge another one's result into theirs
    threadgroup float2* slot = memory + key_group % half_of * kPairs * kSimdWidth + lane_index;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the memory is free
    if (key_group / half_of == 1) {
      UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
        slot[i * kRowPairs * kSimdWidth] = float2{softmax.row_max.at[i], softmax.row_sum.at[i]};
        if (softmax.keeps_exact_sum())
          slot[(i * kRowPairs + 1) * kSimdWidth] = float2{softmax.exact_sum.at[i], 0};
        UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
          slot[(i * kRowPairs + kFirst + j) * kSimdWidth] = pair(accumulator, i, j);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the other half's results are there
    if (key_group < half_of) {
      UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
        const float2 other = slot[i * kRowPairs * kSimdWidth];
        float other_exact = 0;
        if (softmax.keeps_exact_sum()) other_exact = slot[(i * kRowPairs + 1) * kSimdWidth][0];
        const float2 factor = softmax.join(i, other[0], other[1], other_exact);
        UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
          pair(accumulator, i, j) =
              factor[0] * pair(accumulator, i, j) + factor[1] * slot[(i * kRowPairs + kFirst + j) * kSimdWidth];
      }
    }
  }
}

// Whether any of kSimdgroups SIMD groups says so. Another barrier must come before the memory is used again.
template <int kSimdgroups>
inline bool any_simdgroup(threadgroup uint* memory, bool says, uint simdgroup, uint lane_index) {
  if (lane_index == 0) memory[simdgroup] = says;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  bool any = false;
  UNROLL for (short other = 0; other < kSimdgroups; other++) any = any || memory[other] != 0;
  return any;
}
""",
    "function_constants.h": r"""// Function constants: what changes a kernel's behaviour but not the shape of its registers. Each is spelled once,
// here; the planner sets them by name. Where there is no pipeline specialisation (torch.mps.compile_shader), the
// launcher rewrites each of these lines into a plain constant.
#pragma once

constant bool is_packed [[function_constant(0)]];      // sequences lie end to end, bounded by cu_seqlens
constant bool is_paged [[function_constant(1)]];       // keys and values lie in pages, found through block_table
constant bool is_aligned [[function_constant(2)]];     // every query/key/value/output row starts on a 16-byte boundary
constant bool is_padded [[function_constant(3)]];      // rows are shorter than the kernel's
constant bool has_seqused_k [[function_constant(4)]];  // sequences use only their first seqused_k keys
constant bool has_softcap [[function_constant(5)]];    // scores are capped
constant bool has_alibi [[function_constant(6)]];      // scores fall with the distance of query and key
constant bool has_sinks [[function_constant(7)]];      // each head has one more exponential in its sums
constant bool is_split [[function_constant(8)]];       // the keys of a tile are divided among threadgroups
constant bool writes_lse [[function_constant(9)]];     // the log-sum-exp of every row is wanted
constant bool writes_softmax [[function_constant(10)]];  // row_max and log2_sum of every row are wanted
constant bool has_dropout [[function_constant(11)]];     // some weights are dropped after they were summed
constant bool stores_weights [[function_constant(12)]];  // the gradients of keys and values are wanted, too
constant bool carries_sums [[function_constant(13)]];    // sums go on from one launch to another
constant bool has_grad_lse [[function_constant(14)]];    // the log-sum-exp has a gradient of its own
constant bool has_bias [[function_constant(15)]];        // every score has a bias of its own
constant bool bias_is_mask [[function_constant(16)]];    // which says, instead, whether the key is seen
constant bool bias_is_float [[function_constant(17)]];   // which is fp32, whatever the queries are
""",
    "gradients.h": r"""// From scores to weights and their gradients, by what the forward pass left of each row.
#pragma once
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "softmax.h"
#include "tile.h"

// The forward pass may have rounded scores in another way, as its tiles add up in another order. Where they exceed this,
// in powers of two, that shows in the weights.
constant constexpr float kLargeScore = 128;

// The softmax of a lane's rows as the forward pass left it: each row's maximum, and in the place of the sum its base-2
// logarithm. A missing row has that of the last.
template <int kRows>
struct RowSoftmax {
  OnlineSoftmax<kRows> online;

  RowSoftmax(float scale_log2) : online(scale_log2) {}

  void load(device const float2* row_softmax, constant ForwardParams& params, QueryTile tile, int row0, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const float2 row = row_softmax[tile.lse_index(params, min(row0 + i * kFragment + lane.row, tile.rows() - 1))];
      online.row_max.at[i] = row[0];
      online.row_sum.at[i] = row[1];
    }
  }

  bool is_large(float row_max) const {
    return row_max > kRowMaxFloor && abs(row_max) * online.scale_log2 > kLargeScore;
  }
  bool any_large() const {
    bool any = false;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) any = any || is_large(online.row_max.at[i]);
    return simd_any(any);
  }

  // scores -> weights. None exceeds 1, whatever the scores.
  template <typename Tile>
  void weigh(thread Tile& scores) const {
    UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 distance = pair(scores, i, j) - online.row_max.at[i];
        const float offset = -online.row_sum.at[i];
        pair(scores, i, j) = float2{fast::exp2(min(fma(distance[0], online.scale_log2, offset), 0.0f)),
                                    fast::exp2(min(fma(distance[1], online.scale_log2, offset), 0.0f))};
      }
  }

  // Before `online` sees the scores of all keys: keeps what the forward pass left. A barrier comes before finish().
  void save(threadgroup float2* memory, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      if (lane.column == 0) memory[i * kFragment] = float2{online.row_max.at[i], online.row_sum.at[i]};
    online.start();
  }

  // Then: rows that are not large have again what was kept, so that no row depends on its neighbours. sinks: [num_heads],
  // if has_sinks.
  void finish(threadgroup const float2* memory, float scale, device const float* sinks, QueryTile tile, int row0,
              Lane lane) {
    RowExponentials<kRows> rows = online.finish(scale);
    if (has_sinks) rows.add_sinks(sinks + tile.head(0), row0, tile.heads_per_kv, lane);
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const float2 anew = rows.at[i].row_softmax(online.row_max.at[i], true), kept = memory[i * kFragment];
      online.row_max.at[i] = is_large(kept[0]) ? anew[0] : kept[0];
      online.row_sum.at[i] = is_large(kept[0]) ? anew[1] : kept[1];
    }
  }
};

// terms[row], laid out as lse
template <int kRows>
inline RowVector<kRows> load_rows(device const float* terms, constant ForwardParams& params, QueryTile tile, int row0,
                                  Lane lane) {
  RowVector<kRows> rows;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    rows.at[i] = terms[tile.lse_index(params, min(row0 + i * kFragment + lane.row, tile.rows() - 1))];
  return rows;
}

// tile[row, :] = -term[row]
template <typename Tile, int kRows>
inline void fill_negative(thread Tile& tile, thread const RowVector<kRows>& term) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) = float2(-term.at[i]);
}

// tile *= factor
template <typename Tile>
inline void multiply_elements(thread Tile& tile, thread Tile& factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= pair(factor, i, j);
}

// grads *= 1 - tanh^2, the derivative of tanh
template <typename Tile>
inline void multiply_by_derivative(thread Tile& grads, thread Tile& tanh) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 value = pair(tanh, i, j);
      pair(grads, i, j) *= 1 - value * value;
    }
}

// tile[row, :] = factor * tile[row, :] - term[row]
template <typename Tile, int kRows>
inline void scale_less_rows(thread Tile& tile, float factor, thread const RowVector<kRows>& term) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      pair(tile, i, j) = factor * pair(tile, i, j) - term.at[i];
}

// Whether every row of the SIMD group sees all keys of the block that starts at key0.
template <int kRows>
inline bool see_all(thread const RowRanges<kRows>& visible, int key0, int block) {
  bool all = true;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    all = all && visible.at[i].begin <= key0 && key0 + block <= visible.at[i].end;
  return simd_all(all);
}

// To what products make of weights and their gradients: Tile::rounded, of either sign.
template <typename Tile>
inline void round_tile(thread Tile& tile) {
  if (Tile::kRounds)
    UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(tile, i, j);
        pair(tile, i, j) = copysign(Tile::rounded(abs(two)), two);
      }
}

template <typename Tile>
inline void scale(thread Tile& tile, float factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= factor;
}
""",
    "mask.h": r"""// Which keys a query token may see. One rule gives the loop bounds, the blocks that need no mask, and the mask: token t
// sees the keys [begin, end) = visible(t), and neither end decreases with t. Causal is window_right = 0.
#pragma once
#include "tile.h"

// Finite, as fast math may assume that there are no infinities. Scores are above -2^127, and so is every row maximum:
// the distance of a masked score to it is 2^127 at least, and its weight 0 (ScoreParams: scale_log2 >= 2^-119).
constant constexpr float kMaskedScore = -3.40282347e38f;  // the lowest float
constant constexpr float kRowMaxFloor = -1.70141183e38f;  // -2^127, where a row maximum starts

struct KeyRange {
  int begin, end;

  // Whether it has a key of the block that starts at key0.
  bool meets(int key0, int block) const { return key0 + block > begin && key0 < end; }
};

struct Mask {
  int key_length;                 // keys of this sequence that there are to see
  int diagonal;                   // the key at the position of the first query token; may be negative
  int window_left, window_right;  // keys before and after the diagonal; at most 2^30, as lengths are below 2^30

  KeyRange visible(int token) const {
    const int position = token + diagonal;
    return {max(0, position - window_left), min(key_length, position + window_right + 1)};
  }

  // The same rule with its roles exchanged: visible(key) are the tokens that see a key.
  Mask transposed(int query_length) const { return {query_length, -diagonal, window_right, window_left}; }
};

// The keys that each row of a lane may see: at[i] belongs to row 8 * i + lane.row. A missing row has those of the last.
template <int kRows>
struct RowRanges {
  KeyRange at[kRows / kFragment];

  RowRanges(Mask mask, int row0, int rows, int heads_per_kv, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      at[i] = mask.visible(min(row0 + i * kFragment + lane.row, rows - 1) / heads_per_kv);
  }

  // The keys that any row of the SIMD group may see.
  KeyRange any_row() const { return {simd_min(at[0].begin), simd_max(at[kRows / kFragment - 1].end)}; }
};

// The key blocks of a tile of rows: begin is a multiple of the block, and every row sees blocks within
// [full_begin, full_end) whole.
struct KeyBlocks {
  int begin, end, full_begin, full_end;

  bool is_full(int key0, int block) const { return key0 >= full_begin && key0 + block <= full_end; }
};
inline KeyBlocks key_blocks(Mask mask, int first_token, int last_token, int block) {
  const KeyRange first = mask.visible(first_token), last = mask.visible(last_token);
  return {first.begin / block * block, last.end, last.begin, first.end};
}

// The key blocks of one of num_splits threadgroups: as many for each, the last maybe fewer or none.
inline KeyBlocks split_blocks(KeyBlocks blocks, int split, int num_splits, int block) {
  const int count = (max(0, blocks.end - blocks.begin) + block - 1) / block;
  const int share = (count + num_splits - 1) / num_splits * block;
  const int begin = min(blocks.begin + split * share, blocks.end);
  return {begin, min(begin + share, blocks.end), blocks.full_begin, blocks.full_end};
}

// scores[row, key] = kMaskedScore where the row may not see the key; the tile's first column is key0.
template <typename Tile, int kRows>
inline void hide_invisible(thread Tile& scores, thread const RowRanges<kRows>& visible, int key0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = key0 + Tile::column(j, lane) + e;
        if (key < visible.at[i].begin || key >= visible.at[i].end) pair(scores, i, j)[e] = kMaskedScore;
      }
}
""",
    "overflow.h": r"""// Sums of values that leave fp32 before they are divided by the sum of weights, though their mean does not. The kernel
// looks for them after the last key. If there are any, it goes through the keys again, with smaller weights for those
// rows. So the first pass costs nothing more, and no value is ever too small.
#pragma once
#include "softmax.h"

// Whether a sum is above 2^126 or NaN. Compares bits, as fast math may assume that all numbers are finite.
inline bool is_beyond(float sum) { return (as_type<uint>(sum) & 0x7fffffffu) > 0x7e800000u; }

// Bit i tells whether a lane's row i holds such a sum; it is the same on the row's four lanes.
template <typename Tile>
inline uint rows_beyond(thread Tile& tile) {
  uint beyond = 0;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    float size = 0;  // what is beyond stays so in a sum of magnitudes
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = pair(tile, i, j);
      size += abs(two[0]) + abs(two[1]);
    }
    if (is_beyond(size)) beyond |= 1u << i;
  }
  beyond |= simd_shuffle_xor(beyond, 1);
  beyond |= simd_shuffle_xor(beyond, 8);
  return beyond;
}

// Shrinks the weights of the rows whose sums overflowed. Returns whether there is any such row among the SIMD groups
// that go through the keys together: this one alone, or with kIsShared all of the threadgroup's kSimdgroups. Then all
// threads call it, as it contains barriers. Where key groups share their rows, the first, which has the sums over all
// keys, decides for them.
template <bool kIsShared, int kSimdgroups, int kKeyGroups, typename Tile, int kRows, bool kRounds>
inline bool shrink_overflowed(threadgroup float2* memory, thread Tile& accumulator,
                              thread OnlineSoftmax<kRows, kRounds>& softmax, uint simdgroup, uint lane_index) {
  uint beyond = rows_beyond(accumulator);
  bool any = simd_any(beyond != 0);
  if (kIsShared) {
    threadgroup uint2* votes = (threadgroup uint2*)memory;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the memory is free
    if (kKeyGroups > 1) {
      if (simdgroup == 0) votes[lane_index] = uint2(beyond, any);
      threadgroup_barrier(mem_flags::mem_threadgroup);  // the first key group has voted
      beyond = votes[lane_index][0];
      any = votes[lane_index][1];
    } else {
      if (lane_index == 0) votes[simdgroup] = uint2(any, 0);
      threadgroup_barrier(mem_flags::mem_threadgroup);  // all SIMD groups have voted
      UNROLL for (short other = 0; other < kSimdgroups; other++) any = any || votes[other][0];
    }
  }
  UNROLL for (short i = 0; i < kRows / kFragment; i++) softmax.size.at[i] = beyond >> i & 1 ? kShrunk : 0;
  return any;
}

// A mean of values, or the largest float where rounding lifted it above. Compares bits, too; NaN stays.
inline float saturated(float mean) {
  const uint bits = as_type<uint>(mean), magnitude = bits & 0x7fffffffu;
  const uint limited = magnitude > 0x7f800000u ? magnitude : min(magnitude, 0x7f7fffffu);
  return as_type<float>((bits & 0x80000000u) | limited);
}
template <typename Tile>
inline void saturate(thread Tile& means) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = pair(means, i, j);
      pair(means, i, j) = float2{saturated(two[0]), saturated(two[1])};
    }
}
""",
    "pages.h": r"""// A paged key/value cache: key t of a sequence is key t % size of page block_table[t / size].
#pragma once
#include <metal_stdlib>
#include "params.h"
using namespace metal;

struct Pages {
  device const int* block_table;  // page ids of this sequence
  int size;                       // keys of a page
  int count;                      // pages that exist

  // The page of a key, wherever block_table points.
  int id(int token) const { return clamp(block_table[token / size], 0, count - 1); }
};

// The pages of a sequence. block_table: of all sequences.
inline Pages pages_of(device const int* block_table, constant ForwardParams& params, int sequence) {
  return {block_table + sequence * params.block_table_stride, int(params.page_size), int(params.num_pages)};
}
""",
    "params.h": r"""// Launch parameters, packed by the planner (planning/plan.py: the same structs, fields and order).
// Every struct has a single field type, so that a launcher that can only pass arrays of numbers can pass it too.
#pragma once

struct Strides {  // elements; head_dim, or the keys of a bias, are contiguous
  long batch;     // of paged keys and values: page; 0 for packed tensors
  long token;
  long head;
};

struct ForwardParams {
  Strides query, key, value, output;
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long batch;         // sequences
  long query_length;  // tokens: of each sequence when dense, of all sequences together when packed
  long key_length;    // as query_length; paged: all that a row of block_table can hold
  long head_dim;      // elements of a query or key row that exist
  long value_dim;     // elements of a value or output row that exist
  long heads_per_kv;  // query heads that share one key/value head
  long window_left;   // keys visible before the diagonal; 2^30 = all
  long window_right;  // keys visible after the diagonal; 0 = causal, 2^30 = all
  long num_pages;
  long page_size;            // keys of a page, a multiple of 16
  long block_table_stride;   // page ids of a sequence
  long alibi_batch_stride;   // slopes: 0 or num_heads
  long num_splits;           // parts that the keys of a tile are divided in
  long output_split_stride;  // elements of one part's output
  long lse_split_stride;     // elements of one part's lse
  long first_tile;           // of this launch; those before it are another launch's
  long aligns_last;          // 1: the last query token lines up with the last key; 0: the first one with the first
  Strides bias;
  long bias_keys;        // that have a bias, whatever the sequence has: those beyond are not seen; 2^30 = all
  long bias_key_stride;  // 1, or 0 where one bias is that of all keys
};
static_assert(sizeof(ForwardParams) == 36 * 8, "plan.ForwardParams packs 36 int64");

// A score is <query_factor * query, key>, then capped or biased, in a unit that keeps it below 2^127: scale times a
// score is what the softmax takes the exponential of.
struct ScoreParams {
  float query_factor;  // the sign of softmax_scale, exact in every dtype; with a tiny scale a power of two beside it
  float tanh_scale;    // with softcap: the score is tanh(tanh_scale * score)
  float bias_factor;   // with ALiBi or a bias: multiplies the score before these are added; at most 1
  float scale;         // at least 2^-119
  float scale_log2;    // scale * log2(e)
};
static_assert(sizeof(ScoreParams) == 5 * 4, "plan.ScoreParams packs 5 float32");

// Given with the call: never part of a plan.
struct DropoutParams {
  long seed;       // 64 bits
  long threshold;  // weights that are kept of every 65536
};
static_assert(sizeof(DropoutParams) == 2 * 8, "plan.DropoutParams packs 2 int64");

struct CombineParams {
  Strides output;         // elements
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long rows;  // tokens x heads of all sequences
  long num_heads;
  long tokens;     // of each sequence when dense, of all sequences together when packed
  long value_dim;  // elements of a row
  long num_splits;
};
static_assert(sizeof(CombineParams) == 10 * 8, "plan.CombineParams packs 10 int64");

struct BackwardParams {
  ForwardParams forward;  // of the call whose gradients are wanted
  Strides grad_output, grad_query, grad_key, grad_value;
  long stored_keys;   // of a tile of rows, at most: a multiple of kStoredKeys (stored_weights.h)
  long stored_tiles;  // of a key/value head in a chunk, at most
  long sum_tiles;     // tiles of keys of a sequence, at most, that sums are carried for
};
static_assert(sizeof(BackwardParams) == 51 * 8, "plan.BackwardParams packs 51 int64");

// What one launch of a backward kernel does: each key/value head from first_head on, with the tiles of query rows
// [first_tile, end_tile), of all sequences, and the keys [first_key, end_key) of each sequence.
struct ChunkParams {
  long first_head;
  long first_tile, end_tile;
  long first_key, end_key;
  long first_key_tile;            // the first tile of keys, where they are one dense sequence's; else 0
  long carried_from, carried_to;  // which of two halves sums come from and go to
};
static_assert(sizeof(ChunkParams) == 8 * 8, "plan.ChunkParams packs 8 int64");
""",
    "score.h": r"""// What happens to <query, key> before the mask and the exponential: first softcap, then the bias. Scores are in
// the unit of ScoreParams.
#pragma once
#include "tile.h"

// scores = tanh(tanh_scale * scores). precise, as fast::tanh overflows to NaN.
template <typename Tile>
inline void apply_softcap(thread Tile& scores, float tanh_scale) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const float score = pair(scores, i, j)[e];
        pair(scores, i, j)[e] = precise::tanh(tanh_scale * score);
      }
}

// ALiBi (Press, Smith & Lewis, 2022), for each row of a lane: its slope, in units of the scores, and its place among
// the keys.
template <int kRows>
struct Alibi {
  float slope[kRows / kFragment];
  int position[kRows / kFragment];

  // slopes: of the heads that share the key/value head.
  void place(device const float* slopes, float scale, int row0, int rows, int heads_per_kv, int diagonal,
             Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = min(row0 + i * kFragment + lane.row, rows - 1);
      slope[i] = slopes[row % heads_per_kv] / scale;
      position[i] = row / heads_per_kv + diagonal;
    }
  }
};

// scores[row, key] = factor * scores[row, key] - slope[row] * |position[row] - key|; the tile's first column is key0.
template <typename Tile, int kRows>
inline void add_alibi(thread Tile& scores, thread const Alibi<kRows>& alibi, float factor, int key0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = key0 + Tile::column(j, lane) + e;
        const float score = pair(scores, i, j)[e];
        pair(scores, i, j)[e] = fma(-alibi.slope[i], float(abs(alibi.position[i] - key)), factor * score);
      }
}
""",
    "sequence.h": r"""// Which rows a threadgroup owns, one tile of one sequence, and where they, their keys and their results lie in memory.
// The host does not read cu_seqlens: the threadgroup finds its sequence by itself.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "mask.h"
#include "pages.h"
#include "params.h"
#include "tile.h"
using namespace metal;

// A tile of the rows of one sequence and one key/value head. A row is one token of one of the query heads that share
// the key/value head; the rows of a token are adjacent.
struct QueryTile {
  long batch;                     // index along the tensors' batch axis; 0 when packed
  int sequence;                   // index among the sequences; undefined where key_length is 0
  int query_start, query_length;  // tokens: where the sequence starts along the token axis, and how many it has
  int key_start, key_length;
  int row0;  // first row of the tile within the sequence; not below rows() in a surplus tile
  int head_kv, heads_per_kv;

  int rows() const { return query_length * heads_per_kv; }  // of the sequence
  int token(int row) const { return row / heads_per_kv; }   // within the sequence
  int head(int row) const { return head_kv * heads_per_kv + row % heads_per_kv; }

  Mask mask(constant ForwardParams& params) const {
    const int keys = has_bias ? min(key_length, int(params.bias_keys)) : key_length;
    const int diagonal = int(params.aligns_last) * (key_length - query_length);
    return {keys, diagonal, int(params.window_left), int(params.window_right)};
  }

  // The sequence's rows of a query or output tensor, without the columns before first_column.
  template <typename T>
  QueryRows<T> rows_of(device T* tensor, constant Strides& strides, int first_column, int columns) const {
    device T* first = tensor + batch * strides.batch + query_start * strides.token + head(0) * strides.head;
    return {first + first_column, strides.token, strides.head, heads_per_kv, rows(), columns - first_column};
  }

  // The sequence's rows of a key or value tensor, from the token first_key on. pages: if is_paged.
  template <typename T>
  KeyRows<T> keys_of(device const T* tensor, constant Strides& strides, int first_key, int columns, Pages pages) const {
    tensor += key_start * strides.token + head_kv * strides.head;
    if (!is_paged) tensor += batch * strides.batch + first_key * strides.token;
    return {tensor, strides.token, strides.batch, first_key, key_length, columns, pages};
  }

  // Index of a row in lse.
  long lse_index(constant ForwardParams& params, int row) const {
    return batch * params.lse_batch_stride + head(row) * params.lse_head_stride + query_start + token(row);
  }
};

// A value of cu_seqlens, whatever it is, as an index into `total` tokens.
inline int clamped(device const int* cu_seqlens, int i, int total) { return clamp(cu_seqlens[i], 0, total); }

// Dense: every sequence has ceil(query_length * heads_per_kv / kBlockM) tiles.
template <int kBlockM>
inline QueryTile dense_tile(constant ForwardParams& params, int head_kv, int tile) {
  const int query_length = params.query_length, key_length = params.key_length, heads_per_kv = params.heads_per_kv;
  const int tiles = (query_length * heads_per_kv + kBlockM - 1) / kBlockM, row0 = tile % tiles * kBlockM;
  return {tile / tiles, tile / tiles, 0, query_length, 0, key_length, row0, head_kv, heads_per_kv};
}

// One of the batch + 2 segments that cu_seqlens cuts the tokens of packed sequences into, and a tile of its rows. The
// first and the last segment hold the tokens before and after all sequences, so that a kernel can reach them, too.
struct Segment {
  int index;       // that of the sequence, and 1
  int start, end;  // tokens; maybe end < start
  int row0;        // first row of the tile within the segment
};

// Segment s owns the tiles from bound(s) * rows_per_token / kBlock + s on. That is never fewer than its rows need, at
// most one more, and grows with s.
template <int kBlock>
inline Segment find_segment(device const int* cu_seqlens, int batch, int total, int rows_per_token, int tile) {
  int segment = 0, start = 0, first_tile = 0;  // the last segment whose first tile is not after ours, by binary search
  for (int beyond = batch + 2; beyond - segment > 1;) {
    const int middle = uint(segment + beyond) / 2;  // unsigned divisions are shifts
    const int bound = clamped(cu_seqlens, middle - 1, total);
    const int first = uint(bound * rows_per_token) / kBlock + middle;
    if (first <= tile) {
      segment = middle;
      start = bound;
      first_tile = first;
    } else {
      beyond = middle;
    }
  }
  const int end = segment <= batch ? clamped(cu_seqlens, segment, total) : total;
  return {segment, start, end, (tile - first_tile) * kBlock};
}

// Packed: rows of no sequence see no key, so that every row of the output is written.
template <int kBlockM>
inline QueryTile packed_tile(constant ForwardParams& params, device const int* cu_seqlens_q,
                             device const int* cu_seqlens_k, int head_kv, int tile) {
  const int batch = params.batch, total_q = params.query_length, total_k = params.key_length;
  const int heads_per_kv = params.heads_per_kv;
  const Segment segment = find_segment<kBlockM>(cu_seqlens_q, batch, total_q, heads_per_kv, tile);
  const int length = max(0, segment.end - segment.start);
  QueryTile found = {0, segment.index - 1, segment.start, length, 0, 0, segment.row0, head_kv, heads_per_kv};
  if (segment.index >= 1 && segment.index <= batch) {
    if (is_paged && has_seqused_k) {
      found.key_length = total_k;
    } else if (is_paged) {  // cu_seqlens_k gives the lengths and nothing else
      const long keys = long(cu_seqlens_k[segment.index]) - long(cu_seqlens_k[segment.index - 1]);
      found.key_length = int(min(max(keys, long(0)), long(total_k)));
    } else {
      found.key_start = clamped(cu_seqlens_k, segment.index - 1, total_k);
      found.key_length = max(0, clamped(cu_seqlens_k, segment.index, total_k) - found.key_start);
    }
  }
  return found;
}
""",
    "softmax.h": r"""// Online softmax in base 2 (Milakov & Gimelshein, 2018). After every block of keys
//   row_sum = sum of exp2(scale_log2 * (score - row_max) + size) over the keys seen so far,
// each lane holding its own columns' share of it. Scores are subtracted before they are scaled: two scores that matter
// are close, and their difference is exact, however large they are. A row that sees no key ends with row_sum = 0.
#pragma once
#include "function_constants.h"
#include "mask.h"

constant constexpr float kSlack = 8;     // in powers of two; few blocks after the first exceed it
constant constexpr float kShrunk = -40;  // in powers of two: no sum of 2^30 weights of up to 2^kSlack exceeds 1
constant constexpr float kLargestRise = 8.5e37f;  // 2^126: as a power of e and of two, a finite number
constant constexpr float kLogOfNoKey = 1e30f;     // no weight is left of any score

// The exponentials of a row: their sum is exp(log_max) * sum, 0 for a row that sees no key; share is what a weight that
// values were accumulated with counts in sum. A sink above all scores raises log_max.
struct Exponentials {
  float log_max, sum, share, raised;

  // One more exponential, of a score without a value.
  Exponentials with_sink(float sink) const {
    const float distance = sink - log_max;
    const float smaller = fast::exp2(-M_LOG2E_F * abs(distance));
    Exponentials joined = {log_max, sum + smaller, share, 0};
    if (distance > 0) joined = {sink, sum * smaller + 1, share * smaller, min(distance, kLargestRise)};
    return joined;
  }

  // Factor that turns an accumulated sum of values into their mean.
  float inverse() const { return sum != 0 ? share / sum : 0; }

  // The bits of the natural logarithm of the sum, or of -inf, which fast math may not see as a number.
  uint log_sum_exp(bool sees_keys) const {
    return sees_keys ? as_type<uint>(log_max + precise::log(sum)) : 0xff800000u;
  }

  // {row_max, log2_sum}: the weight of a score is exp2(min(0, scale_log2 * (score - row_max) - log2_sum)). Apart, as the
  // logarithm of a large sum is too coarse a number. min, as in another kernel a large score may be rounded otherwise.
  float2 row_softmax(float row_max, bool sees_keys) const {
    float2 both = float2{kRowMaxFloor, kLogOfNoKey};
    if (sees_keys) both = float2{row_max, M_LOG2E_F * raised + precise::log2(sum)};
    return both;
  }
};

// Those of a lane's rows: at[i] belongs to row 8 * i + lane.row.
template <int kRows>
struct RowExponentials {
  Exponentials at[kRows / kFragment];

  // sinks: of the heads that share the key/value head.
  void add_sinks(device const float* sinks, int row0, int heads_per_kv, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      at[i] = at[i].with_sink(sinks[(row0 + i * kFragment + lane.row) % heads_per_kv]);
  }

  // Times a factor of the values.
  RowVector<kRows> inverse(float factor) const {
    RowVector<kRows> inverse;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) inverse.at[i] = factor * at[i].inverse();
    return inverse;
  }
};

// kRounds: the product with the values rounds weights (Registers::rounded). row_sum is then that of rounded ones, so that
// an output is a true mean of values, and lse has a sum of its own.
template <int kRows, bool kRounds = false>
struct OnlineSoftmax {
  float scale_log2;
  RowVector<kRows> size;       // of the largest weights, as a power of two: 0, or kShrunk (overflow.h)
  RowVector<kRows> row_max;    // of the scores
  RowVector<kRows> row_sum;    // of the weights that values are multiplied with
  RowVector<kRows> exact_sum;  // if keeps_exact_sum()

  OnlineSoftmax(float scale_log2_) : scale_log2(scale_log2_) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) size.at[i] = 0;
  }

  static bool keeps_exact_sum() { return kRounds && (writes_lse || writes_softmax); }

  // Forgets all keys.
  void start() {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      row_max.at[i] = kRowMaxFloor;
      row_sum.at[i] = 0;
      if (keeps_exact_sum()) exact_sum.at[i] = 0;
    }
  }

  // Turns a block's scores into weights. Returns whether any row of the SIMD group has a new row_max; rescale is then
  // the factor for everything accumulated before, 1 for a row that keeps its maximum: a row's bits depend on its own
  // scores alone. A maximum may lag behind by kSlack: weights up to 2^kSlack do no harm.
  template <typename Tile>
  bool update(thread Tile& scores, thread RowVector<kRows>& rescale) {
    float block_max[kRows / kFragment];
    bool grows[kRows / kFragment];
    bool any_grows = false;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      float largest = kRowMaxFloor;
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(scores, i, j);
        largest = max(largest, max(two[0], two[1]));
      }
      largest = max(largest, simd_shuffle_xor(largest, 1));  // a row's four lanes differ in bits 0 and 3
      largest = max(largest, simd_shuffle_xor(largest, 8));
      block_max[i] = largest;
      grows[i] = (largest - row_max.at[i]) * scale_log2 > kSlack;
      any_grows = any_grows || grows[i];
    }
    any_grows = simd_any(any_grows);
    if (any_grows) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) {
        rescale.at[i] = grows[i] ? fast::exp2((row_max.at[i] - block_max[i]) * scale_log2) : 1;
        row_max.at[i] = grows[i] ? block_max[i] : row_max.at[i];
        row_sum.at[i] *= rescale.at[i];
        if (keeps_exact_sum()) exact_sum.at[i] *= rescale.at[i];
      }
    }
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(scores, i, j);
        const float2 exact = float2{fast::exp2(fma(two[0] - row_max.at[i], scale_log2, size.at[i])),
                                    fast::exp2(fma(two[1] - row_max.at[i], scale_log2, size.at[i]))};
        const float2 weight = Tile::rounded(exact);
        pair(scores, i, j) = weight;
        row_sum.at[i] += weight[0] + weight[1];
        if (keeps_exact_sum()) exact_sum.at[i] += exact[0] + exact[1];
      }
    return any_grows;
  }

  // Merges row i of another softmax, over other keys, into this one. Returns the factors for what each has accumulated.
  // other_exact: its exact_sum.
  float2 join(short i, float other_max, float other_sum, float other_exact) {
    const float joint = max(row_max.at[i], other_max);
    const float2 factor = float2{fast::exp2((row_max.at[i] - joint) * scale_log2),
                                 fast::exp2((other_max - joint) * scale_log2)};
    row_max.at[i] = joint;
    row_sum.at[i] = factor[0] * row_sum.at[i] + factor[1] * other_sum;
    if (keeps_exact_sum()) exact_sum.at[i] = factor[0] * exact_sum.at[i] + factor[1] * other_exact;
    return factor;
  }

  // After the last key: adds up the lanes' shares of row_sum and returns each row's exponentials. scale turns scores
  // into natural exponents.
  RowExponentials<kRows> finish(float scale) { return exponentials(scale, row_sum); }
  // The same of exact_sum, if that is kept.
  RowExponentials<kRows> finish_exact(float scale) { return exponentials(scale, exact_sum); }

  RowExponentials<kRows> exponentials(float scale, thread RowVector<kRows>& sum) const {
    RowExponentials<kRows> rows;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      sum.at[i] += simd_shuffle_xor(sum.at[i], 1);
      sum.at[i] += simd_shuffle_xor(sum.at[i], 8);
      const float share = 1 / fast::exp2(size.at[i]);
      rows.at[i] = {scale * row_max.at[i], sum.at[i] * share, share, 0};
    }
    return rows;
  }
};
""",
    "staging.h": r"""// Blocks of rows that a threadgroup stages in its memory one after another. Each thread goes its own way through them,
// so that addresses advance by constants: a walk begins one step before its first row.
#pragma once
#include "blocks_staged.h"
#include "stored_weights.h"
#include "tile.h"

// What a loader brings to the backward kernels, block by block: Blocks (of keys or values), and Rows (of queries and of the
// output's gradient, for the columns of one of the two that a SIMD group multiplies with stored weights). Of 8 rows of a
// stored block, a lane's lie kStoredLane floats after those of the one before.
template <Loader kLoader>
struct InTurn;

// Every kStep-th row of a key or value tensor, the first one being `row` of the block.
template <typename T, int kStep>
struct KeyWalk {
  using Element = T;
  KeyRows<T> rows;

  KeyWalk(KeyRows<T> first, int row) {
    first.advance(row - kStep);
    rows = first;
  }

  // The next row; it is row r of the block. Beyond the last key there may be no page: then it is the last one.
  device const T* next(int r) {
    rows.advance(kStep);
    return is_paged ? rows.paged_row(min(r, rows.count() - 1)) : rows.data;
  }
};

// Every kStep-th row of a query or output tensor, from a row of the sequence on, without a division for each.
template <typename T, int kStep>
struct QueryWalk {
  using Element = T;
  device const T* data;
  long step, wrap;  // elements: to the next row, and from the last head that shares a key/value head to the next token
  int head, head_step, heads_per_kv;  // head: that of `data`, maybe below 0 before the first row

  QueryWalk(QueryRows<const T> rows, int row) {
    heads_per_kv = rows.heads_per_kv;
    head_step = kStep % heads_per_kv;
    step = (kStep / heads_per_kv) * rows.token_stride + head_step * rows.head_stride;
    wrap = rows.token_stride - heads_per_kv * rows.head_stride;
    data = rows.row(row) - step;
    head = row % heads_per_kv - head_step;
  }

  device const T* next(int) {
    data += step;
    head += head_step;
    if (head >= heads_per_kv) {
      head -= heads_per_kv;
      data += wrap;
    }
    return data;
  }
};

constexpr int power_of_two(int limit) {  // the largest that is not above the limit, up to 64
  return limit >= 64 ? 64 : limit >= 32 ? 32 : limit >= 16 ? 16 : limit >= 8 ? 8 : limit >= 4 ? 4 : limit >= 2 ? 2 : 1;
}
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Stages blocks of [kRows, kColumns], by all kThreads threads. A thread keeps to one chunk of 16 bytes in every kStep-th
// row. In memory they are T, and rows kStride elements apart.
template <typename T, int kRows, int kColumns, int kStride, int kThreads>
struct Stager {
  static constant constexpr int kChunk = 16 / sizeof(T), kChunksPerRow = kColumns / kChunk;
  static constant constexpr int kStep = power_of_two(smaller(kThreads / kChunksPerRow, kRows));
  static constant constexpr bool kIsBusy = kThreads == kStep * kChunksPerRow;  // no thread is left over
  int row, column;  // of the block, where the thread begins: the walk's
  int columns;      // that exist from there on

  Stager(uint thread_index, int all_columns) {
    row = thread_index / kChunksPerRow;
    column = thread_index % kChunksPerRow * kChunk;
    columns = all_columns - column;
  }

  // block = the next kRows rows of the walk; those from count on and missing columns are 0, so that 0 * value stays 0.
  template <typename Walk>
  void stage(threadgroup T* block, thread Walk& walk, int count) const {
    threadgroup T* target = block + row * kStride + column;
    UNROLL for (int r = 0; r < kRows; r += kStep) {
      device const typename Walk::Element* source = walk.next(r + row);
      if (kIsBusy || row < kStep) {
        if (r + row < count && has_column(columns, 0)) copy_chunk(target, source, columns);
        else *(threadgroup float4*)target = float4(0);
      }
      target += kStep * kStride;
    }
  }
};

// Blocks [kRows, kColumns] of keys or values.
template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
struct StagedBlocks {
  using Tile = StagedTile<T, kRows, kColumns, kSlices, Element>;
  using Stages = Stager<Element, kRows, kColumns, Tile::kStride, kThreads>;
  Tile tile;
  Stages stager;
  KeyWalk<T, Stages::kStep> walk;

  // rows: from the first block on.
  StagedBlocks(KeyRows<T> rows, threadgroup Element* memory, int slice, uint thread_index, Lane)
      : tile{memory, slice}, stager(thread_index, rows.columns), walk(from(rows, stager.column), stager.row) {}

  static KeyRows<T> from(KeyRows<T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next block, which starts at key0. Barriers come before it, and before the tile is read.
  void bring(int key0) {
    walk.rows.first = key0;
    stager.stage(tile.data, walk, walk.rows.count());
  }
  // To the block that starts so many keys after the next one.
  void skip(int keys) { walk.rows.advance(keys); }
};

// Blocks of kBlockM rows of both tensors, in threadgroup memory. They are summed transposed, [columns, keys] += dO^T P,
// whose right operands are the stored weights as they are.
template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
struct StagedRows {
  static constant constexpr int kStride =
      StagedTile<T, kBlockM, larger(kHeadDim, kValueDim), 1, Element>::kStride;            // of both blocks
  static constant constexpr int kBytes = 2 * kBlockM * kStride * sizeof(Element);          // of threadgroup memory
  static constant constexpr int kStoredGrads = 2;  // where those of a lane begin, among its first weights
  using Sum = RegisterTile<float, kColumns, kStoredKeys>;
  using GradStager = Stager<Element, kBlockM, kValueDim, kStride, kThreads>;
  using QueryStager = Stager<Element, kBlockM, kHeadDim, kStride, kThreads>;
  threadgroup Element* memory;
  threadgroup const Element* own;  // from this lane's place in the first transposed fragment on
  GradStager grad_stager;
  QueryStager query_stager;
  QueryWalk<T, GradStager::kStep> grads;
  QueryWalk<T, QueryStager::kStep> queries;
  int count;  // of rows

  // first: the first row.
  StagedRows(QueryRows<const T> grad_rows, QueryRows<const T> query_rows, int first, bool makes_value,
             int first_column, threadgroup Element* memory_, uint thread_index, Lane lane)
      : memory(memory_),
        own((makes_value ? memory_ : memory_ + kBlockM * kStride) + (first_column + lane.column * kStride + lane.row)),
        grad_stager(thread_index, grad_rows.columns), query_stager(thread_index, query_rows.columns),
        grads(from(grad_rows, grad_stager.column), first + grad_stager.row),
        queries(from(query_rows, query_stager.column), first + query_stager.row), count(grad_rows.count) {}

  static QueryRows<const T> from(QueryRows<const T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next block, which starts at row0.
  void bring(int row0) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
    grad_stager.stage(memory, grads, count - row0);
    query_stager.stage(memory + kBlockM * kStride, queries, count - row0);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the rows are there
  }

  // sum += transpose(the block's rows from 8 * k on) * stored[8, keys]
  void multiply(thread Sum& sum, short k, device const float* stored, long) const {
    simdgroup_matrix<float, kFragment, kFragment> weights[kStoredKeys / kFragment];
    UNROLL for (short n = 0; n < kStoredKeys / kFragment; n++)
      elements(weights[n]) = *(device const float2*)(stored + n * (4 * kSimdWidth));
    threadgroup const Element* rows = own + k * kFragment * kStride;
    simdgroup_matrix<Element, kFragment, kFragment> columns;
    UNROLL for (short m = 0; m < kColumns / kFragment; m++) {
      elements(columns) = vec<Element, 2>{rows[m * kFragment], rows[m * kFragment + kStride]};
      UNROLL for (short n = 0; n < kStoredKeys / kFragment; n++)
        simdgroup_multiply_accumulate(sum.frag[m][n], columns, weights[n], sum.frag[m][n]);
    }
  }
};

// target[key, column] = factor * sum[column, key], for keys from key0 on; missing keys and columns are not written.
template <typename T, int kColumns, int kKeys>
inline void store_sum(device T* target, long stride, thread RegisterTile<float, kColumns, kKeys>& sum, float factor,
                      int key0, int keys, int columns, Lane lane) {
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

template <>
struct InTurn<Loader::staged> {
  static constant constexpr short kStoredLane = 4;
  template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
  using Blocks = StagedBlocks<T, Element, kRows, kColumns, kSlices, kThreads>;
  template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
  using Rows = StagedRows<T, Element, kHeadDim, kValueDim, kColumns, kBlockM, kThreads>;
};
""",
    "stored_weights.h": r"""// Weights P and the gradients dS of their scores on the way from attention_backward_queries, which computes them, to
// attention_backward_keys, in fp32:
//   [key/value heads of the chunk][tiles of rows][8 rows][8 keys][lane]
// a lane's two weights, then their two gradients; unit_gradients.h has another order, and 16 bits. A tile's keys count from
// the first block that it sees in the chunk. Only blocks of a SIMD group's rows and kStoredKeys keys in which a row sees a
// key are written, and only they are read.
#pragma once
#include "mask.h"
#include "params.h"
#include "sequence.h"

constant constexpr int kStoredKeys = 32;  // of a block; planning/backward_tiles.py: STORED_KEYS

// Rows of a stored block: those of a SIMD group of attention_backward_queries; planning/backward_tiles.py: rows.
constexpr int stored_block_rows(Loader loader) { return loader == Loader::staged ? kFragment : 16; }

// Whether any row of the SIMD group sees a key of the stored block that this one is in.
template <int kRows>
inline bool is_stored(thread const RowRanges<kRows>& seen, int key) {
  const int block = key & -kStoredKeys;
  bool any = false;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    any = any || max(seen.at[i].begin, block) < min(seen.at[i].end, block + kStoredKeys);
  return simd_any(any);
}

// The first key that a tile of rows stores in a chunk.
inline int first_stored(constant ChunkParams& chunk, int first_seen) {
  return max(first_seen & -kStoredKeys, int(chunk.first_key));
}

// Floats that 8 rows take for these keys; those of the unit have as much as four more for each stored block.
constexpr int stored_floats(Loader loader, int keys) {
  return loader == Loader::staged ? keys * (2 * kFragment) : keys / kStoredKeys * (kStoredKeys * kFragment + 4);
}

// Each 8 rows lie so many floats apart.
template <Loader kLoader>
inline long stored_row_stride(constant BackwardParams& params) {
  return stored_floats(kLoader, int(params.stored_keys));
}

// Where 8 rows of a tile begin, the tile being the tile_index-th of the head_index-th head of the chunk.
template <Loader kLoader, int kBlockM, typename T>
inline device T* stored_rows(device T* stored, constant BackwardParams& params, int head_index, int tile_index,
                             int rows_index) {
  const int tile = head_index * int(params.stored_tiles) + tile_index;
  return stored + (tile * (kBlockM / kFragment) + rows_index) * stored_row_stride<kLoader>(params);
}

// Stores a lane's part of 8 rows of weights and their gradients. SIMD groups with slices of the same rows divide them.
template <int kSlices, int kKeys>
inline void store_weights(device float* target, long, thread RegisterTile<float, kFragment, kKeys>& weights,
                          thread RegisterTile<float, kFragment, kKeys>& grads, int slice, uint) {
  UNROLL for (short j = 0; j < kKeys / kFragment; j++) {
    const float2 weight = pair(weights, 0, j), grad = pair(grads, 0, j);
    if (j % kSlices == slice)
      *(device float4*)(target + j * (4 * kSimdWidth)) = float4{weight[0], weight[1], grad[0], grad[1]};
  }
}

// A launch's part of the work on [begin, end), for one sum over it. The chunks of all launches lie end to end, the
// first from 0 and the last to 2^30, so that each has its turn, and an empty one has it in one chunk.
struct Turn {
  bool is_mine, is_first, is_last;

  Turn(int begin, int end, int chunk_begin, int chunk_end) {
    end = max(end, begin + 1);
    is_mine = begin < chunk_end && end > chunk_begin;
    is_first = begin >= chunk_begin;
    is_last = end <= chunk_end;
  }
};

// Where a SIMD group's sums lie on their way from one launch to the next: in the order of lanes, in fp32, those of
// equal tiles end to end.
template <typename Tile>
inline device float2* carried(device float2* sums, long index, uint lane_index) {
  return sums + index * (Tile::kLaneRows * Tile::kLanePairs * kSimdWidth) + lane_index;
}

template <typename Tile>
inline void load_sums(thread Tile& tile, device float2* sums, long index, uint lane_index) {
  device const float2* source = carried<Tile>(sums, index, lane_index);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      pair(tile, i, j) = source[(i * Tile::kLanePairs + j) * kSimdWidth];
}

template <typename Tile>
inline void store_sums(device float2* sums, thread Tile& tile, long index, uint lane_index) {
  device float2* target = carried<Tile>(sums, index, lane_index);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      target[(i * Tile::kLanePairs + j) * kSimdWidth] = pair(tile, i, j);
}
""",
    "tile.h": r"""// A matrix held in the registers of one SIMD group, and the verbs on it, destination first. Every verb is collective:
// all lanes of the SIMD group call it. Keys and values are multiplied from a StagedTile, a DirectTile or a UnitBlock.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "pages.h"
using namespace metal;

#define UNROLL _Pragma("clang loop unroll(full)")  // fragments stay in registers only if every index is a constant

constant constexpr int kFragment = 8;                  // edge of a simdgroup_matrix; MSL has 8x8 only
constant constexpr int kSimdWidth = 32;                // lanes of a SIMD group
constant constexpr int kThreadgroupBytes = 32 * 1024;  // the most memory of a threadgroup

// Where a lane sits in an 8x8 fragment: it owns (row, column) and (row, column + 1). Not documented by Apple;
// MLX (steel/attn/mma.h) and tinygrad (runtime/ops_python.py) agree on it.
struct Lane { short row, column; };
inline Lane lane_position(uint lane) {
  const short quad = short(lane) / 4;
  return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};
}

// How blocks of keys and values get to the registers, and what multiplies them there: planning/tiles.py has the same.
enum class Loader { staged, direct, unit, unit_rereads };

// The kinds of tiles of a loader: Block (of keys or values), Query, and Registers (scores and output).
template <Loader kLoader>
struct Kinds;

// The two values of a fragment that this lane owns.
template <typename T>
inline thread vec<T, 2>& elements(thread simdgroup_matrix<T, kFragment, kFragment>& frag) {
  return reinterpret_cast<thread vec<T, 2>&>(frag.thread_elements());
}

// All kinds of tiles tell what a lane owns in the same words: kLanePairs pairs of adjacent columns of each of kLaneRows
// rows. pair(tile, i, j) is one of row 8 * i + lane.row, in the columns column(j, lane) and the next.
template <typename T, int kRows, int kColumns>
struct RegisterTile {  // [kRows, kColumns]
  static_assert(kRows % kFragment == 0 && kColumns % kFragment == 0, "whole fragments");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  simdgroup_matrix<T, kFragment, kFragment> frag[kLaneRows][kLanePairs];

  // The first of the two columns of pair j.
  static int column(short j, Lane lane) { return j * kFragment + lane.column; }
  // What the product with the values makes of weights: nothing else.
  static constant constexpr bool kRounds = false;
  static float2 rounded(float2 weights) { return weights; }
  // Two bits for each pair of fragments: those of its own pairs.
  static uint own_bits(uint bits, Lane) { return bits; }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread RegisterTile<T, kRows, kColumns>& tile, short i, short j) {
  return elements(tile.frag[i][j]);
}

template <int kRows>
struct RowVector {  // [kRows]: at[i] belongs to row 8 * i + lane.row, and is the same on that row's four lanes
  float at[kRows / kFragment];
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

// Whether a row of `columns` elements has this one. Aligned rows have whole chunks of 16 bytes.
inline bool has_column(int columns, int column) { return !is_padded || column < columns; }

// Key or value rows of a block: row r is the block's token r, at data + r * stride or in its page; rows from count()
// on, and columns from columns on, do not exist.
template <typename T>
struct KeyRows {
  device const T* data;      // of the block's first token; if is_paged, of the first page
  long stride, page_stride;  // elements
  int first, length;         // tokens: the block's first one, and how many the sequence has
  int columns;
  Pages pages;  // if is_paged

  // Moves the data to the block that starts `tokens` later. The caller sets first, to one value for keys and values.
  void advance(int tokens) {
    if (!is_paged) data += tokens * stride;
  }

  int count() const { return length - first; }

  // Row r through its page.
  device const T* paged_row(int r) const {
    const int token = first + r;
    return data + pages.id(token) * page_stride + (token % pages.size) * stride;
  }

  // Row r of the 8 that begin at begin, a multiple of 8, as pages do. Another row stands in for one that does not
  // exist: its weight is 0.
  device const T* row(short begin, short r) const {
    device const T* start = is_paged ? paged_row(min(int(begin), count() - 1)) : data + begin * stride;
    device const T* other = is_paged ? start : data;
    return begin + r < count() ? start + r * stride : other;
  }
};

// Query or output rows of the heads that share a key/value head: row r is token r / heads_per_kv of head
// r % heads_per_kv among them; rows from count on, and columns from columns on, do not exist.
template <typename T>
struct QueryRows {
  device T* data;
  long token_stride, head_stride;  // elements
  int heads_per_kv;
  int count, columns;

  device T* row(int r) const { return data + (r / heads_per_kv) * token_stride + (r % heads_per_kv) * head_stride; }
};

template <typename Tile>
inline void zero(thread Tile& tile) {
  using T = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) = vec<T, 2>(T(0));
}

// tile[row, :] *= factor[row]
template <typename Tile, int kRows>
inline void scale_rows(thread Tile& tile, thread const RowVector<kRows>& factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= factor.at[i];
}

// tile = factor * rows[row0 ...]; missing rows and columns are 0. KeyTile gives the order of the columns in which the
// tile will be multiplied.
template <typename KeyTile, typename Tile, typename T>
inline void load(thread Tile& tile, QueryRows<const T> rows, int row0, float factor, Lane lane) {
  using Element = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    const bool exists = r < rows.count;
    device const T* source = rows.row(min(r, rows.count - 1));
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const int column = KeyTile::key_column(j, lane.column), next = KeyTile::key_column(j, lane.column + 1);
      vec<T, 2> two = vec<T, 2>(T(0));
      if (exists && is_aligned && next == column + 1 && has_column(rows.columns, column)) {
        two = *(device const vec<T, 2>*)(source + column);
      } else if (exists) {
        if (has_column(rows.columns, column)) two[0] = source[column];
        if (has_column(rows.columns, next)) two[1] = source[next];
      }
      pair(tile, i, j) = vec<Element, 2>{Element(factor * float(two[0])), Element(factor * float(two[1]))};
    }
  }
}

// rows[row0 ...] = tile; missing rows and columns are not written. ValueTile gives the order of the columns.
template <typename ValueTile, typename T, typename Tile>
inline void store(QueryRows<T> rows, thread Tile& tile, int row0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    if (r < rows.count) {
      device T* target = rows.row(r);
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const int column = ValueTile::value_column(j, lane.column);
        const float2 two = pair(tile, i, j);
        if (is_aligned && has_column(rows.columns, column)) {
          *(device vec<T, 2>*)(target + column) = vec<T, 2>{T(two[0]), T(two[1])};
        } else if (!is_aligned) {
          if (has_column(rows.columns, column)) target[column] = T(two[0]);
          if (has_column(rows.columns, column + 1)) target[column + 1] = T(two[1]);
        }
      }
    }
  }
}
""",
    "unit.h": r"""// Tiles for the matrix unit of Apple10 GPUs, which multiplies [16, 16] by [16, 32] at once. It is reached only through
// cooperative tensors. How their elements lie on lanes is not documented by Apple: this is the layout that public kernels
// found on M5, and the host checks it before it uses these kernels (unit_check.metal).
//
// A row of 16 columns lies on four lanes, the same as in an 8x8 fragment; each owns four adjacent columns. Blocks come
// from device memory straight to registers. A lane loads 16 bytes of a row, and so holds its elements of two products: as
// in blocks_direct.h, that only permutes the columns.
#pragma once
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
#include "blocks_direct.h"

// A lane's part of a [16, 16] left operand: four columns of rows r and r + 8.
template <typename T>
struct LeftPart {
  vec<T, 4> first, second;
};

// [kRows, kColumns]: of 16 columns a lane owns four, in two pairs.
template <typename T, int kRows, int kColumns>
struct UnitTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "whole products");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  vec<T, 2> pairs[kLaneRows][kLanePairs];

  static int column(short j, Lane lane) { return j / 2 * 16 + lane.column * 2 + j % 2 * 2; }

  // The unit cuts fp32 to 10 bits of mantissa, which would make all weights too small. Rounded before, they lose nothing
  // on one side only. NaN stays, whatever its bits.
  static constant constexpr bool kRounds = true;
  static float2 rounded(float2 weights) {
    return as_type<float2>((min(as_type<uint2>(weights), 0x7fffefffu) + 0x1000u) & 0xffffe000u);
  }

  // Of a row's four lanes, 0 and 1, or 2 and 3, hold the numbers of this lane's pairs in turns.
  static uint own_bits(uint bits, Lane lane) {
    const ushort even_lane = lane.row % 4 * 2 + lane.row / 4 * 16 + lane.column / 2 % 2 * 8;
    const short shift = lane.column / 4 * 2;
    const uint even = simd_shuffle(bits, even_lane) >> shift, odd = simd_shuffle(bits, ushort(even_lane + 1)) >> shift;
    return (even & 0x33333333u) | (odd & 0x33333333u) << 2;
  }

  // The query's: it has all columns, times the factor.
  void fetch(short) {}
  template <typename Scores>
  void apply_factor(thread Scores&) const {}

  LeftPart<T> left(short m, short k) const {
    const vec<T, 2> a = pairs[2 * m][2 * k], b = pairs[2 * m][2 * k + 1];
    const vec<T, 2> c = pairs[2 * m + 1][2 * k], d = pairs[2 * m + 1][2 * k + 1];
    return {vec<T, 4>{a[0], a[1], b[0], b[1]}, vec<T, 4>{c[0], c[1], d[0], d[1]}};
  }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread UnitTile<T, kRows, kColumns>& tile, short i, short j) {
  return tile.pairs[i][j];
}

// Query rows [kRows, kColumns] that are read again for each block of keys: registers hold 32 columns of them at a time.
template <typename T, int kRows, int kColumns>
struct UnitRows {
  static_assert(kRows % 16 == 0 && kColumns % 32 == 0, "whole products of 16-bit elements");
  device const T* row[kRows / kFragment];  // from this lane's first column on
  int columns;                             // that exist from there on
  float factor;
  alignas(16) T chunk[kRows / kFragment][8];

  // Loads the columns of two products, 2 * k and the next.
  void fetch(short k) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) load_chunk<8>(chunk[i], row[i] + 32 * k, columns - 32 * k);
  }
  // Scores take the factor that the rows in memory do not have. It is 1 but for a negative or a very small scale.
  template <typename Scores>
  void apply_factor(thread Scores& scores) const {
    if (factor != 1)
      UNROLL for (short i = 0; i < Scores::kLaneRows; i++)
        UNROLL for (short j = 0; j < Scores::kLanePairs; j++) pair(scores, i, j) *= factor;
  }

  LeftPart<T> left(short m, short k) const {
    thread const T* first = chunk[2 * m] + k % 2 * 4;
    thread const T* second = chunk[2 * m + 1] + k % 2 * 4;
    return {vec<T, 4>{first[0], first[1], first[2], first[3]}, vec<T, 4>{second[0], second[1], second[2], second[3]}};
  }
};

// Where a lane's rows of a block begin: at[i] is that of row 8 * i + lane.row.
template <typename T, int kRows>
struct LaneRows { device const T* at[kRows / kFragment]; };

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct UnitBlock {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  static constant constexpr int kChunk = 16 / sizeof(T);  // elements that a lane loads of 32 columns
  static_assert(kChunk == 8 && kRows % 32 == 0 && kSliceColumns % 32 == 0, "whole products of 16-bit elements");
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of pair j, if c is one of an 8x8 fragment.
  static short key_column(short j, short c) { return j / 4 * 32 + c / 2 * kChunk + j % 4 * 2 + c % 2; }
  static short value_column(short j, short c) { return key_column(j, c); }

  // Moves the data to this lane's first column, and unless paged to its row: 64-bit additions are dear, and so are left
  // to advance() and to the constant distances of a lane's rows.
  static void place(thread KeyRows<T>& rows, int slice, Lane lane) {
    const int column = slice * kSliceColumns + key_column(0, lane.column);
    rows.data += column;
    rows.columns -= column;
    if (!is_paged) rows.data += lane.row * rows.stride;
  }

  // The last row stands in for those that do not exist: their weights are 0.
  LaneRows<T, kRows> lane_rows(Lane lane) const {
    LaneRows<T, kRows> found;
    if (is_paged) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.row(i * kFragment, lane.row);
    } else if (rows.count() >= kRows) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.data + i * kFragment * rows.stride;
    } else {
      UNROLL for (short i = 0; i < kRows / kFragment; i++)
        found.at[i] = rows.data + (min(i * kFragment + lane.row, rows.count() - 1) - lane.row) * rows.stride;
    }
    return found;
  }
};

template <>
struct Kinds<Loader::unit> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};
template <>
struct Kinds<Loader::unit_rereads> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitRows<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread UnitBlock<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

// tile = factor * rows[row0 ...]; the last row stands in for missing ones. KeyTile is a UnitBlock.
template <typename KeyTile, typename T, int kRows, int kColumns>
inline void load(thread UnitRows<T, kRows, kColumns>& tile, QueryRows<const T> rows, int row0, float factor,
                 Lane lane) {
  const int column = KeyTile::key_column(0, lane.column);
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    tile.row[i] = rows.row(min(row0 + i * kFragment + lane.row, rows.count - 1)) + column;
  tile.columns = rows.columns - column;
  tile.factor = factor;
}

// c[rows 16 m ..., columns 32 n ...] += a * b, or * transpose(b), a being [16, 16]; kTransposesLeft: transpose(a) * b. Of b a
// lane gives its rows r and r + 8 of the first 16 columns and of the others, or, transposed, its rows r, r + 8, r + 16 and
// r + 24.
template <bool kTransposed, bool kTransposesLeft = false, int kRows, int kColumns, typename A, typename B>
inline void multiply_16x32x16(thread UnitTile<float, kRows, kColumns>& c, short m, short n, LeftPart<A> a, vec<B, 4> b0,
                              vec<B, 4> b1, vec<B, 4> b2, vec<B, 4> b3) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, kTransposesLeft, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  UNROLL for (short e = 0; e < 4; e++) {
    left[e] = a.first[e];
    left[4 + e] = a.second[e];
    right[e] = b0[e];
    right[4 + e] = b1[e];
    right[8 + e] = b2[e];
    right[12 + e] = b3[e];
  }
  UNROLL for (short e = 0; e < 16; e++) sum[e] = pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2];
  unit.run(left, right, sum);
  UNROLL for (short e = 0; e < 16; e++) pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2] = sum[e];
}

template <typename T>
inline vec<T, 4> half_of(thread const T* chunk, short half_index) {
  return *(thread const vec<T, 4>*)(chunk + 4 * half_index);
}

// c[kM, kN] = a[kM, kColumns / kSlices] * transpose(slice of b[kN, kColumns]), where c is 0
template <typename Query, typename T, int kM, int kN, int kColumns, int kSlices>
inline void multiply_transposed(thread UnitTile<float, kM, kN>& c, thread Query& a,
                                UnitBlock<T, kN, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kN> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kColumns / kSlices / 32; k++) {
    a.fetch(k);
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T chunk[4][8];
      UNROLL for (short i = 0; i < 4; i++) load_chunk<8>(chunk[i], rows.at[4 * n + i] + 32 * k, b.rows.columns - 32 * k);
      UNROLL for (short e = 0; e < 2; e++)
        UNROLL for (short m = 0; m < kM / 16; m++)
          multiply_16x32x16<true>(c, m, n, a.left(m, 2 * k + e), half_of(chunk[0], e), half_of(chunk[1], e),
                                  half_of(chunk[2], e), half_of(chunk[3], e));
    }
  }
  a.apply_factor(c);
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread UnitTile<float, kM, kN>& c, thread UnitTile<float, kM, kK>& a,
                     UnitBlock<T, kK, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kK> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kK / 16; k++) {
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T first[8];
      alignas(16) T second[8];
      load_chunk<8>(first, rows.at[2 * k] + 32 * n, b.rows.columns - 32 * n);
      load_chunk<8>(second, rows.at[2 * k + 1] + 32 * n, b.rows.columns - 32 * n);
      UNROLL for (short m = 0; m < kM / 16; m++)
        multiply_16x32x16<false>(c, m, n, a.left(m, k), half_of(first, 0), half_of(second, 0), half_of(first, 1),
                                 half_of(second, 1));
    }
  }
}
""",
    "unit_check.metal": r"""// Whether a GPU's cooperative tensors are what unit.h takes them for, asked of itself. One SIMD group; products of
// 16 x 32 x 16, as in unit.h. launching/unit_check.py runs it before any kernel that uses the matrix unit.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;

constant constexpr short kElements = 16;  // the most that a lane has of an operand
constant constexpr short kProduct = 16 * 32;

// row << 8 | column of each of a lane's elements; all ones for one that it lacks.
template <typename Tensor>
inline void write_places(device int* places, thread Tensor& tensor) {
  for (ushort i = 0; i < kElements; i++) {
    places[i] = -1;
    if (i < tensor.get_capacity()) {
      const auto at = tensor.get_multidimensional_index(i);
      places[i] = int(at[1]) << 8 | int(at[0]);
    }
  }
}

// c[16, 32] = a[16, 16] * b, through the layout that unit.h assumes: b is [16, 32], or with kTransposed [32, 16].
// kTransposesLeft: transpose(a) * b.
template <typename A, typename B, bool kTransposesLeft, bool kTransposed>
inline void multiply_assumed(device float* c, device const int* a, device const int* b, ushort lane) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, kTransposesLeft, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  const short row = (lane / 4 & 4) + lane / 2 % 4, column = ((lane / 4 & 2) + lane % 2) * 4;
#pragma clang loop unroll(full)
  for (short e = 0; e < 8; e++) left[e] = A(a[(row + e / 4 * 8) * 16 + column + e % 4]);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) {
    const short r = row + e % 8 / 4 * 8, w = column + e % 4, part = e / 8 * 16;
    right[e] = B(kTransposed ? b[(part + r) * 16 + w] : b[r * 32 + part + w]);
    sum[e] = 0;
  }
  unit.run(left, right, sum);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) c[(row + e % 8 / 4 * 8) * 32 + e / 8 * 16 + column + e % 4] = sum[e];
}

template <typename A, typename B>
inline void multiply_each_way(device float* products, device const int* a, device const int* b, ushort lane) {
  multiply_assumed<A, B, false, false>(products, a, b, lane);
  multiply_assumed<A, B, false, true>(products + kProduct, a, b, lane);
  multiply_assumed<A, B, true, false>(products + 2 * kProduct, a, b, lane);
}

// places: [left, left transposed, right, right transposed, destination][lane][16]
[[kernel]] void unit_check(device int* places [[buffer(0)]],
                           device int* capacities [[buffer(1)]],  // [5], of lane 0
                           device const int* a [[buffer(2)]],     // [16, 16]
                           device const int* b [[buffer(3)]],     // [16, 32] or [32, 16]
                           device float* products [[buffer(4)]],  // [half, bfloat, float * half, float * bfloat][3]
                           ushort lane [[thread_index_in_simdgroup]]) {
  constexpr auto plain = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, false, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  constexpr auto transposed = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, true, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  constexpr auto transposed_left = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, true, false, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<plain, execution_simdgroup> unit;
  mpp::tensor_ops::matmul2d<transposed, execution_simdgroup> other;
  mpp::tensor_ops::matmul2d<transposed_left, execution_simdgroup> third;
  auto left = unit.template get_left_input_cooperative_tensor<half, half, float>();
  auto down = third.template get_left_input_cooperative_tensor<half, half, float>();
  auto right = unit.template get_right_input_cooperative_tensor<half, half, float>();
  auto across = other.template get_right_input_cooperative_tensor<half, half, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  device int* own = places + lane * kElements;
  write_places(own, left);
  write_places(own + 32 * kElements, down);
  write_places(own + 64 * kElements, right);
  write_places(own + 96 * kElements, across);
  write_places(own + 128 * kElements, sum);
  if (lane == 0) {
    capacities[0] = left.get_capacity();
    capacities[1] = down.get_capacity();
    capacities[2] = right.get_capacity();
    capacities[3] = across.get_capacity();
    capacities[4] = sum.get_capacity();
  }
  multiply_each_way<half, half>(products, a, b, lane);
  multiply_each_way<bfloat, bfloat>(products + 3 * kProduct, a, b, lane);
  multiply_each_way<float, half>(products + 6 * kProduct, a, b, lane);
  multiply_each_way<float, bfloat>(products + 9 * kProduct, a, b, lane);
}
#endif
""",
    "unit_gradients.h": r"""// What the backward kernels need of the matrix unit beyond unit.h. Keys, values, queries and the output's gradient come
// from device memory straight to registers, as blocks of 16 rows for a SIMD group.
#pragma once
#include "gradients.h"
#include "staging.h"
#include "stored_weights.h"
#include "unit.h"

// Blocks [kRows, kColumns] of keys or values.
template <typename T, int kRows, int kColumns, int kSlices>
struct UnitBlocks {
  using Tile = UnitBlock<T, kRows, kColumns, kSlices>;
  Tile tile;
  KeyRows<T> rows;  // from the first block on

  UnitBlocks(KeyRows<T> first, threadgroup T* memory, int slice, uint, Lane lane)
      : tile{memory, slice, first}, rows(placed(first, slice, lane)) {}

  static KeyRows<T> placed(KeyRows<T> rows, int slice, Lane lane) {
    Tile::place(rows, slice, lane);
    return rows;
  }

  // The block that starts at key0.
  void bring(int key0) {
    tile.rows = rows;
    tile.rows.advance(key0 - rows.first);
    tile.rows.first = key0;
  }
  void skip(int) {}
};

// Weights and their gradients are stored as half, each times a power of two that brings the largest of the block, of all
// its rows, below 2^15: those down to 2^-29 of it keep the 11 bits that the unit takes. Of 8 rows and 16 keys a lane has four
// adjacent weights, and after all lanes' weights four gradients; the factors that undo the powers of two follow the first
// 8 rows of a block.
constant constexpr short kStoredFour = 2;                                  // floats that four halves take
constant constexpr short kStoredPart = 2 * kStoredFour * kSimdWidth;       // floats of 8 rows and 16 keys
constant constexpr short kStoredFactors = kStoredKeys / 16 * kStoredPart;  // where they lie: of weights, of gradients

// The power of two, for numbers of which `largest` of a lane is the largest.
inline float stored_scale(float largest) {
  const uint exponent = as_type<uint>(simd_max(largest)) & 0x7f800000u;
  return as_type<float>(min(0x86000000u - exponent, 0x7e800000u));
}
inline float inverse_power(float power) { return as_type<float>(0x7f000000u - as_type<uint>(power)); }

template <typename Tile>
inline float largest_of_lane(thread Tile& tile) {
  float largest = 0;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = abs(pair(tile, i, j));
      largest = max(largest, max(two[0], two[1]));
    }
  return largest;
}

// Four adjacent elements of a lane's row.
template <typename Tile>
inline half4 stored_four(thread Tile& tile, short i, short k, float scale) {
  const float2 first = scale * pair(tile, i, 2 * k), second = scale * pair(tile, i, 2 * k + 1);
  return half4{half(first[0]), half(first[1]), half(second[0]), half(second[1])};
}

// Stores a lane's part of a block. SIMD groups with slices of the same rows divide it.
template <int kSlices, int kRows, int kKeys>
inline void store_weights(device float* target, long row_stride, thread UnitTile<float, kRows, kKeys>& weights,
                          thread UnitTile<float, kRows, kKeys>& grads, int slice, uint lane_index) {
  static_assert(kKeys == kStoredKeys, "a stored block");
  const float weight_scale = stored_scale(largest_of_lane(weights)), grad_scale = stored_scale(largest_of_lane(grads));
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short k = 0; k < kKeys / 16; k++)
      if ((i * (kKeys / 16) + k) % kSlices == slice) {
        device half4* part = (device half4*)(target + i * row_stride + k * kStoredPart);
        part[0] = stored_four(weights, i, k, weight_scale);
        part[kSimdWidth] = stored_four(grads, i, k, grad_scale);
      }
  if (lane_index == 0 && slice == 0)
    *(device float2*)(target + kStoredFactors) = float2{inverse_power(weight_scale), inverse_power(grad_scale)};
}

// Rows of one of the two tensors, 16 at a time, in the columns of one SIMD group: [keys, columns] += P^T dO, where the
// stored weights are the left operand as they are, but transposed.
template <typename T, int kColumns>
struct UnitRowsInTurn {
  static constant constexpr int kBytes = 0;
  static constant constexpr int kStoredGrads = kStoredPart / 2;  // where those of a lane begin, after all lanes' weights
  using Sum = UnitTile<float, kStoredKeys, kColumns>;
  QueryWalk<T, kFragment> walk;
  device const T* row[2];  // rows r and r + 8, from this lane's first column on
  int next_row, count;     // this lane's
  int columns;             // that exist from there on
  int factor_at;           // from this lane's place in a stored block on

  UnitRowsInTurn(QueryRows<const T> grads, QueryRows<const T> queries, int first, bool makes_value, int first_column,
                 threadgroup T*, uint thread_index, Lane lane)
      : UnitRowsInTurn(makes_value ? grads : queries, first + lane.row, first_column + column_of(lane)) {
    factor_at = kStoredFactors + (makes_value ? 0 : 1 - kStoredGrads) - thread_index % kSimdWidth * kStoredFour;
  }
  UnitRowsInTurn(QueryRows<const T> rows, int first, int column)
      : walk(from(rows, column), first), next_row(first), count(rows.count), columns(rows.columns - column) {}

  static int column_of(Lane lane) { return UnitBlock<T, kStoredKeys, kColumns, 1>::key_column(0, lane.column); }
  static QueryRows<const T> from(QueryRows<const T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next 16 rows.
  void bring(int) {
    row[0] = walk.next(0);
    row[1] = walk.next(0);
    next_row += 16;
  }

  // sum += transpose(stored[16, keys]) * rows. Missing rows are 0, as their weights are not.
  void multiply(thread Sum& sum, short, device const float* stored, long row_stride) const {
    const float factor = stored[factor_at];
    LeftPart<float> weights[kStoredKeys / 16];
    UNROLL for (short m = 0; m < kStoredKeys / 16; m++)
      weights[m] = {factor * float4(*(device const half4*)(stored + m * kStoredPart)),
                    factor * float4(*(device const half4*)(stored + row_stride + m * kStoredPart))};
    UNROLL for (short n = 0; n < kColumns / 32; n++) {
      alignas(16) T chunk[2][8];
      UNROLL for (short i = 0; i < 2; i++) {
        clear_chunk<8>(chunk[i]);
        if (next_row - 16 + i * kFragment < count) load_chunk<8>(chunk[i], row[i] + 32 * n, columns - 32 * n);
      }
      UNROLL for (short m = 0; m < kStoredKeys / 16; m++)
        multiply_16x32x16<false, true>(sum, m, n, weights[m], half_of(chunk[0], 0), half_of(chunk[1], 0),
                                       half_of(chunk[0], 1), half_of(chunk[1], 1));
    }
  }
};

// target[key, column] = factor * sum[key, column], for keys from key0 on; missing keys and columns are not written.
template <typename T, int kKeys, int kColumns>
inline void store_sum(device T* target, long stride, thread UnitTile<float, kKeys, kColumns>& sum, float factor,
                      int key0, int keys, int columns, Lane lane) {
  scale(sum, factor);
  store<UnitBlock<T, kKeys, kColumns, 1>>(QueryRows<T>{target, stride, 0, 1, keys, columns}, sum, key0, lane);
}

template <>
struct InTurn<Loader::unit> {
  static constant constexpr short kStoredLane = kStoredFour;
  template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
  using Blocks = UnitBlocks<T, kRows, kColumns, kSlices>;
  template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
  using Rows = UnitRowsInTurn<T, kColumns>;
};
template <>
struct InTurn<Loader::unit_rereads> : InTurn<Loader::unit> {};
""",
}
