// Forward attention (FlashAttention-2, Dao 2023): softmax(scale * Q K^T) V in one pass over the keys.
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
