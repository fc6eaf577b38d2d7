// A bias of every score, or a mask, as the caller gave it: bias[(batch,) head, token, key]. A key is hidden where a mask
// is 0 and where a bias is -inf. An axis of one element has a stride of 0.
#pragma once
#include "function_constants.h"
#include "mask.h"
#include "params.h"
#include "sequence.h"
#include "tile.h"

// Whether a bias is -inf. Compares bits, as fast math may assume that all numbers are finite.
inline bool is_hiding(float bias) { return as_type<uint>(bias) == 0xff800000u; }
inline bool is_hiding(half bias) { return as_type<ushort>(bias) == 0xfc00u; }
inline bool is_hiding(bfloat bias) { return as_type<ushort>(bias) == 0xff80u; }

// The biases of a lane's rows: row[i] belongs to row 8 * i + lane.row. A missing row has those of the last.
template <typename T, int kRows>
struct Bias {
  device const uchar* row[kRows / kFragment];  // of key 0
  int last;                                    // the last key that has a bias; 0 where it is that of all keys

  void place(device const uchar* bias, constant ForwardParams& params, QueryTile tile, int row0, Lane lane) {
    const int bytes = bias_is_mask ? 1 : bias_is_float ? sizeof(float) : sizeof(T);
    last = (tile.mask(params).key_length - 1) * int(params.bias_key_stride);
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int r = min(row0 + i * kFragment + lane.row, tile.rows() - 1);
      row[i] = bias + bytes * (tile.batch * params.bias.batch + tile.head(r) * params.bias.head +
                               (tile.query_start + tile.token(r)) * params.bias.token);
    }
  }
};

// scores[row, key] = kMaskedScore where the key is hidden; the tile's first column is key0.
template <typename T, int kRows, int kKeys>
inline void hide_masked(thread RegisterTile<float, kRows, kKeys>& scores, thread const Bias<T, kRows>& mask, int key0,
                        Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kKeys / kFragment; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = min(key0 + j * kFragment + lane.column + e, mask.last);
        if (mask.row[i][key] == 0) elements(scores.frag[i][j])[e] = kMaskedScore;
      }
}

// scores[row, key] = factor * scores[row, key] + unit * bias[row, key], or kMaskedScore where the key is hidden.
// Element: of the bias.
template <typename Element, typename T, int kRows, int kKeys>
inline void add_elements(thread RegisterTile<float, kRows, kKeys>& scores, thread const Bias<T, kRows>& bias,
                         float factor, float unit, int key0, Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    device const Element* row = (device const Element*)bias.row[i];
    UNROLL for (short j = 0; j < kKeys / kFragment; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const Element element = row[min(key0 + j * kFragment + lane.column + e, bias.last)];
        const float score = fma(float(element), unit, factor * elements(scores.frag[i][j])[e]);
        elements(scores.frag[i][j])[e] = is_hiding(element) ? kMaskedScore : score;
      }
  }
}

// What the caller's bias or mask does to scores. factor, scale: of ScoreParams.
template <typename T, int kRows, int kKeys>
inline void add_bias(thread RegisterTile<float, kRows, kKeys>& scores, thread const Bias<T, kRows>& bias, float factor,
                     float scale, int key0, Lane lane) {
  if (bias_is_mask) hide_masked(scores, bias, key0, lane);
  else if (bias_is_float) add_elements<float>(scores, bias, factor, 1 / scale, key0, lane);
  else add_elements<T>(scores, bias, factor, 1 / scale, key0, lane);
}
