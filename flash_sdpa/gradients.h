// From scores to weights and the gradients of scores, by what the forward pass left of each row.
#pragma once
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "tile.h"

// What a lane's rows need: at[i] of each belongs to row 8 * i + lane.row. A missing row has the terms of the last.
template <int kRows>
struct RowTerms {
  RowVector<kRows> row_max;   // of the scores
  RowVector<kRows> log2_sum;  // of the exponentials relative to row_max
  RowVector<kRows> delta;     // <grad_output, output>, less the gradient of lse

  RowTerms(device const float2* row_softmax, device const float* row_terms, constant ForwardParams& params,
           QueryTile tile, int row0, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const long index = tile.lse_index(params, min(row0 + i * kFragment + lane.row, tile.rows() - 1));
      const float2 softmax = row_softmax[index];
      row_max.at[i] = softmax[0];
      log2_sum.at[i] = softmax[1];
      delta.at[i] = row_terms[index];
    }
  }
};

// scores -> weights. No weight exceeds 1, even where the forward pass rounded a large score in another way.
template <int kRows, int kKeys>
inline void weigh(thread RegisterTile<float, kRows, kKeys>& scores, thread const RowTerms<kRows>& rows,
                  float scale_log2) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kKeys / kFragment; j++) {
      const float2 distance = elements(scores.frag[i][j]) - rows.row_max.at[i];
      const float offset = -rows.log2_sum.at[i];
      elements(scores.frag[i][j]) = float2{fast::exp2(min(fma(distance[0], scale_log2, offset), 0.0f)),
                                           fast::exp2(min(fma(distance[1], scale_log2, offset), 0.0f))};
    }
}

// tile[row, :] = -term[row]
template <int kRows, int kColumns>
inline void fill_negative(thread RegisterTile<float, kRows, kColumns>& tile, thread const RowVector<kRows>& term) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) elements(tile.frag[i][j]) = float2(-term.at[i]);
}

// tile *= factor
template <int kRows, int kColumns>
inline void multiply_elements(thread RegisterTile<float, kRows, kColumns>& tile,
                              thread RegisterTile<float, kRows, kColumns>& factor) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) elements(tile.frag[i][j]) *= elements(factor.frag[i][j]);
}

// grads *= 1 - tanh^2, the derivative of tanh
template <int kRows, int kColumns>
inline void multiply_by_derivative(thread RegisterTile<float, kRows, kColumns>& grads,
                                   thread RegisterTile<float, kRows, kColumns>& tanh) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) {
      const float2 value = elements(tanh.frag[i][j]);
      elements(grads.frag[i][j]) *= 1 - value * value;
    }
}

template <int kRows, int kColumns>
inline void scale(thread RegisterTile<float, kRows, kColumns>& tile, float factor) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) elements(tile.frag[i][j]) *= factor;
}
