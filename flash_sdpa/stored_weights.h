// Weights P and the gradients dS of their scores on the way from attention_backward_queries, which computes them, to
// attention_backward_keys, in fp32:
//   [key/value heads of the chunk][tiles of rows][8 rows][8 keys][lane]
// a lane's two weights, then their two gradients; unit_gradients.h has another order, and 16 bits. A tile's keys count from
// the first block that it sees in the chunk. Only blocks of a SIMD group's rows and kStoredKeys keys in which a row sees a
// key are written, and only they are read.
#pragma once
#include "mask.h"
#include "params.h"
#include "sequence.h"

constant constexpr int kStoredKeys = 32;  // of a block; planning/backward_tiles.py: STORED_KEYS

// Rows of a stored block: those of a SIMD group of attention_backward_queries; planning/backward_tiles.py: rows.
constexpr int stored_block_rows(Loader loader) { return loader == Loader::staged ? kFragment : 16; }

// Whether any row of the SIMD group sees a key of the stored block that this one is in.
template <int kRows>
inline bool is_stored(thread const RowRanges<kRows>& seen, int key) {
  const int block = key & -kStoredKeys;
  bool any = false;
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    any = any || max(seen.at[i].begin, block) < min(seen.at[i].end, block + kStoredKeys);
  return simd_any(any);
}

// The first key that a tile of rows stores in a chunk.
inline int first_stored(constant ChunkParams& chunk, int first_seen) {
  return max(first_seen & -kStoredKeys, int(chunk.first_key));
}

// Floats that 8 rows take for these keys; those of the unit have as much as four more for each stored block.
constexpr int stored_floats(Loader loader, int keys) {
  return loader == Loader::staged ? keys * (2 * kFragment) : keys / kStoredKeys * (kStoredKeys * kFragment + 4);
}

// Each 8 rows lie so many floats apart.
template <Loader kLoader>
inline long stored_row_stride(constant BackwardParams& params) {
  return stored_floats(kLoader, int(params.stored_keys));
}

// Where 8 rows of a tile begin, the tile being the tile_index-th of the head_index-th head of the chunk.
template <Loader kLoader, int kBlockM, typename T>
inline device T* stored_rows(device T* stored, constant BackwardParams& params, int head_index, int tile_index,
                             int rows_index) {
  const int tile = head_index * int(params.stored_tiles) + tile_index;
  return stored + (tile * (kBlockM / kFragment) + rows_index) * stored_row_stride<kLoader>(params);
}

// Stores a lane's part of 8 rows of weights and their gradients. SIMD groups with slices of the same rows divide them.
template <int kSlices, int kKeys>
inline void store_weights(device float* target, long, thread RegisterTile<float, kFragment, kKeys>& weights,
                          thread RegisterTile<float, kFragment, kKeys>& grads, int slice, uint) {
  UNROLL for (short j = 0; j < kKeys / kFragment; j++) {
    const float2 weight = pair(weights, 0, j), grad = pair(grads, 0, j);
    if (j % kSlices == slice)
      *(device float4*)(target + j * (4 * kSimdWidth)) = float4{weight[0], weight[1], grad[0], grad[1]};
  }
}

// A launch's part of the work on [begin, end), for one sum over it. The chunks of all launches lie end to end, the
// first from 0 and the last to 2^30, so that each has its turn, and an empty one has it in one chunk.
struct Turn {
  bool is_mine, is_first, is_last;

  Turn(int begin, int end, int chunk_begin, int chunk_end) {
    end = max(end, begin + 1);
    is_mine = begin < chunk_end && end > chunk_begin;
    is_first = begin >= chunk_begin;
    is_last = end <= chunk_end;
  }
};

// Where a SIMD group's sums lie on their way from one launch to the next: in the order of lanes, in fp32, those of
// equal tiles end to end.
template <typename Tile>
inline device float2* carried(device float2* sums, long index, uint lane_index) {
  return sums + index * (Tile::kLaneRows * Tile::kLanePairs * kSimdWidth) + lane_index;
}

template <typename Tile>
inline void load_sums(thread Tile& tile, device float2* sums, long index, uint lane_index) {
  device const float2* source = carried<Tile>(sums, index, lane_index);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      pair(tile, i, j) = source[(i * Tile::kLanePairs + j) * kSimdWidth];
}

template <typename Tile>
inline void store_sums(device float2* sums, thread Tile& tile, long index, uint lane_index) {
  device float2* target = carried<Tile>(sums, index, lane_index);
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++)
      target[(i * Tile::kLanePairs + j) * kSimdWidth] = pair(tile, i, j);
}
