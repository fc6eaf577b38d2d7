// Key or value blocks in threadgroup memory, where all SIMD groups read them.
#pragma once
#include "tile.h"

// For GPUs that have no bfloat operands, bfloat is widened on its way here, once, and not by each SIMD group for each
// product.
template <typename T>
using Widened = conditional_t<is_same_v<T, bfloat>, float, T>;

// [kRows, kColumns] of T, as E, row-major. A SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices, typename E = Widened<T>>
struct StagedTile {
  using Element = E;
  static constant constexpr int kChunk = 16 / sizeof(Element);  // elements that move together
  static constant constexpr int kStride = kColumns + kChunk;    // one chunk more: rows start in different banks
  static constant constexpr int kBytes = kRows * kStride * sizeof(Element);
  static_assert(kColumns % kChunk == 0, "whole chunks");
  threadgroup Element* data;  // 16-byte aligned
  int slice;

  threadgroup Element* frag(short i, short j) const {
    return data + i * kFragment * kStride + j * kFragment + slice * (kColumns / kSlices);
  }

  // Column of a slice that is column c of fragment j.
  static short key_column(short j, short c) { return j * kFragment + c; }
  static short value_column(short j, short c) { return j * kFragment + c; }
  // A lane finds its place in each block anew.
  static void place(thread KeyRows<T>&, int, Lane) {}
};

template <>
struct Kinds<Loader::staged> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = StagedTile<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = RegisterTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = RegisterTile<float, kRows, kColumns>;
};

// What fills 16 bytes of threadgroup memory, from device memory.
template <typename T>
inline void copy_whole_chunk(threadgroup T* target, device const T* source) {
  *(threadgroup float4*)target = *(device const float4*)source;
}
inline void copy_whole_chunk(threadgroup float* target, device const bfloat* source) {
  *(threadgroup float4*)target = float4(*(device const bfloat4*)source);
}

// The same; elements from count on do not exist and become 0.
template <typename Element, typename T>
inline void copy_chunk(threadgroup Element* target, device const T* source, int count) {
  if (is_aligned) {
    copy_whole_chunk(target, source);
    return;
  }
  UNROLL for (short e = 0; e < 16 / sizeof(Element); e++) target[e] = has_column(count, e) ? source[e] : T(0);
}

// tile = rows, by all kThreads threads of the threadgroup; missing rows and columns are 0, so that 0 * value stays 0.
// A thread keeps to one chunk of 16 bytes in every kRowStep-th row: addresses advance by a constant.
template <int kThreads, typename T, int kRows, int kColumns, int kSlices, typename Element>
inline void load_block(thread StagedTile<T, kRows, kColumns, kSlices, Element>& tile, KeyRows<T> rows,
                       uint thread_index) {
  using Tile = StagedTile<T, kRows, kColumns, kSlices, Element>;
  constexpr uint kChunksPerRow = kColumns / Tile::kChunk;
  constexpr int kRowStep = kThreads / kChunksPerRow;
  static_assert(kRowStep > 0, "a thread for each chunk of a row");
  const int row = thread_index / kChunksPerRow, column = thread_index % kChunksPerRow * Tile::kChunk;
  if (row >= kRowStep) return;  // left over where rows do not divide the threads
  threadgroup Element* target = tile.data + row * Tile::kStride + column;
  device const T* source = rows.data + row * rows.stride + column;  // unless paged
  const bool is_whole = rows.count() >= kRows;
  UNROLL for (int r = 0; r < kRows; r += kRowStep) {
    if (kRows % kRowStep == 0 || r + row < kRows) {
      if ((is_whole || r + row < rows.count()) && has_column(rows.columns, column)) {
        if (is_paged) source = rows.paged_row(r + row) + column;
        copy_chunk(target, source, rows.columns - column);
      } else {
        *(threadgroup float4*)target = float4(0);
      }
    }
    target += kRowStep * Tile::kStride;
    source += kRowStep * rows.stride;
  }
}

// c[kM, kN] += a[kM, kK] * transpose(slice of b[kN, kColumns])
template <typename Element, typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<Element, kM, kK>& a,
                                StagedTile<T, kN, kColumns, kSlices, Element> b, Lane) {
  simdgroup_matrix<Element, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.frag(n, k), b.kStride, ulong2(0, 0), true);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k], b_fragment, c.frag[m][n]);
    }
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]. a stays fp32, whatever b's type: nothing is rounded before the
// product.
template <typename Element, typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     StagedTile<T, kK, kColumns, kSlices, Element> b, Lane) {
  simdgroup_matrix<Element, kFragment, kFragment> b_fragment;
  UNROLL for (short k = 0; k < kK / kFragment; k++)
    UNROLL for (short n = 0; n < kN / kFragment; n++) {
      simdgroup_load(b_fragment, b.frag(k, n), b.kStride);
      UNROLL for (short m = 0; m < kM / kFragment; m++)
        simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k], b_fragment, c.frag[m][n]);
    }
}
