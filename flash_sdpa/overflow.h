// Sums of values that leave fp32 before they are divided by the sum of weights, though their mean does not. They are
// found when all keys are seen; the rows concerned are then computed once more, with smaller weights. So the loop over
// the keys costs nothing more, and no value is ever too small.
#pragma once
#include "tile.h"

// 2^-40: weights are at most 2^8 (kSlack), keys fewer than 2^30.
constant constexpr float kShrink = 9.094947017729282e-13f;
constant constexpr float kLargest = 3.40282347e38f;

// By their bits: fast math may assume that all numbers are finite.
inline bool is_finite(float x) { return (as_type<uint>(x) & 0x7f800000u) != 0x7f800000u; }

// Bit i: whether a lane's row i holds a number that is not finite, the same on the row's four lanes.
template <int kRows, int kColumns>
inline uint overflowed_rows(thread RegisterTile<float, kRows, kColumns>& tile) {
  uint overflowed = 0;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) {
      const float2 pair = elements(tile.frag[i][j]);
      if (!is_finite(pair[0]) || !is_finite(pair[1])) overflowed |= 1u << i;
    }
  overflowed |= simd_shuffle_xor(overflowed, 1);
  overflowed |= simd_shuffle_xor(overflowed, 8);
  return overflowed;
}

// shrink = kShrink for the rows that overflowed. The first of kKeyGroups adjacent SIMD groups, of kSimdgroups, speaks for
// the others. Returns whether any row of the threadgroup did. All threads of the threadgroup call it, as it contains
// barriers; memory holds a uint of each.
template <int kSimdgroups, int kKeyGroups, int kRows, int kColumns>
inline bool shrink_overflowed(threadgroup uint* memory, thread RegisterTile<float, kRows, kColumns>& accumulator,
                              thread RowVector<kRows>& shrink, uint simdgroup, uint lane_index) {
  threadgroup_barrier(mem_flags::mem_threadgroup);  // the memory is free
  memory[simdgroup * kSimdWidth + lane_index] = overflowed_rows(accumulator);
  threadgroup_barrier(mem_flags::mem_threadgroup);  // all have said theirs
  const uint own = memory[simdgroup / kKeyGroups * kKeyGroups * kSimdWidth + lane_index];
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    if (own >> i & 1) shrink.at[i] = kShrink;
  uint any = 0;
  UNROLL for (short group = 0; group < kSimdgroups; group++) any |= memory[group * kSimdWidth + lane_index];
  return simd_any(any != 0);
}

// tile = means of values, from those under smaller weights. What rounding would lift above the largest float stays
// there.
template <int kRows, int kColumns>
inline void grow_back(thread RegisterTile<float, kRows, kColumns>& tile, thread const RowVector<kRows>& shrink) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const float mean = elements(tile.frag[i][j])[e], limit = kLargest * shrink.at[i];
        elements(tile.frag[i][j])[e] = (is_finite(mean) ? clamp(mean, -limit, limit) : mean) / shrink.at[i];
      }
}
