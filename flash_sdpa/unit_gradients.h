// What the backward kernels need of the matrix unit beyond unit.h. Keys, values, queries and the output's gradient come
// from device memory straight to registers, as blocks of 16 rows for a SIMD group.
#pragma once
#include "gradients.h"
#include "staging.h"
#include "stored_weights.h"
#include "unit.h"

// Blocks [kRows, kColumns] of keys or values.
template <typename T, int kRows, int kColumns, int kSlices>
struct UnitBlocks {
  using Tile = UnitBlock<T, kRows, kColumns, kSlices>;
  Tile tile;
  KeyRows<T> rows;  // from the first block on

  UnitBlocks(KeyRows<T> first, threadgroup T* memory, int slice, uint, Lane lane)
      : tile{memory, slice, first}, rows(placed(first, slice, lane)) {}

  static KeyRows<T> placed(KeyRows<T> rows, int slice, Lane lane) {
    Tile::place(rows, slice, lane);
    return rows;
  }

  // The block that starts at key0.
  void bring(int key0) {
    tile.rows = rows;
    tile.rows.advance(key0 - rows.first);
    tile.rows.first = key0;
  }
  void skip(int) {}
};

// Weights and their gradients are stored as half, each times a power of two that brings the largest of the block, of all
// its rows, below 2^15: those down to 2^-29 of it keep the 11 bits that the unit takes. Of 8 rows and 16 keys a lane has four
// adjacent weights, and after all lanes' weights four gradients; the factors that undo the powers of two follow the first
// 8 rows of a block.
constant constexpr short kStoredFour = 2;                                  // floats that four halves take
constant constexpr short kStoredPart = 2 * kStoredFour * kSimdWidth;       // floats of 8 rows and 16 keys
constant constexpr short kStoredFactors = kStoredKeys / 16 * kStoredPart;  // where they lie: of weights, of gradients

// The power of two, for numbers of which `largest` of a lane is the largest.
inline float stored_scale(float largest) {
  const uint exponent = as_type<uint>(simd_max(largest)) & 0x7f800000u;
  return as_type<float>(min(0x86000000u - exponent, 0x7e800000u));
}
inline float inverse_power(float power) { return as_type<float>(0x7f000000u - as_type<uint>(power)); }

template <typename Tile>
inline float largest_of_lane(thread Tile& tile) {
  float largest = 0;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = abs(pair(tile, i, j));
      largest = max(largest, max(two[0], two[1]));
    }
  return largest;
}

// Four adjacent elements of a lane's row.
template <typename Tile>
inline half4 stored_four(thread Tile& tile, short i, short k, float scale) {
  const float2 first = scale * pair(tile, i, 2 * k), second = scale * pair(tile, i, 2 * k + 1);
  return half4{half(first[0]), half(first[1]), half(second[0]), half(second[1])};
}

// Stores a lane's part of a block. SIMD groups with slices of the same rows divide it.
template <int kSlices, int kRows, int kKeys>
inline void store_weights(device float* target, long row_stride, thread UnitTile<float, kRows, kKeys>& weights,
                          thread UnitTile<float, kRows, kKeys>& grads, int slice, uint lane_index) {
  static_assert(kKeys == kStoredKeys, "a stored block");
  const float weight_scale = stored_scale(largest_of_lane(weights)), grad_scale = stored_scale(largest_of_lane(grads));
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    UNROLL for (short k = 0; k < kKeys / 16; k++)
      if ((i * (kKeys / 16) + k) % kSlices == slice) {
        device half4* part = (device half4*)(target + i * row_stride + k * kStoredPart);
        part[0] = stored_four(weights, i, k, weight_scale);
        part[kSimdWidth] = stored_four(grads, i, k, grad_scale);
      }
  if (lane_index == 0 && slice == 0)
    *(device float2*)(target + kStoredFactors) = float2{inverse_power(weight_scale), inverse_power(grad_scale)};
}

// Rows of one of the two tensors, 16 at a time, in the columns of one SIMD group: [keys, columns] += P^T dO, where the
// stored weights are the left operand as they are, but transposed.
template <typename T, int kColumns>
struct UnitRowsInTurn {
  static constant constexpr int kBytes = 0;
  static constant constexpr int kStoredGrads = kStoredPart / 2;  // where those of a lane begin, after all lanes' weights
  using Sum = UnitTile<float, kStoredKeys, kColumns>;
  QueryWalk<T, kFragment> walk;
  device const T* row[2];  // rows r and r + 8, from this lane's first column on
  int next_row, count;     // this lane's
  int columns;             // that exist from there on
  int factor_at;           // from this lane's place in a stored block on

  UnitRowsInTurn(QueryRows<const T> grads, QueryRows<const T> queries, int first, bool makes_value, int first_column,
                 threadgroup T*, uint thread_index, Lane lane)
      : UnitRowsInTurn(makes_value ? grads : queries, first + lane.row, first_column + column_of(lane)) {
    factor_at = kStoredFactors + (makes_value ? 0 : 1 - kStoredGrads) - thread_index % kSimdWidth * kStoredFour;
  }
  UnitRowsInTurn(QueryRows<const T> rows, int first, int column)
      : walk(from(rows, column), first), next_row(first), count(rows.count), columns(rows.columns - column) {}

  static int column_of(Lane lane) { return UnitBlock<T, kStoredKeys, kColumns, 1>::key_column(0, lane.column); }
  static QueryRows<const T> from(QueryRows<const T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next 16 rows.
  void bring(int) {
    row[0] = walk.next(0);
    row[1] = walk.next(0);
    next_row += 16;
  }

  // sum += transpose(stored[16, keys]) * rows. Missing rows are 0, as their weights are not.
  void multiply(thread Sum& sum, short, device const float* stored, long row_stride) const {
    const float factor = stored[factor_at];
    LeftPart<float> weights[kStoredKeys / 16];
    UNROLL for (short m = 0; m < kStoredKeys / 16; m++)
      weights[m] = {factor * float4(*(device const half4*)(stored + m * kStoredPart)),
                    factor * float4(*(device const half4*)(stored + row_stride + m * kStoredPart))};
    UNROLL for (short n = 0; n < kColumns / 32; n++) {
      alignas(16) T chunk[2][8];
      UNROLL for (short i = 0; i < 2; i++) {
        clear_chunk<8>(chunk[i]);
        if (next_row - 16 + i * kFragment < count) load_chunk<8>(chunk[i], row[i] + 32 * n, columns - 32 * n);
      }
      UNROLL for (short m = 0; m < kStoredKeys / 16; m++)
        multiply_16x32x16<false, true>(sum, m, n, weights[m], half_of(chunk[0], 0), half_of(chunk[1], 0),
                                       half_of(chunk[0], 1), half_of(chunk[1], 1));
    }
  }
};

// target[key, column] = factor * sum[key, column], for keys from key0 on; missing keys and columns are not written.
template <typename T, int kKeys, int kColumns>
inline void store_sum(device T* target, long stride, thread UnitTile<float, kKeys, kColumns>& sum, float factor,
                      int key0, int keys, int columns, Lane lane) {
  scale(sum, factor);
  store<UnitBlock<T, kKeys, kColumns, 1>>(QueryRows<T>{target, stride, 0, 1, keys, columns}, sum, key0, lane);
}

template <>
struct InTurn<Loader::unit> {
  static constant constexpr short kStoredLane = kStoredFour;
  template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
  using Blocks = UnitBlocks<T, kRows, kColumns, kSlices>;
  template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
  using Rows = UnitRowsInTurn<T, kColumns>;
};
template <>
struct InTurn<Loader::unit_rereads> : InTurn<Loader::unit> {};
