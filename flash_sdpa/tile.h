// A matrix held in the registers of one SIMD group, and the verbs on it, destination first. Every verb is collective:
// all lanes of the SIMD group call it. Keys and values are multiplied from a StagedTile, a DirectTile or a UnitBlock.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "pages.h"
using namespace metal;

#define UNROLL _Pragma("clang loop unroll(full)")  // fragments stay in registers only if every index is a constant

constant constexpr int kFragment = 8;                  // edge of a simdgroup_matrix; MSL has 8x8 only
constant constexpr int kSimdWidth = 32;                // lanes of a SIMD group
constant constexpr int kThreadgroupBytes = 32 * 1024;  // the most memory of a threadgroup

// Where a lane sits in an 8x8 fragment: it owns (row, column) and (row, column + 1). Not documented by Apple;
// MLX (steel/attn/mma.h) and tinygrad (runtime/ops_python.py) agree on it.
struct Lane { short row, column; };
inline Lane lane_position(uint lane) {
  const short quad = short(lane) / 4;
  return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};
}

// How blocks of keys and values get to the registers, and what multiplies them there: planning/tiles.py has the same.
enum class Loader { staged, direct, unit, unit_rereads };

// The kinds of tiles of a loader: Block (of keys or values), Query, and Registers (scores and output).
template <Loader kLoader>
struct Kinds;

// The two values of a fragment that this lane owns.
template <typename T>
inline thread vec<T, 2>& elements(thread simdgroup_matrix<T, kFragment, kFragment>& frag) {
  return reinterpret_cast<thread vec<T, 2>&>(frag.thread_elements());
}

// All kinds of tiles tell what a lane owns in the same words: kLanePairs pairs of adjacent columns of each of kLaneRows
// rows. pair(tile, i, j) is one of row 8 * i + lane.row, in the columns column(j, lane) and the next.
template <typename T, int kRows, int kColumns>
struct RegisterTile {  // [kRows, kColumns]
  static_assert(kRows % kFragment == 0 && kColumns % kFragment == 0, "whole fragments");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  simdgroup_matrix<T, kFragment, kFragment> frag[kLaneRows][kLanePairs];

  // The first of the two columns of pair j.
  static int column(short j, Lane lane) { return j * kFragment + lane.column; }
  // What the product with the values makes of weights: nothing else.
  static constant constexpr bool kRounds = false;
  static float2 rounded(float2 weights) { return weights; }
  // Two bits for each pair of fragments: those of its own pairs.
  static uint own_bits(uint bits, Lane) { return bits; }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread RegisterTile<T, kRows, kColumns>& tile, short i, short j) {
  return elements(tile.frag[i][j]);
}

template <int kRows>
struct RowVector {  // [kRows]: at[i] belongs to row 8 * i + lane.row, and is the same on that row's four lanes
  float at[kRows / kFragment];
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

// Whether a row of `columns` elements has this one. Aligned rows have whole chunks of 16 bytes.
inline bool has_column(int columns, int column) { return !is_padded || column < columns; }

// Key or value rows of a block: row r is the block's token r, at data + r * stride or in its page; rows from count()
// on, and columns from columns on, do not exist.
template <typename T>
struct KeyRows {
  device const T* data;      // of the block's first token; if is_paged, of the first page
  long stride, page_stride;  // elements
  int first, length;         // tokens: the block's first one, and how many the sequence has
  int columns;
  Pages pages;  // if is_paged

  // Moves the data to the block that starts `tokens` later. The caller sets first, to one value for keys and values.
  void advance(int tokens) {
    if (!is_paged) data += tokens * stride;
  }

  int count() const { return length - first; }

  // Row r through its page.
  device const T* paged_row(int r) const {
    const int token = first + r;
    return data + pages.id(token) * page_stride + (token % pages.size) * stride;
  }

  // Row r of the 8 that begin at begin, a multiple of 8, as pages do. Another row stands in for one that does not
  // exist: its weight is 0.
  device const T* row(short begin, short r) const {
    device const T* start = is_paged ? paged_row(min(int(begin), count() - 1)) : data + begin * stride;
    device const T* other = is_paged ? start : data;
    return begin + r < count() ? start + r * stride : other;
  }
};

// Query or output rows of the heads that share a key/value head: row r is token r / heads_per_kv of head
// r % heads_per_kv among them; rows from count on, and columns from columns on, do not exist.
template <typename T>
struct QueryRows {
  device T* data;
  long token_stride, head_stride;  // elements
  int heads_per_kv;
  int count, columns;

  device T* row(int r) const { return data + (r / heads_per_kv) * token_stride + (r % heads_per_kv) * head_stride; }
};

template <typename Tile>
inline void zero(thread Tile& tile) {
  using T = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) = vec<T, 2>(T(0));
}

// tile[row, :] *= factor[row]
template <typename Tile, int kRows>
inline void scale_rows(thread Tile& tile, thread const RowVector<kRows>& factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= factor.at[i];
}

// tile = factor * rows[row0 ...]; missing rows and columns are 0. KeyTile gives the order of the columns in which the
// tile will be multiplied.
template <typename KeyTile, typename Tile, typename T>
inline void load(thread Tile& tile, QueryRows<const T> rows, int row0, float factor, Lane lane) {
  using Element = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    const bool exists = r < rows.count;
    device const T* source = rows.row(min(r, rows.count - 1));
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const int column = KeyTile::key_column(j, lane.column), next = KeyTile::key_column(j, lane.column + 1);
      vec<T, 2> two = vec<T, 2>(T(0));
      if (exists && is_aligned && next == column + 1 && has_column(rows.columns, column)) {
        two = *(device const vec<T, 2>*)(source + column);
      } else if (exists) {
        if (has_column(rows.columns, column)) two[0] = source[column];
        if (has_column(rows.columns, next)) two[1] = source[next];
      }
      pair(tile, i, j) = vec<Element, 2>{Element(factor * float(two[0])), Element(factor * float(two[1]))};
    }
  }
}

// rows[row0 ...] = tile; missing rows and columns are not written. ValueTile gives the order of the columns.
template <typename ValueTile, typename T, typename Tile>
inline void store(QueryRows<T> rows, thread Tile& tile, int row0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    if (r < rows.count) {
      device T* target = rows.row(r);
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const int column = ValueTile::value_column(j, lane.column);
        const float2 two = pair(tile, i, j);
        if (is_aligned && has_column(rows.columns, column)) {
          *(device vec<T, 2>*)(target + column) = vec<T, 2>{T(two[0]), T(two[1])};
        } else if (!is_aligned) {
          if (has_column(rows.columns, column)) target[column] = T(two[0]);
          if (has_column(rows.columns, column + 1)) target[column + 1] = T(two[1]);
        }
      }
    }
  }
}
