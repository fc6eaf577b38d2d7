// The forward kernels that use the matrix unit of Apple10 GPUs. Never compiled ahead of time: with a deployment target
// below macOS 26.2, which the kernel builder does not let one set, operands in registers are silently laid out in another
// way. Then, and where there is no matrix unit in the language, this file has no kernel.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include "unit.h"

// After what the loader declares, as it calls that.
#include "attention_forward.h"
using namespace metal;

// The host name is Tile.kernel's (planning/tiles.py).
#define INSTANTIATE(name, T, head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows) \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_v" #value_dim "_r" #rows "_n" #block_n "_g" \
                       #row_groups "x" #slices "x" #key_groups "_" #loader)]] [[kernel]] decltype(attention_forward< \
      T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>) \
      attention_forward<T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>;

#include "instances_unit.h"
#endif
