#include <metal_stdlib>
using namespace metal;

// c = a^T, in tiles of 8 x 8, through a matrix loaded transposed; and through threadgroup memory with an origin.
template <typename T>
[[kernel]] void transpose(device const T* a [[buffer(0)]], device T* c [[buffer(1)]],
                          constant uint2& shape [[buffer(2)]], uint2 tile [[threadgroup_position_in_grid]],
                          uint lane [[thread_index_in_simdgroup]]) {
  simdgroup_matrix<T, 8, 8> m;
  simdgroup_load(m, a, shape.y, ulong2(tile.y * 8, tile.x * 8), true);
  threadgroup T block[8 * 12];
  simdgroup_store(m, block, 12, ulong2(4, 0));
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_load(m, block + 4, 12);
  simdgroup_store(m, c, shape.x, ulong2(tile.x * 8, tile.y * 8));
}
template [[host_name("transpose_half")]] [[kernel]] decltype(transpose<half>) transpose<half>;
template
    [[host_name("transpose_"
                "float")]] [[kernel]] decltype(transpose<float>) transpose<float>;
