// Exchange between SIMD groups that share a tile of rows: they add up scores over slices of head_dim, or merge their
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
