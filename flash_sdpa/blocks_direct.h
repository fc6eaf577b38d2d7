// Key or value blocks that each SIMD group loads from device memory straight into its registers.
//
// A lane owns two elements of every 8x8 fragment, but loads a chunk of up to 16 adjacent bytes, and so holds its
// elements of several fragments. That only permutes the columns. A product over them (keys) takes any order that the
// query's columns have, too; store() puts those of the output (values) back.
#pragma once
#include "tile.h"

constexpr int chunk_of(int limit, int columns) {  // largest power of two, at most limit and 8, that divides columns
  return limit >= 8 && columns % 8 == 0   ? 8
         : limit >= 4 && columns % 4 == 0 ? 4
         : limit >= 2 && columns % 2 == 0 ? 2
                                          : 1;
}

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct DirectTile {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  // Elements of a chunk. A fragment of keys has its columns on eight lanes, one of values on four, two each.
  static constant constexpr int kKeyChunk = chunk_of(16 / sizeof(T), kSliceColumns / 8);
  static constant constexpr int kValueChunk = chunk_of(16 / sizeof(T), kSliceColumns / 4);
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of fragment j: kKeyChunk fragments, or kValueChunk / 2, share each chunk.
  static short key_column(short j, short c) { return j / kKeyChunk * kKeyChunk * 8 + c * kKeyChunk + j % kKeyChunk; }
  static short value_column(short j, short c) {
    constexpr short kFragments = kValueChunk / 2;
    return j / kFragments * kValueChunk * 4 + c / 2 * kValueChunk + j % kFragments * 2 + c % 2;
  }
  // A lane finds its place in each block anew.
  static void place(thread KeyRows<T>&, int, Lane) {}

  // This SIMD group's slice of a row: KeyRows' row.
  device const T* row(short begin, short r) const { return rows.row(begin, r) + slice * kSliceColumns; }
  int columns() const { return rows.columns - slice * kSliceColumns; }
};

template <>
struct Kinds<Loader::direct> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = DirectTile<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = RegisterTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = RegisterTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread DirectTile<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

template <int kCount, typename T>
inline void clear_chunk(thread T* chunk) {
  UNROLL for (short e = 0; e < kCount; e++) chunk[e] = T(0);
}

// chunk = source[0 ... kCount - 1]; elements from columns on do not exist and become 0. Copied as vectors: these may
// alias elements of any type, where the compiler takes a scalar of another type to be elsewhere in memory.
template <int kCount, typename T>
inline void load_chunk(thread T* chunk, device const T* source, int columns) {
  constexpr int kBytes = kCount * sizeof(T);
  if (is_aligned && kCount >= 2 && !has_column(columns, 0)) {
    clear_chunk<kCount>(chunk);
  } else if (is_aligned && kBytes == 16) {
    *(thread uint4*)chunk = *(device const uint4*)source;
  } else if (is_aligned && kBytes == 8) {
    *(thread uint2*)chunk = *(device const uint2*)source;
  } else if (is_aligned && kCount == 2) {
    *(thread vec<T, 2>*)chunk = *(device const vec<T, 2>*)source;
  } else {
    UNROLL for (short e = 0; e < kCount; e++) chunk[e] = has_column(columns, e) ? source[e] : T(0);
  }
}

// c[kM, kN] += a[kM, kK] * transpose(slice of b[kN, kColumns])
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<T, kM, kK>& a,
                                DirectTile<T, kN, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kN, kColumns, kSlices>::kKeyChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T first[kChunk];  // of two adjacent keys
  alignas(16) T second[kChunk];
  UNROLL for (short n = 0; n < kN / kFragment; n++) {
    device const T* first_row = b.row(n * kFragment, lane.column);
    device const T* second_row = b.row(n * kFragment, lane.column + 1);
    UNROLL for (short k = 0; k < kK / kFragment; k += kChunk) {
      const short column = b.key_column(k, lane.row);
      load_chunk<kChunk>(first, first_row + column, b.columns() - column);
      load_chunk<kChunk>(second, second_row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk; e++) {
        elements(b_fragment) = vec<T, 2>{first[e], second[e]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k + e], b_fragment, c.frag[m][n]);
      }
    }
  }
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]. a stays fp32, whatever b's type: nothing is rounded before the
// product.
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     DirectTile<T, kK, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kK, kColumns, kSlices>::kValueChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T pairs[kChunk];
  UNROLL for (short k = 0; k < kK / kFragment; k++) {
    device const T* row = b.row(k * kFragment, lane.row);
    UNROLL for (short n = 0; n < kN / kFragment; n += kChunk / 2) {
      const short column = b.value_column(n, lane.column);
      load_chunk<kChunk>(pairs, row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk / 2; e++) {
        elements(b_fragment) = vec<T, 2>{pairs[2 * e], pairs[2 * e + 1]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n + e], a.frag[m][k], b_fragment, c.frag[m][n + e]);
      }
    }
  }
}
