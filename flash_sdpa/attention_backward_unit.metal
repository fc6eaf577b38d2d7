// The backward kernels that use the matrix unit, under the conditions of attention_forward_unit.metal.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include "unit_gradients.h"

// After what the loader declares, as they call that.
#include "attention_backward_keys.h"
#include "attention_backward_queries.h"
using namespace metal;

// The host names are QueriesTile.kernel's and KeysTile.kernel's (planning/backward_tiles.py).
#define INSTANTIATE_QUERIES(name, T, head_dim, value_dim, block_n, row_groups, slices, loader) \
  template [[host_name("attention_backward_queries_" #name "_d" #head_dim "_v" #value_dim "_n" #block_n "_g" \
                       #row_groups "x" #slices "_" #loader)]] [[kernel]] decltype(attention_backward_queries< \
      T, T, head_dim, value_dim, block_n, row_groups, slices, Loader::loader>) \
      attention_backward_queries<T, T, head_dim, value_dim, block_n, row_groups, slices, Loader::loader>;
#define INSTANTIATE_KEYS(name, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, loader) \
  template [[host_name("attention_backward_keys_" #name "_d" #head_dim "_v" #value_dim "_c" #columns "_k" #key_groups \
                       "_m" #block_m "_t" #tile_rows "_" #loader)]] [[kernel]] decltype(attention_backward_keys< \
      T, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, Loader::loader>) \
      attention_backward_keys<T, T, head_dim, value_dim, columns, key_groups, block_m, tile_rows, Loader::loader>;

#include "instances_backward_unit.h"
#endif
