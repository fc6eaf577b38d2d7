// The kernels of the queries' gradients on every GPU, whose loader is staged. attention_backward_queries.h has the kernel.
#include <metal_stdlib>
#include "staging.h"

// After what the loader declares, as it calls that.
#include "attention_backward_queries.h"
using namespace metal;

// The host name is QueriesTile.kernel's (planning/backward_tiles.py).
#define INSTANTIATE(name, T, Element, head_dim, value_dim, block_n, row_groups, slices) \
  template [[host_name("attention_backward_queries_" #name "_d" #head_dim "_v" #value_dim "_n" #block_n "_g" \
                       #row_groups "x" #slices)]] [[kernel]] decltype(attention_backward_queries< \
      T, Element, head_dim, value_dim, block_n, row_groups, slices, Loader::staged>) \
      attention_backward_queries<T, Element, head_dim, value_dim, block_n, row_groups, slices, Loader::staged>;

#include "instances_backward_queries.h"
