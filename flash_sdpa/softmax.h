// Online softmax in base 2 (Milakov & Gimelshein, 2018). After every block of keys
//   row_sum = sum of exp2(scale_log2 * score - row_max) over the keys seen so far,
// each lane holding its own columns' share of it. A row that sees no key ends with row_sum = 0. A sink is one more
// exponential, seen first.
#pragma once
#include "mask.h"

// By its bits: fast math may assume that there are no infinities.
inline float minus_infinity() { return as_type<float>(0xff800000u); }

constant constexpr float kSlack = 8;  // in powers of two; few blocks after the first exceed it

template <int kRows>
struct OnlineSoftmax {
  float scale_log2;
  RowVector<kRows> row_max;  // of scale_log2 * score. Only ever the result of max(): no use of it can be contracted
                             // with the product it came from, so all weights of a row share one rounding of it
  RowVector<kRows> row_sum;

  OnlineSoftmax(float scale_log2_) : scale_log2(scale_log2_) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      row_max.at[i] = kRowMaxFloor * scale_log2;
      row_sum.at[i] = 0;
    }
  }

  // sinks: of the heads that share the key/value head.
  void start_from(device const float* sinks, int row0, int group_size, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const float sink = sinks[(row0 + i * kFragment + lane.row) % group_size] * M_LOG2E_F;
      row_max.at[i] = max(row_max.at[i], sink);
      row_sum.at[i] = lane.column == 0 ? 1 : 0;  // on one of the row's four lanes
    }
  }

  // Turns a block's scores into weights. Returns whether any row of the SIMD group has a new row_max; rescale is then
  // the factor for everything accumulated before. A maximum may lag behind by kSlack: weights up to 2^kSlack do no
  // harm.
  template <int kKeys>
  bool update(thread RegisterTile<float, kRows, kKeys>& scores, thread RowVector<kRows>& rescale) {
    float block_max[kRows / kFragment];
    bool grew = false;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      float largest = kRowMaxFloor;
      UNROLL for (short j = 0; j < kKeys / kFragment; j++) {
        const float2 pair = elements(scores.frag[i][j]);
        largest = max(largest, max(pair[0], pair[1]));
      }
      largest = max(largest, simd_shuffle_xor(largest, 1));  // a row's four lanes differ in bits 0 and 3
      largest = max(largest, simd_shuffle_xor(largest, 8));
      block_max[i] = largest * scale_log2;
      grew = grew || block_max[i] > row_max.at[i] + kSlack;
    }
    grew = simd_any(grew);
    if (grew) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) {
        const float previous = row_max.at[i];
        row_max.at[i] = max(previous, block_max[i]);
        rescale.at[i] = fast::exp2(previous - row_max.at[i]);
        row_sum.at[i] *= rescale.at[i];
      }
    }
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      UNROLL for (short j = 0; j < kKeys / kFragment; j++) {
        const float2 pair = elements(scores.frag[i][j]);
        const float2 weight = float2{fast::exp2(fma(pair[0], scale_log2, -row_max.at[i])),
                                     fast::exp2(fma(pair[1], scale_log2, -row_max.at[i]))};
        elements(scores.frag[i][j]) = weight;
        row_sum.at[i] += weight[0] + weight[1];
      }
    return grew;
  }

  // Takes in row i of another softmax, over other keys. Returns the factors for what each has accumulated.
  float2 join(short i, float other_max, float other_sum) {
    const float joint = max(row_max.at[i], other_max);
    const float2 factor = float2{fast::exp2(row_max.at[i] - joint), fast::exp2(other_max - joint)};
    row_max.at[i] = joint;
    row_sum.at[i] = factor[0] * row_sum.at[i] + factor[1] * other_sum;
    return factor;
  }

  // Adds up the lanes' shares of row_sum. Returns 1 / row_sum, 0 for a row that saw no key.
  RowVector<kRows> finish() {
    RowVector<kRows> inverse;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      row_sum.at[i] += simd_shuffle_xor(row_sum.at[i], 1);
      row_sum.at[i] += simd_shuffle_xor(row_sum.at[i], 8);
      inverse.at[i] = row_sum.at[i] > 0 ? 1 / row_sum.at[i] : 0;
    }
    return inverse;
  }

  // Natural logarithm of a row's sum of exponentials, which must not be 0.
  float log_sum_exp(short i) const { return M_LN2_F * (row_max.at[i] + precise::log2(row_sum.at[i])); }
};
