// Small kernels around the headers of flash_sdpa/, one for each thing that test_primitives.py checks by itself.
#include <metal_stdlib>
#include "blocks_direct.h"
#include "mask.h"
#include "exchange.h"
#include "sequence.h"
#include "softmax.h"
#include "blocks_staged.h"
#include "tile.h"
using namespace metal;

// One SIMD group for each of kSlices slices of up to kK columns: a[16, columns], rows of 8 tokens and 2 heads,
// b[24, columns]; products[16, 24] = a b^T, weighted[16, columns] = products b.
template <typename T, int kK, int kSlices, bool kStaged>
[[kernel]] void tile_products(
    device const T* a [[buffer(0)]], device const T* b [[buffer(1)]], device float* products [[buffer(2)]],
    device float* weighted [[buffer(3)]], constant int& count_a [[buffer(4)]], constant int& count_b [[buffer(5)]],
    constant float& sign [[buffer(6)]], constant int& columns [[buffer(7)]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane_index [[thread_index_in_simdgroup]]) {
  using Tile = conditional_t<kStaged, StagedTile<T, 24, kK, kSlices>, DirectTile<T, 24, kK, kSlices>>;
  constexpr int kSums = slice_bytes<16, 24, kSlices, kSlices>();
  threadgroup float4 memory[(Tile::kBytes + kSums) / 16 + 1];
  threadgroup float2* sums = (threadgroup float2*)((threadgroup char*)memory + Tile::kBytes);
  using Element = typename Tile::Element;
  Tile b_tile = {(threadgroup Element*)memory, int(simdgroup)};
  const int first = simdgroup * (kK / kSlices), rest = columns - first;
  const Lane lane = lane_position(lane_index);
  RegisterTile<Element, 16, kK / kSlices> a_tile;
  RegisterTile<float, 16, 24> product;
  RegisterTile<float, 16, kK / kSlices> weight;
  load<Tile>(a_tile, QueryRows<const T>{a + first, 2 * columns, columns, 2, count_a, rest}, 0, sign, lane);
  const KeyRows<T> rows = {b, columns, 0, 0, count_b, columns, Pages()};
  load_block<32 * kSlices>(b_tile, rows, simdgroup * 32 + lane_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  zero(product);
  multiply_transposed(product, a_tile, b_tile, lane);
  if (kSlices > 1) add_slices<kSlices>(sums, product, simdgroup, lane_index);
  zero(weight);
  multiply(weight, product, b_tile, lane);
  using Plain = StagedTile<float, 24, 24, 1>;  // columns in their own order
  if (simdgroup == 0) store<Plain>(QueryRows<float>{products, 2 * 24, 24, 2, count_a, 24}, product, 0, lane);
  store<Tile>(QueryRows<float>{weighted + first, 2 * columns, columns, 2, count_a, rest}, weight, 0, lane);
}
#define INSTANTIATE(name, T, loader, kStaged)                                                                     \
  template [[host_name("tile_products_" #name "_" #loader)]] [[kernel]] decltype(tile_products<T, 40, 1, kStaged>)  \
      tile_products<T, 40, 1, kStaged>;                                                                           \
  template [[host_name("slice_products_" #name "_" #loader)]] [[kernel]] decltype(tile_products<T, 80, 2, kStaged>) \
      tile_products<T, 80, 2, kStaged>;
INSTANTIATE(f16, half, staged, true)
INSTANTIATE(bf16, bfloat, staged, true)
INSTANTIATE(f32, float, staged, true)
INSTANTIATE(f16, half, direct, false)
INSTANTIATE(bf16, bfloat, direct, false)
INSTANTIATE(f32, float, direct, false)

// kKeyGroups SIMD groups, each with blocks / kKeyGroups of scores[blocks, 8, 16] and of values[blocks, 8, 16], the
// accumulated products of each block: output[8, 16] and lse[8] of all blocks together.
template <int kKeyGroups>
[[kernel]] void merged_groups(device const float* scores [[buffer(0)]], device const float* values [[buffer(1)]],
                              device float* output [[buffer(2)]], device float* lse [[buffer(3)]],
                              constant int& blocks [[buffer(4)]], uint key_group [[simdgroup_index_in_threadgroup]],
                              uint lane_index [[thread_index_in_simdgroup]]) {
  using Plain = StagedTile<float, 8, 16, 1>;
  threadgroup float2 memory[merge_bytes<8, 16, kKeyGroups>() / 8];
  const Lane lane = lane_position(lane_index);
  OnlineSoftmax<8> softmax(1);
  softmax.start();
  RegisterTile<float, 8, 16> accumulator;
  zero(accumulator);
  for (int block = key_group; block < blocks; block += kKeyGroups) {
    RegisterTile<float, 8, 16> tile, block_values;
    RowVector<8> rescale;
    load<Plain>(tile, QueryRows<const float>{scores + block * 128, 16, 16, 1, 8, 16}, 0, 1, lane);
    load<Plain>(block_values, QueryRows<const float>{values + block * 128, 16, 16, 1, 8, 16}, 0, 1, lane);
    if (softmax.update(tile, rescale)) scale_rows(accumulator, rescale);
    for (short j = 0; j < 2; j++)
      elements(accumulator.frag[0][j]) += elements(tile.frag[0][j]) * elements(block_values.frag[0][j]);
  }
  merge_key_groups<kKeyGroups>(memory, accumulator, softmax, key_group, lane_index);
  if (key_group > 0) return;
  const Exponentials exponentials = softmax.finish(M_LN2_F).at[0];
  scale_rows(accumulator, RowVector<8>{exponentials.inverse()});
  store<Plain>(QueryRows<float>{output, 16, 16, 1, 8, 16}, accumulator, 0, lane);
  if (lane.column == 0) lse[lane.row] = as_type<float>(exponentials.log_sum_exp(true));
}
template [[host_name("merged_groups_1")]] [[kernel]] decltype(merged_groups<1>) merged_groups<1>;
template [[host_name("merged_groups_2")]] [[kernel]] decltype(merged_groups<2>) merged_groups<2>;
template [[host_name("merged_groups_4")]] [[kernel]] decltype(merged_groups<4>) merged_groups<4>;

// One thread a case. cases[n, 9]: query_length, key_length, window_left, window_right, first and last token, block,
// split, num_splits. results[n, 6]: the fields of KeyBlocks, then begin and end of the split.
[[kernel]] void find_key_blocks(device const int* cases [[buffer(0)]], device int* results [[buffer(1)]],
                                uint n [[thread_position_in_grid]]) {
  device const int* c = cases + n * 9;
  const Mask mask = {c[1], c[1] - c[0], c[2], c[3]};
  const KeyBlocks blocks = key_blocks(mask, c[4], c[5], c[6]);
  const KeyBlocks part = split_blocks(blocks, c[7], c[8], c[6]);
  results[n * 6] = blocks.begin;
  results[n * 6 + 1] = blocks.end;
  results[n * 6 + 2] = blocks.full_begin;
  results[n * 6 + 3] = blocks.full_end;
  results[n * 6 + 4] = part.begin;
  results[n * 6 + 5] = part.end;
}

// One thread a tile of 32 rows. results[tile, 5]: query_start, query_length, key_start, key_length, row0.
[[kernel]] void find_packed_tiles(constant ForwardParams& params [[buffer(0)]],
                                  device const int* cu_seqlens_q [[buffer(1)]],
                                  device const int* cu_seqlens_k [[buffer(2)]], device int* results [[buffer(3)]],
                                  uint tile [[thread_position_in_grid]]) {
  const QueryTile found = packed_tile<32>(params, cu_seqlens_q, cu_seqlens_k, 0, tile);
  results[tile * 5] = found.query_start;
  results[tile * 5 + 1] = found.query_length;
  results[tile * 5 + 2] = found.key_start;
  results[tile * 5 + 3] = found.key_length;
  results[tile * 5 + 4] = found.row0;
}

// One SIMD group, scores[blocks, 8, 16] one block after the other: weights as of the last block's maximum, and per row
// the inverse of the sum and the log-sum-exp.
[[kernel]] void softmax_rows(
    device const float* scores [[buffer(0)]],
    device float* weights [[buffer(1)]],   // [blocks, 8, 16], each as of its own block's maximum
    device float* rescales [[buffer(2)]],  // [blocks, 8]
    device float* inverse [[buffer(3)]],   // [8]
    device float* lse [[buffer(4)]],       // [8]
    constant int& blocks [[buffer(5)]], constant float& scale_log2 [[buffer(6)]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  const Lane lane = lane_position(lane_index);
  using Plain = StagedTile<float, 8, 16, 1>;  // columns in their own order
  OnlineSoftmax<8> softmax(scale_log2);
  softmax.start();
  for (int block = 0; block < blocks; block++) {
    RegisterTile<float, 8, 16> tile;
    RowVector<8> rescale;
    load<Plain>(tile, QueryRows<const float>{scores + block * 128, 16, 16, 1, 8, 16}, 0, 1, lane);
    const bool grew = softmax.update(tile, rescale);
    store<Plain>(QueryRows<float>{weights + block * 128, 16, 16, 1, 8, 16}, tile, 0, lane);
    if (lane.column == 0) rescales[block * 8 + lane.row] = grew ? rescale.at[0] : 1;
  }
  const Exponentials exponentials = softmax.finish(M_LN2_F * scale_log2).at[0];
  if (lane.column == 0) {
    inverse[lane.row] = exponentials.inverse();
    lse[lane.row] = as_type<float>(exponentials.log_sum_exp(true));
  }
}
