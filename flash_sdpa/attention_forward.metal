// The forward kernels of every GPU: their loaders are staged and direct. attention_forward.h has the kernel.
#include <metal_stdlib>
#include "blocks_direct.h"
#include "blocks_staged.h"

// After what the loaders declare, as it calls that.
#include "attention_forward.h"
using namespace metal;

// The host name is Tile.kernel's (planning/tiles.py).
#define INSTANTIATE(name, T, head_dim, value_dim, block_n, row_groups, slices, key_groups, loader) \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_v" #value_dim "_r8_n" #block_n "_g" #row_groups \
                       "x" #slices "x" #key_groups "_" #loader)]] [[kernel]] decltype(attention_forward< \
      T, head_dim, value_dim, 8, block_n, row_groups, slices, key_groups, Loader::loader>) \
      attention_forward<T, head_dim, value_dim, 8, block_n, row_groups, slices, key_groups, Loader::loader>;

#include "instances.h"
