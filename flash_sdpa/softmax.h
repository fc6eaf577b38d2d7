// Online softmax in base 2 (Milakov & Gimelshein, 2018). After every block of keys
//   row_sum = sum of exp2(scale_log2 * (score - row_max) + size) over the keys seen so far,
// each lane holding its own columns' share of it. Scores are subtracted before they are scaled: two scores that matter
// are close, and their difference is exact, however large they are. A row that sees no key ends with row_sum = 0.
#pragma once
#include "function_constants.h"
#include "mask.h"

constant constexpr float kSlack = 8;     // in powers of two; few blocks after the first exceed it
constant constexpr float kShrunk = -40;  // in powers of two: no sum of 2^30 weights of up to 2^kSlack exceeds 1
constant constexpr float kLargestRise = 8.5e37f;  // 2^126: as a power of e and of two, a finite number
constant constexpr float kLogOfNoKey = 1e30f;     // no weight is left of any score

// The exponentials of a row: their sum is exp(log_max) * sum, 0 for a row that sees no key; share is what a weight that
// values were accumulated with counts in sum. A sink above all scores raises log_max.
struct Exponentials {
  float log_max, sum, share, raised;

  // One more exponential, of a score without a value.
  Exponentials with_sink(float sink) const {
    const float distance = sink - log_max;
    const float smaller = fast::exp2(-M_LOG2E_F * abs(distance));
    Exponentials joined = {log_max, sum + smaller, share, 0};
    if (distance > 0) joined = {sink, sum * smaller + 1, share * smaller, min(distance, kLargestRise)};
    return joined;
  }

  // Factor that turns an accumulated sum of values into their mean.
  float inverse() const { return sum != 0 ? share / sum : 0; }

  // The bits of the natural logarithm of the sum, or of -inf, which fast math may not see as a number.
  uint log_sum_exp(bool sees_keys) const {
    return sees_keys ? as_type<uint>(log_max + precise::log(sum)) : 0xff800000u;
  }

  // {row_max, log2_sum}: the weight of a score is exp2(min(0, scale_log2 * (score - row_max) - log2_sum)). Apart, as the
  // logarithm of a large sum is too coarse a number. min, as in another kernel a large score may be rounded otherwise.
  float2 row_softmax(float row_max, bool sees_keys) const {
    float2 both = float2{kRowMaxFloor, kLogOfNoKey};
    if (sees_keys) both = float2{row_max, M_LOG2E_F * raised + precise::log2(sum)};
    return both;
  }
};

// Those of a lane's rows: at[i] belongs to row 8 * i + lane.row.
template <int kRows>
struct RowExponentials {
  Exponentials at[kRows / kFragment];

  // sinks: of the heads that share the key/value head.
  void add_sinks(device const float* sinks, int row0, int heads_per_kv, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      at[i] = at[i].with_sink(sinks[(row0 + i * kFragment + lane.row) % heads_per_kv]);
  }

  // Times a factor of the values.
  RowVector<kRows> inverse(float factor) const {
    RowVector<kRows> inverse;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) inverse.at[i] = factor * at[i].inverse();
    return inverse;
  }
};

// kRounds: the product with the values rounds weights (Registers::rounded). row_sum is then that of rounded ones, so that
// an output is a true mean of values, and lse has a sum of its own.
template <int kRows, bool kRounds = false>
struct OnlineSoftmax {
  float scale_log2;
  RowVector<kRows> size;       // of the largest weights, as a power of two: 0, or kShrunk (overflow.h)
  RowVector<kRows> row_max;    // of the scores
  RowVector<kRows> row_sum;    // of the weights that values are multiplied with
  RowVector<kRows> exact_sum;  // if keeps_exact_sum()

  OnlineSoftmax(float scale_log2_) : scale_log2(scale_log2_) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) size.at[i] = 0;
  }

  static bool keeps_exact_sum() { return kRounds && (writes_lse || writes_softmax); }

  // Forgets all keys.
  void start() {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      row_max.at[i] = kRowMaxFloor;
      row_sum.at[i] = 0;
      if (keeps_exact_sum()) exact_sum.at[i] = 0;
    }
  }

  // Turns a block's scores into weights. Returns whether any row of the SIMD group has a new row_max; rescale is then
  // the factor for everything accumulated before, 1 for a row that keeps its maximum: a row's bits depend on its own
  // scores alone. A maximum may lag behind by kSlack: weights up to 2^kSlack do no harm.
  template <typename Tile>
  bool update(thread Tile& scores, thread RowVector<kRows>& rescale) {
    float block_max[kRows / kFragment];
    bool grows[kRows / kFragment];
    bool any_grows = false;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      float largest = kRowMaxFloor;
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(scores, i, j);
        largest = max(largest, max(two[0], two[1]));
      }
      largest = max(largest, simd_shuffle_xor(largest, 1));  // a row's four lanes differ in bits 0 and 3
      largest = max(largest, simd_shuffle_xor(largest, 8));
      block_max[i] = largest;
      grows[i] = (largest - row_max.at[i]) * scale_log2 > kSlack;
      any_grows = any_grows || grows[i];
    }
    any_grows = simd_any(any_grows);
    if (any_grows) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) {
        rescale.at[i] = grows[i] ? fast::exp2((row_max.at[i] - block_max[i]) * scale_log2) : 1;
        row_max.at[i] = grows[i] ? block_max[i] : row_max.at[i];
        row_sum.at[i] *= rescale.at[i];
        if (keeps_exact_sum()) exact_sum.at[i] *= rescale.at[i];
      }
    }
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(scores, i, j);
        const float2 exact = float2{fast::exp2(fma(two[0] - row_max.at[i], scale_log2, size.at[i])),
                                    fast::exp2(fma(two[1] - row_max.at[i], scale_log2, size.at[i]))};
        const float2 weight = Tile::rounded(exact);
        pair(scores, i, j) = weight;
        row_sum.at[i] += weight[0] + weight[1];
        if (keeps_exact_sum()) exact_sum.at[i] += exact[0] + exact[1];
      }
    return any_grows;
  }

  // Merges row i of another softmax, over other keys, into this one. Returns the factors for what each has accumulated.
  // other_exact: its exact_sum.
  float2 join(short i, float other_max, float other_sum, float other_exact) {
    const float joint = max(row_max.at[i], other_max);
    const float2 factor = float2{fast::exp2((row_max.at[i] - joint) * scale_log2),
                                 fast::exp2((other_max - joint) * scale_log2)};
    row_max.at[i] = joint;
    row_sum.at[i] = factor[0] * row_sum.at[i] + factor[1] * other_sum;
    if (keeps_exact_sum()) exact_sum.at[i] = factor[0] * exact_sum.at[i] + factor[1] * other_exact;
    return factor;
  }

  // After the last key: adds up the lanes' shares of row_sum and returns each row's exponentials. scale turns scores
  // into natural exponents.
  RowExponentials<kRows> finish(float scale) { return exponentials(scale, row_sum); }
  // The same of exact_sum, if that is kept.
  RowExponentials<kRows> finish_exact(float scale) { return exponentials(scale, exact_sum); }

  RowExponentials<kRows> exponentials(float scale, thread RowVector<kRows>& sum) const {
    RowExponentials<kRows> rows;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      sum.at[i] += simd_shuffle_xor(sum.at[i], 1);
      sum.at[i] += simd_shuffle_xor(sum.at[i], 8);
      const float share = 1 / fast::exp2(size.at[i]);
      rows.at[i] = {scale * row_max.at[i], sum.at[i] * share, share, 0};
    }
    return rows;
  }
};
