// What happens to <query, key> before the mask and the exponential: first softcap, then the bias. Scores are in
// the unit of ScoreParams.
#pragma once
#include "tile.h"

// scores = tanh(tanh_scale * scores). precise, as fast::tanh overflows to NaN.
template <typename Tile>
inline void apply_softcap(thread Tile& scores, float tanh_scale) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const float score = pair(scores, i, j)[e];
        pair(scores, i, j)[e] = precise::tanh(tanh_scale * score);
      }
}

// ALiBi (Press, Smith & Lewis, 2022), for each row of a lane: its slope, in units of the scores, and its place among
// the keys.
template <int kRows>
struct Alibi {
  float slope[kRows / kFragment];
  int position[kRows / kFragment];

  // slopes: of the heads that share the key/value head.
  void place(device const float* slopes, float scale, int row0, int rows, int heads_per_kv, int diagonal,
             Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = min(row0 + i * kFragment + lane.row, rows - 1);
      slope[i] = slopes[row % heads_per_kv] / scale;
      position[i] = row / heads_per_kv + diagonal;
    }
  }
};

// scores[row, key] = factor * scores[row, key] - slope[row] * |position[row] - key|; the tile's first column is key0.
template <typename Tile, int kRows>
inline void add_alibi(thread Tile& scores, thread const Alibi<kRows>& alibi, float factor, int key0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = key0 + Tile::column(j, lane) + e;
        const float score = pair(scores, i, j)[e];
        pair(scores, i, j)[e] = fma(-alibi.slope[i], float(abs(alibi.position[i] - key)), factor * score);
      }
}
