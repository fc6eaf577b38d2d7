// Which rows a threadgroup owns, one tile of one sequence, and where they, their keys and their results lie in memory.
// The host does not read cu_seqlens: the threadgroup finds its sequence by itself.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "mask.h"
#include "pages.h"
#include "params.h"
#include "tile.h"
using namespace metal;

// A tile of the rows of one sequence and one key/value head. A row is one token of one of the query heads that share
// the key/value head; the rows of a token are adjacent.
struct QueryTile {
  long batch;                     // index along the tensors' batch axis; 0 when packed
  int sequence;                   // index among the sequences; undefined where key_length is 0
  int query_start, query_length;  // tokens: where the sequence starts along the token axis, and how many it has
  int key_start, key_length;
  int row0;  // first row of the tile within the sequence; not below rows() in a surplus tile
  int head_kv, heads_per_kv;

  int rows() const { return query_length * heads_per_kv; }  // of the sequence
  int token(int row) const { return row / heads_per_kv; }   // within the sequence
  int head(int row) const { return head_kv * heads_per_kv + row % heads_per_kv; }

  Mask mask(constant ForwardParams& params) const {
    const int keys = has_bias ? min(key_length, int(params.bias_keys)) : key_length;
    const int diagonal = int(params.aligns_last) * (key_length - query_length);
    return {keys, diagonal, int(params.window_left), int(params.window_right)};
  }

  // The sequence's rows of a query or output tensor, without the columns before first_column.
  template <typename T>
  QueryRows<T> rows_of(device T* tensor, constant Strides& strides, int first_column, int columns) const {
    device T* first = tensor + batch * strides.batch + query_start * strides.token + head(0) * strides.head;
    return {first + first_column, strides.token, strides.head, heads_per_kv, rows(), columns - first_column};
  }

  // The sequence's rows of a key or value tensor, from the token first_key on. pages: if is_paged.
  template <typename T>
  KeyRows<T> keys_of(device const T* tensor, constant Strides& strides, int first_key, int columns, Pages pages) const {
    tensor += key_start * strides.token + head_kv * strides.head;
    if (!is_paged) tensor += batch * strides.batch + first_key * strides.token;
    return {tensor, strides.token, strides.batch, first_key, key_length, columns, pages};
  }

  // Index of a row in lse.
  long lse_index(constant ForwardParams& params, int row) const {
    return batch * params.lse_batch_stride + head(row) * params.lse_head_stride + query_start + token(row);
  }
};

// A value of cu_seqlens, whatever it is, as an index into `total` tokens.
inline int clamped(device const int* cu_seqlens, int i, int total) { return clamp(cu_seqlens[i], 0, total); }

// Dense: every sequence has ceil(query_length * heads_per_kv / kBlockM) tiles.
template <int kBlockM>
inline QueryTile dense_tile(constant ForwardParams& params, int head_kv, int tile) {
  const int query_length = params.query_length, key_length = params.key_length, heads_per_kv = params.heads_per_kv;
  const int tiles = (query_length * heads_per_kv + kBlockM - 1) / kBlockM, row0 = tile % tiles * kBlockM;
  return {tile / tiles, tile / tiles, 0, query_length, 0, key_length, row0, head_kv, heads_per_kv};
}

// One of the batch + 2 segments that cu_seqlens cuts the tokens of packed sequences into, and a tile of its rows. The
// first and the last segment hold the tokens before and after all sequences, so that a kernel can reach them, too.
struct Segment {
  int index;       // that of the sequence, and 1
  int start, end;  // tokens; maybe end < start
  int row0;        // first row of the tile within the segment
};

// Segment s owns the tiles from bound(s) * rows_per_token / kBlock + s on. That is never fewer than its rows need, at
// most one more, and grows with s.
template <int kBlock>
inline Segment find_segment(device const int* cu_seqlens, int batch, int total, int rows_per_token, int tile) {
  int segment = 0, start = 0, first_tile = 0;  // the last segment whose first tile is not after ours, by binary search
  for (int beyond = batch + 2; beyond - segment > 1;) {
    const int middle = uint(segment + beyond) / 2;  // unsigned divisions are shifts
    const int bound = clamped(cu_seqlens, middle - 1, total);
    const int first = uint(bound * rows_per_token) / kBlock + middle;
    if (first <= tile) {
      segment = middle;
      start = bound;
      first_tile = first;
    } else {
      beyond = middle;
    }
  }
  const int end = segment <= batch ? clamped(cu_seqlens, segment, total) : total;
  return {segment, start, end, (tile - first_tile) * kBlock};
}

// Packed: rows of no sequence see no key, so that every row of the output is written.
template <int kBlockM>
inline QueryTile packed_tile(constant ForwardParams& params, device const int* cu_seqlens_q,
                             device const int* cu_seqlens_k, int head_kv, int tile) {
  const int batch = params.batch, total_q = params.query_length, total_k = params.key_length;
  const int heads_per_kv = params.heads_per_kv;
  const Segment segment = find_segment<kBlockM>(cu_seqlens_q, batch, total_q, heads_per_kv, tile);
  const int length = max(0, segment.end - segment.start);
  QueryTile found = {0, segment.index - 1, segment.start, length, 0, 0, segment.row0, head_kv, heads_per_kv};
  if (segment.index >= 1 && segment.index <= batch) {
    if (is_paged && has_seqused_k) {
      found.key_length = total_k;
    } else if (is_paged) {  // cu_seqlens_k gives the lengths and nothing else
      const long keys = long(cu_seqlens_k[segment.index]) - long(cu_seqlens_k[segment.index - 1]);
      found.key_length = int(min(max(keys, long(0)), long(total_k)));
    } else {
      found.key_start = clamped(cu_seqlens_k, segment.index - 1, total_k);
      found.key_length = max(0, clamped(cu_seqlens_k, segment.index, total_k) - found.key_start);
    }
  }
  return found;
}
