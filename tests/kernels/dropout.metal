// dropout.h by itself: the generator, and which weights a SIMD group keeps of 16 rows and a block of keys.
#include <metal_stdlib>
#include "dropout.h"
using namespace metal;

template <int kRounds>
[[kernel]] void numbers(device const uint4* counter [[buffer(0)]], device const uint2* key [[buffer(1)]],
                        device uint4* result [[buffer(2)]], uint thread_index [[thread_position_in_grid]]) {
  result[thread_index] = philox<kRounds>(counter[thread_index], key[thread_index]);
}

template <int kKeys>
[[kernel]] void kept(constant DropoutParams& params [[buffer(0)]],
                     constant int4& place [[buffer(1)]],  // sequence, first head, query heads of a key/value head, rows
                     constant int& row0 [[buffer(2)]],
                     device float* result [[buffer(3)]],  // [blocks, 16, kKeys]
                     uint block [[threadgroup_position_in_grid]], uint lane_index [[thread_index_in_simdgroup]]) {
  const Lane lane = lane_position(lane_index);
  Dropout<16> dropout;
  dropout.place(params, place[0], place[1], row0, place[3], place[2], lane);
  RegisterTile<float, 16, kKeys> tile;
  UNROLL for (short i = 0; i < 2; i++)
    UNROLL for (short j = 0; j < kKeys / kFragment; j++) elements(tile.frag[i][j]) = float2(dropout_factor(params));
  const Kept<16> kept = kept_weights<kKeys>(dropout, block * kKeys, lane);
  drop(tile, kept);
  device float* row = result + (block * 16 + lane.row) * kKeys + lane.column;
  UNROLL for (short i = 0; i < 2; i++)
    UNROLL for (short j = 0; j < kKeys / kFragment; j++)
      *(device float2*)(row + i * kFragment * kKeys + j * kFragment) = elements(tile.frag[i][j]);
}

#define INSTANTIATE(function, number) \
  template [[host_name(#function "_" #number)]] [[kernel]] decltype(function<number>) function<number>;
INSTANTIATE(numbers, 7)
INSTANTIATE(numbers, 10)
INSTANTIATE(kept, 8)
INSTANTIATE(kept, 16)
INSTANTIATE(kept, 32)
INSTANTIATE(kept, 64)
INSTANTIATE(kept, 128)
