// Forward attention (FlashAttention-2, Dao 2023): softmax(scale * Q K^T) V in one pass over the keys.
//
// A threadgroup owns rows of one sequence and one key/value head; a row is one token of one of the query heads that
// share it (row r: token r / group_size, head r % group_size of the group). Its SIMD groups divide the rows among them
// (kRowGroups, of kRows rows each), and may divide the columns of a row (kSlices) or the keys (kKeyGroups).
//   for each block of kBlockN keys:  S = Q K^T;  P = exp2(scale_log2 (S - row_max));  O = rescale O + P V
//   O = O / row_sum
#include <metal_stdlib>
#include "constants.h"
#include "direct.h"
#include "mask.h"
#include "overflow.h"
#include "pages.h"
#include "params.h"
#include "partial.h"
#include "score.h"
#include "sequence.h"
#include "softmax.h"
#include "staged.h"
#include "tile.h"
using namespace metal;

// Grid: (key/value heads, tiles of query rows from first_tile on, splits). Rows hold params.head_dim (query, key) and
// params.value_dim (value, output) elements, up to kHeadDim and kValueDim. Output rows of no sequence are written too (0,
// and lse -inf).
// With is_split each split writes the result of its own keys, for attention_combine to join: the output in fp32, and in
// the place of lse the row_max and row_sum of its softmax.
template <typename T, int kHeadDim, int kValueDim, int kRows, int kBlockN, int kRowGroups, int kSlices, int kKeyGroups,
          bool kStaged>
[[kernel, max_total_threads_per_threadgroup(kRowGroups * kSlices * kKeyGroups * kSimdWidth)]] void attention_forward(
    constant ForwardParams& params [[buffer(0)]],
    constant ScoreParams& score [[buffer(1)]],
    device const T* query [[buffer(2)]],  // [batch, query_length, num_heads, head_dim], [total_q, num_heads, head_dim]
    device const T* key [[buffer(3)]],    // [batch, key_length, num_heads_kv, head_dim],
                                          // [total_k, num_heads_kv, head_dim],
                                          // or [num_pages, page_size, num_heads_kv, head_dim]
    device const T* value [[buffer(4)]],  // as key, [..., value_dim]
    device T* output [[buffer(5)]],       // as query, [..., value_dim]; split: fp32, [num_splits, ..., value_dim]
    device float* lse [[buffer(6), function_constant(writes_lse)]],  // [batch, num_heads, query_length] or
                                                                     // [num_heads, total_q]; split: float2,
                                                                     // [num_splits, ...]
    device const int* cu_seqlens_q [[buffer(7), function_constant(is_packed)]],   // [batch + 1]
    device const int* cu_seqlens_k [[buffer(8), function_constant(is_packed)]],   // [batch + 1]
    device const int* seqused_k [[buffer(9), function_constant(has_seqused_k)]],  // [batch]
    device const int* block_table [[buffer(10), function_constant(is_paged)]],    // [batch, block_table_stride]
    device const float* alibi_slopes [[buffer(11), function_constant(has_alibi)]],  // [num_heads] or [batch, num_heads]
    device const float* sinks [[buffer(12), function_constant(has_sinks)]],         // [num_heads]
    uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  constexpr int kSimdgroups = kRowGroups * kSlices * kKeyGroups, kThreads = kSimdgroups * kSimdWidth;
  constexpr int kBlockM = kRowGroups * kRows;
  static_assert(kKeyGroups == 1 || (kRowGroups == 1 && kSlices == 1 && !kStaged), "no barriers for every block");
  using KeyTile = conditional_t<kStaged, StagedTile<T, kBlockN, kHeadDim, kSlices>,
                                DirectTile<T, kBlockN, kHeadDim, kSlices>>;
  using ValueTile = conditional_t<kStaged, StagedTile<T, kBlockN, kValueDim, kSlices>,
                                  DirectTile<T, kBlockN, kValueDim, kSlices>>;
  constexpr int kBlockBytes = KeyTile::kBytes + ValueTile::kBytes + slice_bytes<kRows, kBlockN, kSlices, kSimdgroups>();
  constexpr int kMergeBytes = merge_bytes<kRows, kValueDim, kKeyGroups>();
  constexpr bool kMayOverflow = !is_same_v<T, half>;  // no sum of 2^30 half values leaves fp32
  constexpr bool kIsShared = kStaged || kSlices > 1 || kKeyGroups > 1;  // SIMD groups go through the keys together
  constexpr int kMemory = larger(kBlockBytes, kMergeBytes);
  threadgroup float4 memory[kMemory > 0 ? kMemory / 16 : 1];

  // Threadgroups start in the order of their linear index: all heads of a tile together, and the last tiles first,
  // which causal masks make the heaviest, so that the light ones are left to fill the cores at the end.
  const int head_kv = group.x, tile_index = int(params.first_tile) + groups.y - 1 - group.y;

  // This threadgroup's rows, and the keys they see.
  QueryTile tile;
  if (is_packed) {
    tile = packed_tile<kBlockM>(params, cu_seqlens_q, cu_seqlens_k, tile_index);
  } else {
    tile = dense_tile<kBlockM>(params, tile_index);
  }
  if (has_seqused_k && tile.key_length > 0) tile.key_length = clamp(seqused_k[tile.sequence], 0, tile.key_length);
  const int group_size = params.group_size;
  const int rows = tile.query_length * group_size;
  if (tile.row0 >= rows) return;  // a surplus tile, or cu_seqlens that lie
  const int first_token = tile.row0 / group_size;
  const int last_token = (min(tile.row0 + kBlockM, rows) - 1) / group_size;
  const Mask mask = {tile.key_length, tile.key_length - tile.query_length, int(params.window_left),
                     int(params.window_right)};
  KeyBlocks blocks = key_blocks(mask, first_token, last_token, kBlockN);
  if (is_split) blocks = split_blocks(blocks, group.z, int(params.num_splits), kBlockN);

  const long first_head = long(head_kv) * group_size;
  query += tile.batch * params.query.batch + tile.query_start * params.query.token + first_head * params.query.head;
  const long output_offset =
      tile.batch * params.output.batch + tile.query_start * params.output.token + first_head * params.output.head;
  key += tile.key_start * params.key.token + head_kv * params.key.head;
  value += tile.key_start * params.value.token + head_kv * params.value.head;
  Pages pages;
  if (is_paged) {
    pages.block_table = block_table + tile.sequence * params.block_table_stride;
    pages.size = params.page_size;
    pages.count = params.num_pages;
  } else {
    key += tile.batch * params.key.batch;
    value += tile.batch * params.value.batch;
  }

  const Lane lane = lane_position(lane_index);
  const uint thread_index = simdgroup * kSimdWidth + lane_index;
  const int key_group = simdgroup % kKeyGroups, slice = simdgroup % kSlices;
  const int row0 = tile.row0 + simdgroup / (kSlices * kKeyGroups) * kRows;  // of this SIMD group
  const RowRanges<kRows> visible(mask, row0, rows, group_size, lane);
  threadgroup char* free_memory = (threadgroup char*)memory;
  KeyTile key_tile = {(threadgroup T*)free_memory, slice};
  ValueTile value_tile = {(threadgroup T*)(free_memory + KeyTile::kBytes), slice};
  threadgroup float2* slices = (threadgroup float2*)(free_memory + KeyTile::kBytes + ValueTile::kBytes);
  RegisterTile<T, kRows, kHeadDim / kSlices> query_tile;
  RegisterTile<float, kRows, kBlockN> scores;                   // then weights
  RegisterTile<float, kRows, kValueDim / kSlices> accumulator;  // the output, before it is divided by row_sum
  Alibi<kRows> alibi;
  if (has_alibi && tile.key_length > 0)
    alibi.place(alibi_slopes + tile.sequence * params.alibi_batch_stride + first_head, score.scale, row0, rows,
                group_size, mask.diagonal, lane);

  const int head_dim = params.head_dim, value_dim = params.value_dim;
  const int first_query_column = slice * (kHeadDim / kSlices), first_value_column = slice * (kValueDim / kSlices);
  load<KeyTile>(query_tile,
                GroupedRows<const T>{query + first_query_column, params.query.token, params.query.head, group_size,
                                     rows, head_dim - first_query_column},
                row0, score.query_factor, lane);

  OnlineSoftmax<kRows> softmax(score.scale_log2);
  const int own_begin = simd_min(visible.at[0].begin);  // keys that rows of this SIMD group see
  const int own_end = row0 < rows ? simd_max(visible.at[kRows / kFragment - 1].end) : 0;
  Rows<T> keys = {key, params.key.token, params.key.batch, 0, tile.key_length, head_dim,
                  {pages.block_table, pages.size, pages.count}};
  Rows<T> values = {value, params.value.token, params.value.batch, 0, tile.key_length, value_dim,
                    {pages.block_table, pages.size, pages.count}};
  const int begin = blocks.begin + key_group * kBlockN, step = kKeyGroups * kBlockN;
  keys.advance(begin);
  values.advance(begin);
  bool shrinks = false;  // in a second pass, where sums of values overflowed in the first
  for (;;) {
    softmax.start();
    zero(accumulator);
    int key0 = begin;
    for (; key0 < blocks.end; key0 += step, keys.advance(step), values.advance(step)) {
      keys.first = values.first = key0;
      if (kStaged || kSlices > 1) threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
      bring<kThreads>(key_tile, keys, thread_index);
      bring<kThreads>(value_tile, values, thread_index);
      if (kStaged) threadgroup_barrier(mem_flags::mem_threadgroup);  // keys and values are there
      if (kSlices == 1 && (key0 + kBlockN <= own_begin || key0 >= own_end)) continue;  // it only helped to bring them

      zero(scores);
      multiply_transposed(scores, query_tile, key_tile, lane);  // S = Q K^T
      if (kSlices > 1) add_slices<kSlices>(slices, scores, simdgroup, lane_index);
      if (has_softcap) cap(scores, score.tanh_scale);
      if (has_alibi) add_bias(scores, alibi, score.bias_factor, key0, lane);
      if (!blocks.is_full(key0, kBlockN)) hide_invisible(scores, visible, key0, lane);
      RowVector<kRows> rescale;
      if (softmax.update(scores, rescale)) scale_rows(accumulator, rescale);  // S -> P
      multiply(accumulator, scores, value_tile, lane);                        // O += P V
    }
    if (kKeyGroups > 1)
      merge_key_groups<kKeyGroups>((threadgroup float2*)memory, accumulator, softmax, key_group, lane_index);
    if (!kMayOverflow || shrinks) break;
    shrinks = shrink_overflowed<kIsShared, kSimdgroups, kKeyGroups>((threadgroup float2*)memory, accumulator, softmax,
                                                                    simdgroup, lane_index);
    if (!shrinks) break;
    keys.advance(begin - key0);
    values.advance(begin - key0);
  }
  if (key_group > 0) return;

  softmax.finish();
  Exponentials exponentials[kRows / kFragment];
  RowVector<kRows> inverse_sum;
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    exponentials[i] = softmax.exponentials(i, score.scale);
    if (has_sinks) {
      const float sink = sinks[first_head + (row0 + i * kFragment + lane.row) % group_size];
      exponentials[i] = exponentials[i].with_sink(sink);
    }
    inverse_sum.at[i] = exponentials[i].inverse();
  }
  scale_rows(accumulator, inverse_sum);
  if (kMayOverflow && shrinks) saturate(accumulator);
  if (is_split) {
    device float* partial =
        (device float*)output + group.z * params.output_split_stride + output_offset + first_value_column;
    store<ValueTile>(GroupedRows<float>{partial, params.output.token, params.output.head, group_size, rows,
                                        value_dim - first_value_column},
                     accumulator, row0, lane);
  } else {
    device T* whole = output + output_offset + first_value_column;
    store<ValueTile>(GroupedRows<T>{whole, params.output.token, params.output.head, group_size, rows,
                                    value_dim - first_value_column},
                     accumulator, row0, lane);
  }
  if (writes_lse && lane.column == 0 && slice == 0) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = row0 + i * kFragment + lane.row;
      const long index = tile.batch * params.lse_batch_stride +
                         (first_head + row % group_size) * params.lse_head_stride + tile.query_start +
                         row / group_size;
      if (row < rows && is_split) {
        ((device float2*)lse)[group.z * params.lse_split_stride + index] =
            float2{softmax.row_max.at[i], exponentials[i].sum};
      } else if (row < rows) {
        ((device uint*)lse)[index] = exponentials[i].log_sum_exp(visible.at[i].begin < visible.at[i].end);
      }
    }
  }
}

constant constexpr bool staged = true;
constant constexpr bool direct = false;

#define INSTANTIATE(name, T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, loader) \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_v" #value_dim "_r" #rows "_n" #block_n "_g" \
                       #row_groups "x" #slices "x" #key_groups "_" #loader)]] [[kernel]] decltype(attention_forward< \
      T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, loader>) \
      attention_forward<T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, loader>;

// The planner's tile tables (planning/tiles.py) give the reason of each row. One row a line: the run-time launcher,
// which compiles one kernel at a time, drops the others.
INSTANTIATE(f16, half, 32, 32, 8, 64, 8, 1, 1, staged)
INSTANTIATE(f16, half, 64, 64, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 72, 72, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 80, 80, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 96, 96, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 128, 128, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 192, 128, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f16, half, 256, 256, 8, 16, 4, 2, 1, staged)
INSTANTIATE(f16, half, 32, 32, 8, 64, 4, 1, 1, staged)
INSTANTIATE(f16, half, 64, 64, 8, 32, 4, 1, 1, staged)
INSTANTIATE(f16, half, 72, 72, 8, 32, 4, 1, 1, staged)
INSTANTIATE(f16, half, 80, 80, 8, 32, 4, 1, 1, staged)
INSTANTIATE(f16, half, 96, 96, 8, 32, 4, 1, 1, staged)
INSTANTIATE(f16, half, 128, 128, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f16, half, 192, 128, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f16, half, 32, 32, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f16, half, 64, 64, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f16, half, 72, 72, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f16, half, 80, 80, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f16, half, 96, 96, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f16, half, 128, 128, 8, 16, 4, 1, 1, direct)
INSTANTIATE(f16, half, 192, 128, 8, 8, 4, 1, 1, direct)
INSTANTIATE(f16, half, 256, 256, 8, 16, 4, 2, 1, direct)
INSTANTIATE(f16, half, 32, 32, 8, 32, 1, 1, 4, direct)
INSTANTIATE(f16, half, 64, 64, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f16, half, 72, 72, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f16, half, 80, 80, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f16, half, 96, 96, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f16, half, 128, 128, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f16, half, 192, 128, 8, 8, 1, 1, 4, direct)
INSTANTIATE(f16, half, 256, 256, 8, 16, 1, 4, 1, direct)
INSTANTIATE(bf16, bfloat, 32, 32, 8, 64, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 64, 64, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 72, 72, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 80, 80, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 96, 96, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 128, 128, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 192, 128, 8, 32, 8, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 256, 256, 8, 16, 4, 2, 1, staged)
INSTANTIATE(bf16, bfloat, 32, 32, 8, 64, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 64, 64, 8, 32, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 72, 72, 8, 32, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 80, 80, 8, 32, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 96, 96, 8, 32, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 128, 128, 8, 16, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 192, 128, 8, 16, 4, 1, 1, staged)
INSTANTIATE(bf16, bfloat, 32, 32, 8, 32, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 64, 64, 8, 32, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 72, 72, 8, 32, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 80, 80, 8, 32, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 96, 96, 8, 32, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 128, 128, 8, 16, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 192, 128, 8, 8, 4, 1, 1, direct)
INSTANTIATE(bf16, bfloat, 256, 256, 8, 16, 4, 2, 1, direct)
INSTANTIATE(bf16, bfloat, 32, 32, 8, 32, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 64, 64, 8, 16, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 72, 72, 8, 16, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 80, 80, 8, 16, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 96, 96, 8, 16, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 128, 128, 8, 16, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 192, 128, 8, 8, 1, 1, 4, direct)
INSTANTIATE(bf16, bfloat, 256, 256, 8, 16, 1, 4, 1, direct)
INSTANTIATE(f32, float, 32, 32, 8, 64, 8, 1, 1, staged)
INSTANTIATE(f32, float, 64, 64, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f32, float, 72, 72, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f32, float, 80, 80, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f32, float, 96, 96, 8, 32, 8, 1, 1, staged)
INSTANTIATE(f32, float, 128, 128, 8, 16, 4, 2, 1, staged)
INSTANTIATE(f32, float, 192, 128, 8, 16, 4, 2, 1, staged)
INSTANTIATE(f32, float, 256, 256, 8, 8, 2, 4, 1, staged)
INSTANTIATE(f32, float, 32, 32, 8, 32, 4, 1, 1, staged)
INSTANTIATE(f32, float, 64, 64, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f32, float, 72, 72, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f32, float, 80, 80, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f32, float, 96, 96, 8, 16, 4, 1, 1, staged)
INSTANTIATE(f32, float, 32, 32, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f32, float, 64, 64, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f32, float, 72, 72, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f32, float, 80, 80, 8, 32, 4, 1, 1, direct)
INSTANTIATE(f32, float, 96, 96, 8, 16, 4, 1, 1, direct)
INSTANTIATE(f32, float, 128, 128, 8, 32, 4, 2, 1, direct)
INSTANTIATE(f32, float, 192, 128, 8, 16, 4, 2, 1, direct)
INSTANTIATE(f32, float, 256, 256, 8, 16, 4, 4, 1, direct)
INSTANTIATE(f32, float, 32, 32, 8, 32, 1, 1, 4, direct)
INSTANTIATE(f32, float, 64, 64, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f32, float, 72, 72, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f32, float, 80, 80, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f32, float, 96, 96, 8, 16, 1, 1, 4, direct)
INSTANTIATE(f32, float, 128, 128, 8, 16, 1, 2, 1, direct)
INSTANTIATE(f32, float, 192, 128, 8, 16, 1, 2, 1, direct)
INSTANTIATE(f32, float, 256, 256, 8, 16, 1, 4, 1, direct)
