// Sums of values that leave fp32 before they are divided by the sum of weights, though their mean does not. The kernel
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
