// Blocks of rows that a threadgroup stages in its memory one after another. Each thread goes its own way through them,
// so that addresses advance by constants: a walk begins one step before its first row.
#pragma once
#include "blocks_staged.h"
#include "tile.h"

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
