// Tiles: a matrix held by one SIMD group (RegisterTile) or by one threadgroup (SharedTile), and the verbs on them,
// destination first. Every verb is collective: all lanes of the SIMD group (for stage: all threads of the threadgroup)
// call it. No verb contains a barrier.
#pragma once
#include <metal_stdlib>
#include "constants.h"
#include "pages.h"
using namespace metal;

#define UNROLL _Pragma("clang loop unroll(full)")  // fragments stay in registers only if every index is a constant

constant constexpr int kFragment = 8;    // edge of a simdgroup_matrix; MSL has 8x8 only
constant constexpr int kSimdWidth = 32;  // lanes of a SIMD group

// Where a lane sits in an 8x8 fragment: it owns (row, column) and (row, column + 1). Not documented by Apple;
// MLX (steel/attn/mma.h) and tinygrad (runtime/ops_python.py) agree on it.
struct Lane {
  short row, column;
};
inline Lane lane_position(uint lane) {
  const short quad = short(lane) / 4;
  return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};
}

template <typename T, int kRows, int kColumns>
struct RegisterTile {  // [kRows, kColumns]
  static_assert(kRows % kFragment == 0 && kColumns % kFragment == 0, "whole fragments");
  simdgroup_matrix<T, kFragment, kFragment> fragment[kRows / kFragment][kColumns / kFragment];
};

// The two values of a fragment that this lane owns.
template <typename T>
inline thread vec<T, 2>& elements(thread simdgroup_matrix<T, kFragment, kFragment>& fragment) {
  return reinterpret_cast<thread vec<T, 2>&>(fragment.thread_elements());
}

template <int kRows>
struct RowVector {  // [kRows]: at[i] belongs to row 8 * i + lane.row, and is the same on that row's four lanes
  float at[kRows / kFragment];
};

// Whether a row of `columns` elements has this one. Aligned rows have whole chunks of 16 bytes.
inline bool has_column(int columns, int column) { return !is_padded || column < columns; }

template <typename T, int kRows, int kColumns>
struct SharedTile {  // [kRows, kColumns], row-major
  static constant constexpr int kChunk = 16 / sizeof(T);        // elements that move together
  static constant constexpr int kStride = kColumns + kChunk;    // one chunk more: rows start in different banks
  static constant constexpr int kBytes = kRows * kStride * sizeof(T);
  static_assert(kColumns % kChunk == 0, "whole chunks");
  threadgroup T* data;  // 16-byte aligned
};

// Key or value rows of a block: row r is token first + r, found directly or through its page; rows from count on, and
// columns from columns on, do not exist.
template <typename T>
struct Rows {
  device const T* data;
  long stride, page_stride;  // elements
  int first, count, columns;
  Pages pages;  // if is_paged

  device const T* row(int r) const {
    const int token = first + r;
    if (is_paged) return data + pages.id(token) * page_stride + (token % pages.size) * stride;
    return data + token * stride;
  }
};

// Query or output rows of the heads that share a key/value head: row r is token r / group_size of the group's head
// r % group_size; rows from count on, and columns from columns on, do not exist.
template <typename T>
struct GroupedRows {
  device T* data;
  long token_stride, head_stride;  // elements
  int group_size;
  int count, columns;

  device T* row(int r) const { return data + (r / group_size) * token_stride + (r % group_size) * head_stride; }
};

template <typename T, int kRows, int kColumns>
inline void zero(thread RegisterTile<T, kRows, kColumns>& tile) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) elements(tile.fragment[i][j]) = vec<T, 2>(T(0));
}

// tile[row, :] *= factor[row]
template <int kRows, int kColumns>
inline void scale_rows(thread RegisterTile<float, kRows, kColumns>& tile, thread const RowVector<kRows>& factor) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) elements(tile.fragment[i][j]) *= factor.at[i];
}

// tile = sign * rows[row0 ...]; missing rows and columns are 0. sign is 1, -1 or 0, so the product is exact.
template <typename T, int kRows, int kColumns>
inline void load(thread RegisterTile<T, kRows, kColumns>& tile, GroupedRows<const T> rows, int row0, float sign,
                 Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    const int r = row0 + i * kFragment + lane.row;
    const bool exists = r < rows.count;
    device const T* source = rows.row(exists ? r : row0) + lane.column;
    UNROLL for (short j = 0; j < kColumns / kFragment; j++) {
      const int column = j * kFragment + lane.column;
      vec<T, 2> pair = vec<T, 2>(T(0));
      if (exists && is_aligned && has_column(rows.columns, column)) {
        pair = *(device const vec<T, 2>*)(source + j * kFragment);
      } else if (exists && !is_aligned) {
        if (has_column(rows.columns, column)) pair[0] = source[j * kFragment];
        if (has_column(rows.columns, column + 1)) pair[1] = source[j * kFragment + 1];
      }
      elements(tile.fragment[i][j]) = vec<T, 2>{T(sign * float(pair[0])), T(sign * float(pair[1]))};
    }
  }
}

// rows[row0 ...] = tile; missing rows and columns are not written.
template <typename T, int kRows, int kColumns>
inline void store(GroupedRows<T> rows, thread RegisterTile<float, kRows, kColumns>& tile, int row0, Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    const int r = row0 + i * kFragment + lane.row;
    if (r < rows.count) {
      device T* target = rows.row(r) + lane.column;
      UNROLL for (short j = 0; j < kColumns / kFragment; j++) {
        const int column = j * kFragment + lane.column;
        const float2 pair = elements(tile.fragment[i][j]);
        if (is_aligned && has_column(rows.columns, column)) {
          *(device vec<T, 2>*)(target + j * kFragment) = vec<T, 2>{T(pair[0]), T(pair[1])};
        } else if (!is_aligned) {
          if (has_column(rows.columns, column)) target[j * kFragment] = T(pair[0]);
          if (has_column(rows.columns, column + 1)) target[j * kFragment + 1] = T(pair[1]);
        }
      }
    }
  }
}

// 16 bytes from device to threadgroup memory; elements from count on do not exist and become 0.
template <typename T>
inline void copy_chunk(threadgroup T* target, device const T* source, int count) {
  if (is_aligned) {
    *(threadgroup float4*)target = *(device const float4*)source;
  } else {
    UNROLL for (short e = 0; e < 16 / sizeof(T); e++) target[e] = has_column(count, e) ? source[e] : T(0);
  }
}

// tile = rows, by all kThreads threads of the threadgroup; missing rows and columns are 0, so that 0 * value stays 0.
// A thread keeps to one chunk of 16 bytes in every kRowStep-th row: addresses advance by a constant.
template <int kThreads, typename T, int kRows, int kColumns>
inline void stage(SharedTile<T, kRows, kColumns> tile, Rows<T> rows, uint thread_index) {
  constexpr int kChunk = SharedTile<T, kRows, kColumns>::kChunk;
  constexpr int kStride = SharedTile<T, kRows, kColumns>::kStride;
  constexpr uint kChunksPerRow = kColumns / kChunk;
  constexpr int kRowStep = kThreads / kChunksPerRow;
  const int row = thread_index / kChunksPerRow, column = thread_index % kChunksPerRow * kChunk;
  if (row >= kRowStep) return;  // left over where rows do not divide the threads
  threadgroup T* target = tile.data + row * kStride + column;
  device const T* source = rows.row(row) + column;
  UNROLL for (int r = 0; r < kRows; r += kRowStep) {
    if (r + row >= rows.count || !has_column(rows.columns, column)) {
      if (r + row < kRows) *(threadgroup float4*)target = float4(0);
    } else if (r + row < kRows) {
      if (is_paged) source = rows.row(r + row) + column;
      copy_chunk(target, source, rows.columns - column);
    }
    target += kRowStep * kStride;
    source += kRowStep * rows.stride;
  }
}

// c[kM, kN] += a[kM, kK] * transpose(b[kN, kK])
template <typename T, int kM, int kN, int kK>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<T, kM, kK>& a,
                                SharedTile<T, kN, kK> b) {
  constexpr int kStride = SharedTile<T, kN, kK>::kStride;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.data + n * kFragment * kStride + k * kFragment, kStride, ulong2(0, 0), true);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.fragment[m][n], a.fragment[m][k], b_fragment, c.fragment[m][n]);
    }
}

// c[kM, kN] += a[kM, kK] * b[kK, kN]. a stays fp32, whatever b's type: nothing is rounded before the product.
template <typename T, int kM, int kN, int kK>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     SharedTile<T, kK, kN> b) {
  constexpr int kStride = SharedTile<T, kK, kN>::kStride;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.data + k * kFragment * kStride + n * kFragment, kStride);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.fragment[m][n], a.fragment[m][k], b_fragment, c.fragment[m][n]);
    }
}
