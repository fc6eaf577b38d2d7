#include <metal_stdlib>
using namespace metal;

// Every lane writes what it gets from each SIMD-group function.
template <typename T>
[[kernel]] void collectives(device const T* x [[buffer(0)]], device T* out [[buffer(1)]],
                            uint lane [[thread_index_in_simdgroup]]) {
  T v = x[lane];
  device T* row = out + lane * 24;
  row[0] = simd_sum(v);
  row[1] = simd_min(v);
  row[2] = simd_max(v);
  row[3] = simd_prefix_inclusive_sum(v);
  row[4] = simd_prefix_exclusive_sum(v);
  row[5] = simd_shuffle(v, ushort(31 - lane));
  row[6] = simd_shuffle_xor(v, 5);
  row[7] = simd_shuffle_up(v, 3);
  row[8] = simd_shuffle_down(v, 3);
  row[9] = simd_shuffle_rotate_up(v, 3);
  row[10] = simd_shuffle_rotate_down(v, 3);
  row[11] = simd_shuffle_and_fill_up(v, T(lane), 3);
  row[12] = simd_shuffle_and_fill_down(v, T(lane), 3);
  row[13] = simd_broadcast(v, 7);
  row[14] = simd_broadcast_first(v);
  row[15] = quad_sum(v);
  row[16] = quad_max(v);
  row[17] = quad_shuffle_xor(v, 1);
  row[18] = quad_broadcast(v, 2);
  row[19] = T(simd_all(v > T(-100)));
  row[20] = T(simd_any(v > T(100)));
  row[21] = T(ulong(simd_ballot(lane % 2 == 0)) & 0xFF);
  row[22] = simd_product(v > T(0) ? T(1) : T(-1));
  row[23] = T(simd_is_first());
}
template [[host_name("collectives_float")]] [[kernel]] decltype(collectives<float>) collectives<float>;
template [[host_name("collectives_half")]] [[kernel]] decltype(collectives<half>) collectives<half>;
template [[host_name("collectives_int")]] [[kernel]] decltype(collectives<int>) collectives<int>;

kernel void histogram(device const uchar* x [[buffer(0)]], device atomic_uint* counts [[buffer(1)]],
                      device atomic<float>* sum [[buffer(2)]], uint i [[thread_position_in_grid]],
                      uint t [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint local[16];
  if (t < 16) atomic_store_explicit(&local[t], 0, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&local[x[i] % 16], 1u, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (t < 16)
    atomic_fetch_add_explicit(counts + t, atomic_load_explicit(&local[t], memory_order_relaxed), memory_order_relaxed);
  atomic_fetch_add_explicit(sum, 0.5f, memory_order_relaxed);
}
