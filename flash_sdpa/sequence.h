// Which rows a threadgroup owns: one tile of one sequence, found without the host having read cu_seqlens.
#pragma once
#include <metal_stdlib>
#include "function_constants.h"
#include "params.h"
using namespace metal;

struct QueryTile {
  long batch;                     // index along the tensors' batch axis; 0 when packed
  int sequence;                   // index among the sequences; of no meaning where key_length is 0
  int query_start, query_length;  // tokens: where the sequence starts along the token axis, and how many it has
  int key_start, key_length;
  int row0;                       // first row of the tile within the sequence; not a row of it in a surplus tile
};

// A value of cu_seqlens, wherever it points, as a place in a tensor of `total` tokens.
inline int clamped(device const int* cu_seqlens, int i, int total) { return clamp(cu_seqlens[i], 0, total); }

// Dense: every sequence has ceil(query_length * heads_per_kv / kBlockM) tiles.
template <int kBlockM>
inline QueryTile dense_tile(constant ForwardParams& params, int tile) {
  const int query_length = params.query_length;
  const int tiles = (query_length * int(params.heads_per_kv) + kBlockM - 1) / kBlockM;
  return {tile / tiles, tile / tiles, 0, query_length, 0, int(params.key_length), tile % tiles * kBlockM};
}

// Packed: cu_seqlens_q cuts the tokens into batch + 2 segments, the first and the last being what lies before and after
// all sequences: they see no key, so that every row of the output is written. Segment s owns the tiles from
// bound(s) * heads_per_kv / kBlockM + s on; that is never fewer than its rows need, at most one more, and grows with s.
template <int kBlockM>
inline QueryTile packed_tile(constant ForwardParams& params, device const int* cu_seqlens_q,
                             device const int* cu_seqlens_k, int tile) {
  const int batch = params.batch, total_q = params.query_length, total_k = params.key_length;
  const int heads_per_kv = params.heads_per_kv;
  int segment = 0, start = 0;  // the last segment whose first tile is not after ours, by binary search
  for (int beyond = batch + 2; beyond - segment > 1;) {
    const int middle = (segment + beyond) / 2;
    const int bound = clamped(cu_seqlens_q, middle - 1, total_q);
    if (bound * heads_per_kv / kBlockM + middle <= tile) {
      segment = middle;
      start = bound;
    } else {
      beyond = middle;
    }
  }
  const int end = segment <= batch ? clamped(cu_seqlens_q, segment, total_q) : total_q;
  const int row0 = (tile - segment - start * heads_per_kv / kBlockM) * kBlockM;
  QueryTile found = {0, segment - 1, start, max(0, end - start), 0, 0, row0};
  if (segment >= 1 && segment <= batch) {
    if (is_paged && has_seqused_k) {
      found.key_length = total_k;
    } else if (is_paged) {  // cu_seqlens_k tells the lengths and nothing else
      const long length = long(cu_seqlens_k[segment]) - long(cu_seqlens_k[segment - 1]);
      found.key_length = int(min(max(length, long(0)), long(total_k)));
    } else {
      found.key_start = clamped(cu_seqlens_k, segment - 1, total_k);
      found.key_length = max(0, clamped(cu_seqlens_k, segment, total_k) - found.key_start);
    }
  }
  return found;
}
