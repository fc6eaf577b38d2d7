// Which keys a query token may see. One rule gives the loop bounds, the blocks that need no mask, and the mask: token t
// sees the keys [begin, end) = visible(t), and neither end decreases with t. Causal is window_right = 0.
#pragma once
#include "tile.h"

// Finite, as fast math may assume that there are no infinities. Scores are above -2^127, and so is every row maximum:
// the distance of a masked score to it is 2^127 at least, and its weight 0 (ScoreParams: scale_log2 >= 2^-119).
constant constexpr float kMaskedScore = -3.40282347e38f;  // the lowest float
constant constexpr float kRowMaxFloor = -1.70141183e38f;  // -2^127, where a row maximum starts

struct KeyRange {
  int begin, end;

  // Whether it has a key of the block that starts at key0.
  bool meets(int key0, int block) const { return key0 + block > begin && key0 < end; }
};

struct Mask {
  int key_length;                 // keys of this sequence that there are to see
  int diagonal;                   // the key at the position of the first query token; may be negative
  int window_left, window_right;  // keys before and after the diagonal; at most 2^30, as lengths are below 2^30

  KeyRange visible(int token) const {
    const int position = token + diagonal;
    return {max(0, position - window_left), min(key_length, position + window_right + 1)};
  }

  // The same rule with its roles exchanged: visible(key) are the tokens that see a key.
  Mask transposed(int query_length) const { return {query_length, -diagonal, window_right, window_left}; }
};

// The keys that each row of a lane may see: at[i] belongs to row 8 * i + lane.row. A missing row has those of the last.
template <int kRows>
struct RowRanges {
  KeyRange at[kRows / kFragment];

  RowRanges(Mask mask, int row0, int rows, int heads_per_kv, Lane lane) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++)
      at[i] = mask.visible(min(row0 + i * kFragment + lane.row, rows - 1) / heads_per_kv);
  }

  // The keys that any row of the SIMD group may see.
  KeyRange any_row() const { return {simd_min(at[0].begin), simd_max(at[kRows / kFragment - 1].end)}; }
};

// The key blocks of a tile of rows: begin is a multiple of the block, and every row sees blocks within
// [full_begin, full_end) whole.
struct KeyBlocks {
  int begin, end, full_begin, full_end;

  bool is_full(int key0, int block) const { return key0 >= full_begin && key0 + block <= full_end; }
};
inline KeyBlocks key_blocks(Mask mask, int first_token, int last_token, int block) {
  const KeyRange first = mask.visible(first_token), last = mask.visible(last_token);
  return {first.begin / block * block, last.end, last.begin, first.end};
}

// The key blocks of one of num_splits threadgroups: as many for each, the last maybe fewer or none.
inline KeyBlocks split_blocks(KeyBlocks blocks, int split, int num_splits, int block) {
  const int count = (max(0, blocks.end - blocks.begin) + block - 1) / block;
  const int share = (count + num_splits - 1) / num_splits * block;
  const int begin = min(blocks.begin + split * share, blocks.end);
  return {begin, min(begin + share, blocks.end), blocks.full_begin, blocks.full_end};
}

// scores[row, key] = kMaskedScore where the row may not see the key; the tile's first column is key0.
template <typename Tile, int kRows>
inline void hide_invisible(thread Tile& scores, thread const RowRanges<kRows>& visible, int key0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      UNROLL for (short e = 0; e < 2; e++) {
        const int key = key0 + Tile::column(j, lane) + e;
        if (key < visible.at[i].begin || key >= visible.at[i].end) pair(scores, i, j)[e] = kMaskedScore;
      }
}
