// A paged key/value cache: key t of a sequence is key t % size of page block_table[t / size].
#pragma once
#include <metal_stdlib>
#include "params.h"
using namespace metal;

struct Pages {
  device const int* block_table;  // page ids of this sequence
  int size;                       // keys of a page
  int count;                      // pages that exist

  // The page of a key, wherever block_table points.
  int id(int token) const { return clamp(block_table[token / size], 0, count - 1); }
};

// The pages of a sequence. block_table: of all sequences.
inline Pages pages_of(device const int* block_table, constant ForwardParams& params, int sequence) {
  return {block_table + sequence * params.block_table_stride, int(params.page_size), int(params.num_pages)};
}
