// Launch parameters, packed by the planner (planner.py: ForwardParams, ScoreParams; same fields, same order).
// Every struct has a single field type, so that a launcher that can only pass arrays of numbers can pass it too.
#pragma once

struct Strides {  // elements; head_dim is contiguous
  long batch;     // 0 for packed tensors
  long token;
  long head;
};

struct ForwardParams {
  Strides query, key, value, output;
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long batch;         // sequences
  long query_length;  // tokens: of each sequence when dense, of all sequences together when packed
  long key_length;    // as query_length
  long group_size;    // query heads that share one key/value head
  long window_left;   // keys visible before the diagonal; 2^30 = all
  long window_right;  // keys visible after the diagonal; 0 = causal, 2^30 = all
};
static_assert(sizeof(ForwardParams) == 20 * 8, "planner.ForwardParams packs 20 int64");

struct ScoreParams {
  float query_sign;  // 1, -1 or 0: the sign of softmax_scale. It multiplies the query, which is exact in every dtype
  float scale_log2;  // |softmax_scale| * log2(e) > 0: scores are exponentiated in base 2
};
static_assert(sizeof(ScoreParams) == 2 * 4, "planner.ScoreParams packs 2 float32");
