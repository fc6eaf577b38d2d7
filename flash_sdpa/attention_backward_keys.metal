// The kernels of the keys' and values' gradients on every GPU, whose loader is staged. attention_backward_keys.h has the
// kernel.
#include <metal_stdlib>
#include "staging.h"

// After what the loader declares, as it calls that.
#include "attention_backward_keys.h"
using namespace metal;

// The host name is KeysTile.kernel's (planning/backward_tiles.py).
#define INSTANTIATE(name, T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows) \
  template [[host_name("attention_backward_keys_" #name "_d" #head_dim "_v" #value_dim "_c" #columns "_k" #key_groups \
                       "_m" #block_m "_t" #tile_rows)]] [[kernel]] decltype(attention_backward_keys< \
      T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows, Loader::staged>) \
      attention_backward_keys<T, Element, head_dim, value_dim, columns, key_groups, block_m, tile_rows, \
                              Loader::staged>;

#include "instances_backward_keys.h"
