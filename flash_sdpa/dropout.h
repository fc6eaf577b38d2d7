// Dropout by counter: Philox 4x32 with 7 rounds (Salmon, Moraes, Dror & Shaw, 2011), keyed by the seed and counted by
// where a weight is, has 16 random bits for each weight. So the same weights are dropped in the forward, in the backward
// and on the CPU (cpu/dropout.py), whatever the tile, the split and the layout.
#pragma once
#include "params.h"
#include "tile.h"

constant constexpr int kPhiloxRounds = 7;

template <int kRounds>
inline uint4 philox(uint4 counter, uint2 key) {
  UNROLL for (short round = 0; round < kRounds; round++) {
    const uint low = counter[0] * 0xD2511F53u, high = mulhi(counter[0], 0xD2511F53u);
    const uint other_low = counter[2] * 0xCD9E8D57u, other_high = mulhi(counter[2], 0xCD9E8D57u);
    counter = uint4{other_high ^ counter[1] ^ key[0], other_low, high ^ counter[3] ^ key[1], low};
    key += uint2{0x9E3779B9u, 0xBB67AE85u};
  }
  return counter;
}

// Which of a lane's weights of a block of keys are kept: bit 2 * j + e of at[i] is that of element e of pair [i][j].
template <int kRows>
struct Kept {
  uint at[kRows / kFragment];
};

// A lane's rows, by where they are in the batch.
template <int kRows>
struct Dropout {
  uint2 seed;
  uint threshold;  // of 2^16: a weight whose number is below is kept
  uint sequence;
  uint token[kRows / kFragment], head[kRows / kFragment];

  // first_head: of the query heads that share the key/value head.
  void place(constant DropoutParams& params, int sequence_, int first_head, int row0, int rows, int heads_per_kv,
             Lane lane) {
    seed = uint2{uint(params.seed), uint(params.seed >> 32)};
    threshold = params.threshold;
    sequence = sequence_;
    UNROLL for (short i = 0; i < kRows / kFragment; i++) {
      const int row = min(row0 + i * kFragment + lane.row, rows - 1);
      token[i] = row / heads_per_kv;
      head[i] = first_head + row % heads_per_kv;
    }
  }
};

// What a sum over the kept weights is multiplied by: 1 / (share that is kept), at least 1. Its bits say so, or fast math
// would multiply by 65536 first, which may leave fp32.
inline float dropout_factor(constant DropoutParams& params) {
  return as_type<float>(max(as_type<uint>(65536 / float(params.threshold)), 0x3f800000u));
}

// Of kKeys keys from key0, a multiple of kKeys, on. One counter has a lane's eight numbers for 32 keys: word w, half e
// belong to key 8 * w + lane.column + e of them.
template <int kKeys, int kRows>
inline Kept<kRows> kept_weights(thread const Dropout<kRows>& dropout, int key0, Lane lane) {
  constexpr short kWords = kKeys < 32 ? kKeys / kFragment : 4;  // of a counter that these keys take
  static_assert(kKeys % (kWords * kFragment) == 0 && kKeys <= 128, "whole counters, and a bit for each weight");
  Kept<kRows> kept;
  UNROLL for (short i = 0; i < kRows / kFragment; i++) {
    kept.at[i] = 0;
    UNROLL for (short first = 0; first < kKeys; first += kWords * kFragment) {
      const uint block = uint(key0 + first) / 32 * 4 + lane.column / 2;
      const uint4 counter = uint4{block, dropout.token[i], dropout.head[i], dropout.sequence};
      uint4 words = philox<kPhiloxRounds>(counter, dropout.seed);
      if (kWords <= 2 && (key0 & 16)) words = words.zwxy;
      if (kWords == 1 && (key0 & 8)) words = words.yxwz;
      UNROLL for (short word = 0; word < kWords; word++) {
        const uint low = (words[word] & 0xffffu) < dropout.threshold, high = words[word] >> 16 < dropout.threshold;
        kept.at[i] |= (low | high << 1) << 2 * (first / kFragment + word);
      }
    }
  }
  return kept;
}

// From the order of 8x8 fragments, in which a counter's numbers belong to lanes, to that of another kind of tile.
template <typename Tile, int kRows>
inline void arrange(thread Kept<kRows>& kept, Lane lane) {
  UNROLL for (short i = 0; i < kRows / kFragment; i++) kept.at[i] = Tile::own_bits(kept.at[i], lane);
}

// tile[row, key] = 0 where it is not kept.
template <typename Tile, int kRows>
inline void drop(thread Tile& tile, thread const Kept<kRows>& kept) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const float2 two = pair(tile, i, j);
      const uint bits = kept.at[i] >> 2 * j;
      pair(tile, i, j) = float2{bits & 1 ? two[0] : 0, bits & 2 ? two[1] : 0};
    }
}
