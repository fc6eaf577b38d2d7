// Blocks of rows that a threadgroup stages in its memory one after another. Each thread goes its own way through them,
// so that addresses advance by constants: a walk begins one step before its first row.
#pragma once
#include "blocks_staged.h"
#include "stored_weights.h"
#include "tile.h"

// What a loader brings to the backward kernels, block by block: Blocks (of keys or values), and Rows (of queries and of the
// output's gradient, for the columns of one of the two that a SIMD group multiplies with stored weights). Of 8 rows of a
// stored block, a lane's lie kStoredLane floats after those of the one before.
template <Loader kLoader>
struct InTurn;

// Every kStep-th row of a key or value tensor, the first one being `row` of the block.
template <typename T, int kStep>
struct KeyWalk {
  using Element = T;
  KeyRows<T> rows;

  KeyWalk(KeyRows<T> first, int row) {
    first.advance(row - kStep);
    rows = first;
  }

  // The next row; it is row r of the block. Beyond the last key there may be no page: then it is the last one.
  device const T* next(int r) {
    rows.advance(kStep);
    return is_paged ? rows.paged_row(min(r, rows.count() - 1)) : rows.data;
  }
};

// Every kStep-th row of a query or output tensor, from a row of the sequence on, without a division for each.
template <typename T, int kStep>
struct QueryWalk {
  using Element = T;
  device const T* data;
  long step, wrap;  // elements: to the next row, and from the last head that shares a key/value head to the next token
  int head, head_step, heads_per_kv;  // head: that of `data`, maybe below 0 before the first row

  QueryWalk(QueryRows<const T> rows, int row) {
    heads_per_kv = rows.heads_per_kv;
    head_step = kStep % heads_per_kv;
    step = (kStep / heads_per_kv) * rows.token_stride + head_step * rows.head_stride;
    wrap = rows.token_stride - heads_per_kv * rows.head_stride;
    data = rows.row(row) - step;
    head = row % heads_per_kv - head_step;
  }

  device const T* next(int) {
    data += step;
    head += head_step;
    if (head >= heads_per_kv) {
      head -= heads_per_kv;
      data += wrap;
    }
    return data;
  }
};

constexpr int power_of_two(int limit) {  // the largest that is not above the limit, up to 64
  return limit >= 64 ? 64 : limit >= 32 ? 32 : limit >= 16 ? 16 : limit >= 8 ? 8 : limit >= 4 ? 4 : limit >= 2 ? 2 : 1;
}
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Stages blocks of [kRows, kColumns], by all kThreads threads. A thread keeps to one chunk of 16 bytes in every kStep-th
// row. In memory they are T, and rows kStride elements apart.
template <typename T, int kRows, int kColumns, int kStride, int kThreads>
struct Stager {
  static constant constexpr int kChunk = 16 / sizeof(T), kChunksPerRow = kColumns / kChunk;
  static constant constexpr int kStep = power_of_two(smaller(kThreads / kChunksPerRow, kRows));
  static constant constexpr bool kIsBusy = kThreads == kStep * kChunksPerRow;  // no thread is left over
  int row, column;  // of the block, where the thread begins: the walk's
  int columns;      // that exist from there on

  Stager(uint thread_index, int all_columns) {
    row = thread_index / kChunksPerRow;
    column = thread_index % kChunksPerRow * kChunk;
    columns = all_columns - column;
  }

  // block = the next kRows rows of the walk; those from count on and missing columns are 0, so that 0 * value stays 0.
  template <typename Walk>
  void stage(threadgroup T* block, thread Walk& walk, int count) const {
    threadgroup T* target = block + row * kStride + column;
    UNROLL for (int r = 0; r < kRows; r += kStep) {
      device const typename Walk::Element* source = walk.next(r + row);
      if (kIsBusy || row < kStep) {
        if (r + row < count && has_column(columns, 0)) copy_chunk(target, source, columns);
        else *(threadgroup float4*)target = float4(0);
      }
      target += kStep * kStride;
    }
  }
};

// Blocks [kRows, kColumns] of keys or values.
template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
struct StagedBlocks {
  using Tile = StagedTile<T, kRows, kColumns, kSlices, Element>;
  using Stages = Stager<Element, kRows, kColumns, Tile::kStride, kThreads>;
  Tile tile;
  Stages stager;
  KeyWalk<T, Stages::kStep> walk;

  // rows: from the first block on.
  StagedBlocks(KeyRows<T> rows, threadgroup Element* memory, int slice, uint thread_index, Lane)
      : tile{memory, slice}, stager(thread_index, rows.columns), walk(from(rows, stager.column), stager.row) {}

  static KeyRows<T> from(KeyRows<T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next block, which starts at key0. Barriers come before it, and before the tile is read.
  void bring(int key0) {
    walk.rows.first = key0;
    stager.stage(tile.data, walk, walk.rows.count());
  }
  // To the block that starts so many keys after the next one.
  void skip(int keys) { walk.rows.advance(keys); }
};

// Blocks of kBlockM rows of both tensors, in threadgroup memory. They are summed transposed, [columns, keys] += dO^T P,
// whose right operands are the stored weights as they are.
template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
struct StagedRows {
  static constant constexpr int kStride =
      StagedTile<T, kBlockM, larger(kHeadDim, kValueDim), 1, Element>::kStride;            // of both blocks
  static constant constexpr int kBytes = 2 * kBlockM * kStride * sizeof(Element);          // of threadgroup memory
  static constant constexpr int kStoredGrads = 2;  // where those of a lane begin, among its first weights
  using Sum = RegisterTile<float, kColumns, kStoredKeys>;
  using GradStager = Stager<Element, kBlockM, kValueDim, kStride, kThreads>;
  using QueryStager = Stager<Element, kBlockM, kHeadDim, kStride, kThreads>;
  threadgroup Element* memory;
  threadgroup const Element* own;  // from this lane's place in the first transposed fragment on
  GradStager grad_stager;
  QueryStager query_stager;
  QueryWalk<T, GradStager::kStep> grads;
  QueryWalk<T, QueryStager::kStep> queries;
  int count;  // of rows

  // first: the first row.
  StagedRows(QueryRows<const T> grad_rows, QueryRows<const T> query_rows, int first, bool makes_value,
             int first_column, threadgroup Element* memory_, uint thread_index, Lane lane)
      : memory(memory_),
        own((makes_value ? memory_ : memory_ + kBlockM * kStride) + (first_column + lane.column * kStride + lane.row)),
        grad_stager(thread_index, grad_rows.columns), query_stager(thread_index, query_rows.columns),
        grads(from(grad_rows, grad_stager.column), first + grad_stager.row),
        queries(from(query_rows, query_stager.column), first + query_stager.row), count(grad_rows.count) {}

  static QueryRows<const T> from(QueryRows<const T> rows, int column) {
    rows.data += column;
    return rows;
  }

  // The next block, which starts at row0.
  void bring(int row0) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the last block
    grad_stager.stage(memory, grads, count - row0);
    query_stager.stage(memory + kBlockM * kStride, queries, count - row0);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the rows are there
  }

  // sum += transpose(the block's rows from 8 * k on) * stored[8, keys]
  void multiply(thread Sum& sum, short k, device const float* stored, long) const {
    simdgroup_matrix<float, kFragment, kFragment> weights[kStoredKeys / kFragment];
    UNROLL for (short n = 0; n < kStoredKeys / kFragment; n++)
      elements(weights[n]) = *(device const float2*)(stored + n * (4 * kSimdWidth));
    threadgroup const Element* rows = own + k * kFragment * kStride;
    simdgroup_matrix<Element, kFragment, kFragment> columns;
    UNROLL for (short m = 0; m < kColumns / kFragment; m++) {
      elements(columns) = vec<Element, 2>{rows[m * kFragment], rows[m * kFragment + kStride]};
      UNROLL for (short n = 0; n < kStoredKeys / kFragment; n++)
        simdgroup_multiply_accumulate(sum.frag[m][n], columns, weights[n], sum.frag[m][n]);
    }
  }
};

// target[key, column] = factor * sum[column, key], for keys from key0 on; missing keys and columns are not written.
template <typename T, int kColumns, int kKeys>
inline void store_sum(device T* target, long stride, thread RegisterTile<float, kColumns, kKeys>& sum, float factor,
                      int key0, int keys, int columns, Lane lane) {
  UNROLL for (short n = 0; n < kKeys / kFragment; n++)
    UNROLL for (short e = 0; e < 2; e++) {
      const int key = key0 + n * kFragment + lane.column + e;
      if (key < keys)
        UNROLL for (short m = 0; m < kColumns / kFragment; m++) {
          const int column = m * kFragment + lane.row;
          if (has_column(columns, column)) target[key * stride + column] = T(factor * elements(sum.frag[m][n])[e]);
        }
    }
}

template <>
struct InTurn<Loader::staged> {
  static constant constexpr short kStoredLane = 4;
  template <typename T, typename Element, int kRows, int kColumns, int kSlices, int kThreads>
  using Blocks = StagedBlocks<T, Element, kRows, kColumns, kSlices, kThreads>;
  template <typename T, typename Element, int kHeadDim, int kValueDim, int kColumns, int kBlockM, int kThreads>
  using Rows = StagedRows<T, Element, kHeadDim, kValueDim, kColumns, kBlockM, kThreads>;
};
