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
  int key_stride;                              // 1, or 0 where one bias is that of all keys

  void place(device const uchar* bias, constant ForwardParams& params, QueryTile tile, int row0, Lane lane) {
    const int bytes = bias_is_mask ? 1 : bias_is_float ? sizeof(float) : sizeof(T);
    key_stride = params.bias_key_stride;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int r = min(row0 + i * kFragment + lane.row, tile.rows() - 1);
      row[i] = bias + bytes * (tile.batch * params.bias.batch + tile.head(r) * params.bias.head +
                               (tile.query_start + tile.token(r)) * params.bias.token);
    }
  }
};

// What the bias of a score makes of it, and a mask, whose elements are bytes.
template <typename Element>
inline float biased(float score, Element bias, float factor, float unit) {
  return is_hiding(bias) ? kMaskedScore : fma(float(bias), unit, factor * score);
}
inline float biased(float score, uchar seen, float, float) { return seen == 0 ? kMaskedScore : score; }

// scores[row, key] = factor * scores[row, key] + unit * bias[row, key], or kMaskedScore where the key is hidden. Element:
// of the bias. kWhole: every row sees every key, so that addresses differ by constants; else no key is read behind the
// last that a row sees.
template <bool kWhole, typename Element, typename Tile, typename T, int kRows>
inline void add_elements(thread Tile& scores, thread const Bias<T, kRows>& bias,
                         thread const RowRanges<kRows>& visible, float factor, float unit, int key0, Lane lane) {
  const int first = key0 + Tile::column(0, lane);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    device const Element* row = (device const Element*)bias.row[i] + first;
    const int last = max(visible.at[i].end - 1, 0) * bias.key_stride - first;
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = Tile::column(j, Lane{0, 0}) + e;  // from the lane's first on
        const Element element = row[kWhole ? key : min(key, last)];
        pair(scores, i, j)[e] = biased(pair(scores, i, j)[e], element, factor, unit);
      }
  }
}
template <typename Element, typename Tile, typename T, int kRows>
inline void add_elements(thread Tile& scores, thread const Bias<T, kRows>& bias,
                         thread const RowRanges<kRows>& visible, bool is_full, float factor, float unit, int key0,
                         Lane lane) {
  if (is_full && bias.key_stride == 1)
    add_elements<true, Element>(scores, bias, visible, factor, unit, key0, lane);
  else
    add_elements<false, Element>(scores, bias, visible, factor, unit, key0, lane);
}

// What the caller's bias or mask does to scores. is_full: every row sees every key; factor, scale: of ScoreParams.
template <typename Tile, typename T, int kRows>
inline void add_bias(thread Tile& scores, thread const Bias<T, kRows>& bias, thread const RowRanges<kRows>& visible,
                     bool is_full, float factor, float scale, int key0, Lane lane) {
  if (bias_is_mask) add_elements<uchar>(scores, bias, visible, is_full, factor, 1, key0, lane);
  else if (bias_is_float) add_elements<float>(scores, bias, visible, is_full, factor, 1 / scale, key0, lane);
  else add_elements<T>(scores, bias, visible, is_full, factor, 1 / scale, key0, lane);
}
