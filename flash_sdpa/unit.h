// Tiles for the matrix unit of Apple10 GPUs, which multiplies [16, 16] by [16, 32] at once. It is reached only through
// cooperative tensors. How their elements lie on lanes is not documented by Apple: this is the layout that public kernels
// found on M5, and the host checks it before it uses these kernels (unit_check.metal).
//
// A row of 16 columns lies on four lanes, the same as in an 8x8 fragment; each owns four adjacent columns. Blocks come
// from device memory straight to registers. A lane loads 16 bytes of a row, and so holds its elements of two products: as
// in blocks_direct.h, that only permutes the columns.
#pragma once
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
#include "blocks_direct.h"

// A lane's part of a [16, 16] left operand: four columns of rows r and r + 8.
template <typename T>
struct LeftPart {
  vec<T, 4> first, second;
};

// [kRows, kColumns]: of 16 columns a lane owns four, in two pairs.
template <typename T, int kRows, int kColumns>
struct UnitTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "whole products");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  vec<T, 2> pairs[kLaneRows][kLanePairs];

  static int column(short j, Lane lane) { return j / 2 * 16 + lane.column * 2 + j % 2 * 2; }

  // The unit cuts fp32 to 10 bits of mantissa, which would make all weights too small. Rounded before, they lose nothing
  // on one side only. NaN stays, whatever its bits.
  static constant constexpr bool kRounds = true;
  static float2 rounded(float2 weights) {
    return as_type<float2>((min(as_type<uint2>(weights), 0x7fffefffu) + 0x1000u) & 0xffffe000u);
  }

  // Of a row's four lanes, 0 and 1, or 2 and 3, hold the numbers of this lane's pairs in turns.
  static uint own_bits(uint bits, Lane lane) {
    const ushort even_lane = lane.row % 4 * 2 + lane.row / 4 * 16 + lane.column / 2 % 2 * 8;
    const short shift = lane.column / 4 * 2;
    const uint even = simd_shuffle(bits, even_lane) >> shift, odd = simd_shuffle(bits, ushort(even_lane + 1)) >> shift;
    return (even & 0x33333333u) | (odd & 0x33333333u) << 2;
  }

  // The query's: it has all columns, times the factor.
  void fetch(short) {}
  template <typename Scores>
  void apply_factor(thread Scores&) const {}

  LeftPart<T> left(short m, short k) const {
    const vec<T, 2> a = pairs[2 * m][2 * k], b = pairs[2 * m][2 * k + 1];
    const vec<T, 2> c = pairs[2 * m + 1][2 * k], d = pairs[2 * m + 1][2 * k + 1];
    return {vec<T, 4>{a[0], a[1], b[0], b[1]}, vec<T, 4>{c[0], c[1], d[0], d[1]}};
  }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread UnitTile<T, kRows, kColumns>& tile, short i, short j) {
  return tile.pairs[i][j];
}

// Query rows [kRows, kColumns] that are read again for each block of keys: registers hold 32 columns of them at a time.
template <typename T, int kRows, int kColumns>
struct UnitRows {
  static_assert(kRows % 16 == 0 && kColumns % 32 == 0, "whole products of 16-bit elements");
  device const T* row[kRows / kFragment];  // from this lane's first column on
  int columns;                             // that exist from there on
  float factor;
  alignas(16) T chunk[kRows / kFragment][8];

  // Loads the columns of two products, 2 * k and the next.
  void fetch(short k) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) load_chunk<8>(chunk[i], row[i] + 32 * k, columns - 32 * k);
  }
  // Scores take the factor that the rows in memory do not have. It is 1 but for a negative or a very small scale.
  template <typename Scores>
  void apply_factor(thread Scores& scores) const {
    if (factor != 1)
      UNROLL for (short i = 0; i < Scores::kLaneRows; i++)
        UNROLL for (short j = 0; j < Scores::kLanePairs; j++) pair(scores, i, j) *= factor;
  }

  LeftPart<T> left(short m, short k) const {
    thread const T* first = chunk[2 * m] + k % 2 * 4;
    thread const T* second = chunk[2 * m + 1] + k % 2 * 4;
    return {vec<T, 4>{first[0], first[1], first[2], first[3]}, vec<T, 4>{second[0], second[1], second[2], second[3]}};
  }
};

// Where a lane's rows of a block begin: at[i] is that of row 8 * i + lane.row.
template <typename T, int kRows>
struct LaneRows { device const T* at[kRows / kFragment]; };

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct UnitBlock {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  static constant constexpr int kChunk = 16 / sizeof(T);  // elements that a lane loads of 32 columns
  static_assert(kChunk == 8 && kRows % 32 == 0 && kSliceColumns % 32 == 0, "whole products of 16-bit elements");
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of pair j, if c is one of an 8x8 fragment.
  static short key_column(short j, short c) { return j / 4 * 32 + c / 2 * kChunk + j % 4 * 2 + c % 2; }
  static short value_column(short j, short c) { return key_column(j, c); }

  // Moves the data to this lane's first column, and unless paged to its row: 64-bit additions are dear, and so are left
  // to advance() and to the constant distances of a lane's rows.
  static void place(thread KeyRows<T>& rows, int slice, Lane lane) {
    const int column = slice * kSliceColumns + key_column(0, lane.column);
    rows.data += column;
    rows.columns -= column;
    if (!is_paged) rows.data += lane.row * rows.stride;
  }

  // The last row stands in for those that do not exist: their weights are 0.
  LaneRows<T, kRows> lane_rows(Lane lane) const {
    LaneRows<T, kRows> found;
    if (is_paged) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.row(i * kFragment, lane.row);
    } else if (rows.count() >= kRows) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.data + i * kFragment * rows.stride;
    } else {
      UNROLL for (short i = 0; i < kRows / kFragment; i++)
        found.at[i] = rows.data + (min(i * kFragment + lane.row, rows.count() - 1) - lane.row) * rows.stride;
    }
    return found;
  }
};

template <>
struct Kinds<Loader::unit> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};
template <>
struct Kinds<Loader::unit_rereads> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitRows<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread UnitBlock<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

// tile = factor * rows[row0 ...]; the last row stands in for missing ones. KeyTile is a UnitBlock.
template <typename KeyTile, typename T, int kRows, int kColumns>
inline void load(thread UnitRows<T, kRows, kColumns>& tile, QueryRows<const T> rows, int row0, float factor,
                 Lane lane) {
  const int column = KeyTile::key_column(0, lane.column);
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    tile.row[i] = rows.row(min(row0 + i * kFragment + lane.row, rows.count - 1)) + column;
  tile.columns = rows.columns - column;
  tile.factor = factor;
}

// c[rows 16 m ..., columns 32 n ...] += a * b, or * transpose(b), a being [16, 16]; kTransposesLeft: transpose(a) * b. Of b a
// lane gives its rows r and r + 8 of the first 16 columns and of the others, or, transposed, its rows r, r + 8, r + 16 and
// r + 24.
template <bool kTransposed, bool kTransposesLeft = false, int kRows, int kColumns, typename A, typename B>
inline void multiply_16x32x16(thread UnitTile<float, kRows, kColumns>& c, short m, short n, LeftPart<A> a, vec<B, 4> b0,
                              vec<B, 4> b1, vec<B, 4> b2, vec<B, 4> b3) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, kTransposesLeft, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  UNROLL for (short e = 0; e < 4; e++) {
    left[e] = a.first[e];
    left[4 + e] = a.second[e];
    right[e] = b0[e];
    right[4 + e] = b1[e];
    right[8 + e] = b2[e];
    right[12 + e] = b3[e];
  }
  UNROLL for (short e = 0; e < 16; e++) sum[e] = pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2];
  unit.run(left, right, sum);
  UNROLL for (short e = 0; e < 16; e++) pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2] = sum[e];
}

template <typename T>
inline vec<T, 4> half_of(thread const T* chunk, short half_index) {
  return *(thread const vec<T, 4>*)(chunk + 4 * half_index);
}

// c[kM, kN] = a[kM, kColumns / kSlices] * transpose(slice of b[kN, kColumns]), where c is 0
template <typename Query, typename T, int kM, int kN, int kColumns, int kSlices>
inline void multiply_transposed(thread UnitTile<float, kM, kN>& c, thread Query& a,
                                UnitBlock<T, kN, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kN> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kColumns / kSlices / 32; k++) {
    a.fetch(k);
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T chunk[4][8];
      UNROLL for (short i = 0; i < 4; i++) load_chunk<8>(chunk[i], rows.at[4 * n + i] + 32 * k, b.rows.columns - 32 * k);
      UNROLL for (short e = 0; e < 2; e++)
        UNROLL for (short m = 0; m < kM / 16; m++)
          multiply_16x32x16<true>(c, m, n, a.left(m, 2 * k + e), half_of(chunk[0], e), half_of(chunk[1], e),
                                  half_of(chunk[2], e), half_of(chunk[3], e));
    }
  }
  a.apply_factor(c);
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread UnitTile<float, kM, kN>& c, thread UnitTile<float, kM, kK>& a,
                     UnitBlock<T, kK, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kK> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kK / 16; k++) {
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T first[8];
      alignas(16) T second[8];
      load_chunk<8>(first, rows.at[2 * k] + 32 * n, b.rows.columns - 32 * n);
      load_chunk<8>(second, rows.at[2 * k + 1] + 32 * n, b.rows.columns - 32 * n);
      UNROLL for (short m = 0; m < kM / 16; m++)
        multiply_16x32x16<false>(c, m, n, a.left(m, k), half_of(first, 0), half_of(second, 0), half_of(first, 1),
                                 half_of(second, 1));
    }
  }
}
