// Small kernels around the headers of flash_sdpa/, one for each thing that test_primitives.py checks by itself.
#include <metal_stdlib>
#include "mask.h"
#include "sequence.h"
#include "softmax.h"
#include "tile.h"
using namespace metal;

// One SIMD group, rows of up to K columns: a[16, columns] (grouped, group of 2), b[24, columns];
// products[16, 24] = a b^T, weighted[16, columns] = products b.
template <typename T, int kK>
[[kernel]] void tile_products(
    device const T* a [[buffer(0)]],
    device const T* b [[buffer(1)]],
    device float* products [[buffer(2)]],
    device float* weighted [[buffer(3)]],
    constant int& count_a [[buffer(4)]],
    constant int& count_b [[buffer(5)]],
    constant float& sign [[buffer(6)]],
    constant int& columns [[buffer(7)]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  using Shared = SharedTile<T, 24, kK>;
  threadgroup float4 memory[Shared::kBytes / 16];
  const Shared b_tile = {(threadgroup T*)memory};
  const Lane lane = lane_position(lane_index);
  RegisterTile<T, 16, kK> a_tile;
  RegisterTile<float, 16, 24> product;
  RegisterTile<float, 16, kK> weight;
  load(a_tile, GroupedRows<const T>{a, 2 * columns, columns, 2, count_a, columns}, 0, sign, lane);
  stage<32>(b_tile, Rows<T>{b, columns, 0, 0, count_b, columns, Pages()}, lane_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  zero(product);
  multiply_transposed(product, a_tile, b_tile);
  zero(weight);
  multiply(weight, product, b_tile);
  store(GroupedRows<float>{products, 2 * 24, 24, 2, count_a, 24}, product, 0, lane);
  store(GroupedRows<float>{weighted, 2 * columns, columns, 2, count_a, columns}, weight, 0, lane);
}
template [[host_name("tile_products_f16")]] [[kernel]] decltype(tile_products<half, 40>) tile_products<half, 40>;
template [[host_name("tile_products_bf16")]] [[kernel]] decltype(tile_products<bfloat, 40>) tile_products<bfloat, 40>;
template [[host_name("tile_products_f32")]] [[kernel]] decltype(tile_products<float, 40>) tile_products<float, 40>;

// One thread a case. cases[n, 9]: query_length, key_length, window_left, window_right, first and last token, block,
// split, num_splits. results[n, 6]: the fields of KeyBlocks, then begin and end of the split.
[[kernel]] void find_key_blocks(
    device const int* cases [[buffer(0)]],
    device int* results [[buffer(1)]],
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
[[kernel]] void find_packed_tiles(
    constant ForwardParams& params [[buffer(0)]],
    device const int* cu_seqlens_q [[buffer(1)]],
    device const int* cu_seqlens_k [[buffer(2)]],
    device int* results [[buffer(3)]],
    uint tile [[thread_position_in_grid]]) {
  const QueryTile found = packed_tile<32>(params, cu_seqlens_q, cu_seqlens_k, tile);
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
    constant int& blocks [[buffer(5)]],
    constant float& scale_log2 [[buffer(6)]],
    uint lane_index [[thread_index_in_simdgroup]]) {
  const Lane lane = lane_position(lane_index);
  OnlineSoftmax<8> softmax(scale_log2);
  for (int block = 0; block < blocks; block++) {
    RegisterTile<float, 8, 16> tile;
    RowVector<8> rescale;
    load(tile, GroupedRows<const float>{scores + block * 128, 16, 16, 1, 8, 16}, 0, 1, lane);
    softmax.update(tile, rescale);
    store(GroupedRows<float>{weights + block * 128, 16, 16, 1, 8, 16}, tile, 0, lane);
    if (lane.column == 0) rescales[block * 8 + lane.row] = rescale.at[0];
  }
  const RowVector<8> factor = softmax.finish();
  if (lane.column == 0) {
    inverse[lane.row] = factor.at[0];
    lse[lane.row] = softmax.log_sum_exp(0);
  }
}
