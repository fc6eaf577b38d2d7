// Gradients of the queries, and the weights that those of keys and values are made of. Rows own, as in
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
