// From scores to weights and their gradients, by what the forward pass left of each row.
#pragma once
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "softmax.h"
#include "tile.h"

// The forward pass may have rounded scores in another way, as its tiles add up in another order. Where they exceed this,
// in powers of two, that shows in the weights.
constant constexpr float kLargeScore = 128;

// The softmax of a lane's rows as the forward pass left it: each row's maximum, and in the place of the sum its base-2
// logarithm. A missing row has that of the last.
template <int kRows>
struct RowSoftmax {
  OnlineSoftmax<kRows> online;

  RowSoftmax(float scale_log2) : online(scale_log2) {}

  void load(device const float2* row_softmax, constant ForwardParams& params, QueryTile tile, int row0, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const float2 row = row_softmax[tile.lse_index(params, min(row0 + i * kFragment + lane.row, tile.rows() - 1))];
      online.row_max.at[i] = row[0];
      online.row_sum.at[i] = row[1];
    }
  }

  bool is_large(float row_max) const {
    return row_max > kRowMaxFloor && abs(row_max) * online.scale_log2 > kLargeScore;
  }
  bool any_large() const {
    bool any = false;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) any = any || is_large(online.row_max.at[i]);
    return simd_any(any);
  }

  // scores -> weights. None exceeds 1, whatever the scores.
  template <typename Tile>
  void weigh(thread Tile& scores) const {
    UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 distance = pair(scores, i, j) - online.row_max.at[i];
        const float offset = -online.row_sum.at[i];
        pair(scores, i, j) = float2{fast::exp2(min(fma(distance[0], online.scale_log2, offset), 0.0f)),
                                    fast::exp2(min(fma(distance[1], online.scale_log2, offset), 0.0f))};
      }
  }

  // Before `online` sees the scores of all keys: keeps what the forward pass left. A barrier comes before finish().
  void save(threadgroup float2* memory, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      if (lane.column == 0) memory[i * kFragment] = float2{online.row_max.at[i], online.row_sum.at[i]};
    online.start();
  }

  // Then: rows that are not large have again what was kept, so that no row depends on its neighbours. sinks: [num_heads],
  // if has_sinks.
  void finish(threadgroup const float2* memory, float scale, device const float* sinks, QueryTile tile, int row0,
              Lane lane) {
    RowExponentials<kRows> rows = online.finish(scale);
    if (has_sinks) rows.add_sinks(sinks + tile.head(0), row0, tile.heads_per_kv, lane);
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const float2 anew = rows.at[i].row_softmax(online.row_max.at[i], true), kept = memory[i * kFragment];
      online.row_max.at[i] = is_large(kept[0]) ? anew[0] : kept[0];
      online.row_sum.at[i] = is_large(kept[0]) ? anew[1] : kept[1];
    }
  }
};

// terms[row], laid out as lse
template <int kRows>
inline RowVector<kRows> load_rows(device const float* terms, constant ForwardParams& params, QueryTile tile, int row0,
                                  Lane lane) {
  RowVector<kRows> rows;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    rows.at[i] = terms[tile.lse_index(params, min(row0 + i * kFragment + lane.row, tile.rows() - 1))];
  return rows;
}

// tile[row, :] = -term[row]
template <typename Tile, int kRows>
inline void fill_negative(thread Tile& tile, thread const RowVector<kRows>& term) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) = float2(-term.at[i]);
}

// tile *= factor
template <typename Tile>
inline void multiply_elements(thread Tile& tile, thread Tile& factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= pair(factor, i, j);
}

// grads *= 1 - tanh^2, the derivative of tanh
template <typename Tile>
inline void multiply_by_derivative(thread Tile& grads, thread Tile& tanh) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 value = pair(tanh, i, j);
      pair(grads, i, j) *= 1 - value * value;
    }
}

// tile[row, :] = factor * tile[row, :] - term[row]
template <typename Tile, int kRows>
inline void scale_less_rows(thread Tile& tile, float factor, thread const RowVector<kRows>& term) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      pair(tile, i, j) = factor * pair(tile, i, j) - term.at[i];
}

// Whether every row of the SIMD group sees all keys of the block that starts at key0.
template <int kRows>
inline bool see_all(thread const RowRanges<kRows>& visible, int key0, int block) {
  bool all = true;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    all = all && visible.at[i].begin <= key0 && key0 + block <= visible.at[i].end;
  return simd_all(all);
}

// To what products make of weights and their gradients: Tile::rounded, of either sign.
template <typename Tile>
inline void round_tile(thread Tile& tile) {
  if (Tile::kRounds)
    UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const float2 two = pair(tile, i, j);
        pair(tile, i, j) = copysign(Tile::rounded(abs(two)), two);
      }
}

template <typename Tile>
inline void scale(thread Tile& tile, float factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= factor;
}
