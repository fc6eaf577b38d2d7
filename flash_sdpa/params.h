// Launch parameters, packed by the planner (planning/plan.py: the same structs, fields and order).
// Every struct has a single field type, so that a launcher that can only pass arrays of numbers can pass it too.
#pragma once

struct Strides {  // elements; head_dim, or the keys of a bias, are contiguous
  long batch;     // of paged keys and values: page; 0 for packed tensors
  long token;
  long head;
};

struct ForwardParams {
  Strides query, key, value, output;
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long batch;         // sequences
  long query_length;  // tokens: of each sequence when dense, of all sequences together when packed
  long key_length;    // as query_length; paged: all that a row of block_table can hold
  long head_dim;      // elements of a query or key row that exist
  long value_dim;     // elements of a value or output row that exist
  long heads_per_kv;  // query heads that share one key/value head
  long window_left;   // keys visible before the diagonal; 2^30 = all
  long window_right;  // keys visible after the diagonal; 0 = causal, 2^30 = all
  long num_pages;
  long page_size;            // keys of a page, a multiple of 16
  long block_table_stride;   // page ids of a sequence
  long alibi_batch_stride;   // slopes: 0 or num_heads
  long num_splits;           // parts that the keys of a tile are divided in
  long output_split_stride;  // elements of one part's output
  long lse_split_stride;     // elements of one part's lse
  long first_tile;           // of this launch; those before it are another launch's
  long aligns_last;          // 1: the last query token lines up with the last key; 0: the first one with the first
  Strides bias;
  long bias_keys;        // that have a bias, whatever the sequence has: those beyond are not seen; 2^30 = all
  long bias_key_stride;  // 1, or 0 where one bias is that of all keys
};
static_assert(sizeof(ForwardParams) == 36 * 8, "plan.ForwardParams packs 36 int64");

// A score is <query_factor * query, key>, then capped or biased, in a unit that keeps it below 2^127: scale times a
// score is what the softmax takes the exponential of.
struct ScoreParams {
  float query_factor;  // the sign of softmax_scale, exact in every dtype; with a tiny scale a power of two beside it
  float tanh_scale;    // with softcap: the score is tanh(tanh_scale * score)
  float bias_factor;   // with ALiBi or a bias: multiplies the score before these are added; at most 1
  float scale;         // at least 2^-119
  float scale_log2;    // scale * log2(e)
};
static_assert(sizeof(ScoreParams) == 5 * 4, "plan.ScoreParams packs 5 float32");

// Given with the call: never part of a plan.
struct DropoutParams {
  long seed;       // 64 bits
  long threshold;  // weights that are kept of every 65536
};
static_assert(sizeof(DropoutParams) == 2 * 8, "plan.DropoutParams packs 2 int64");

struct CombineParams {
  Strides output;         // elements
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long rows;  // tokens x heads of all sequences
  long num_heads;
  long tokens;     // of each sequence when dense, of all sequences together when packed
  long value_dim;  // elements of a row
  long num_splits;
};
static_assert(sizeof(CombineParams) == 10 * 8, "plan.CombineParams packs 10 int64");

struct BackwardParams {
  ForwardParams forward;  // of the call whose gradients are wanted
  Strides grad_output, grad_query, grad_key, grad_value;
  long stored_keys;   // of a tile of rows, at most: a multiple of kStoredKeys (stored_weights.h)
  long stored_tiles;  // of a key/value head in a chunk, at most
  long sum_tiles;     // tiles of keys of a sequence, at most, that sums are carried for
};
static_assert(sizeof(BackwardParams) == 51 * 8, "plan.BackwardParams packs 51 int64");

// What one launch of a backward kernel does: each key/value head from first_head on, with the tiles of query rows
// [first_tile, end_tile), of all sequences, and the keys [first_key, end_key) of each sequence.
struct ChunkParams {
  long first_head;
  long first_tile, end_tile;
  long first_key, end_key;
  long first_key_tile;            // the first tile of keys, where they are one dense sequence's; else 0
  long carried_from, carried_to;  // which of two halves sums come from and go to
};
static_assert(sizeof(ChunkParams) == 8 * 8, "plan.ChunkParams packs 8 int64");
