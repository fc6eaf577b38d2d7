#include <metal_stdlib>
using namespace metal;

struct Shape { int rows, columns, inner; };

// c [rows, columns] = a [rows, inner] b [inner, columns]; one SIMD group computes a tile of 16 x 16.
template <typename A, typename B, typename C, short TILE>
[[kernel, max_total_threads_per_threadgroup(32)]] void matmul(
    const device A* a [[buffer(0)]], const device B* b [[buffer(1)]], device C* c [[buffer(2)]],
    constant Shape& shape [[buffer(3)]], uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  constexpr short N = TILE / 8;
  alignas(16) threadgroup A tile[TILE * 8];
  simdgroup_matrix<float, 8, 8> sum[N][N];
  for (short i = 0; i < N; i++) {
    for (short j = 0; j < N; j++) {
      sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
  }
  const device A* rows = a + int(group.y) * TILE * shape.inner;
  for (int k = 0; k < shape.inner; k += 8) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (short i = lane; i < TILE * 8; i += 32) {
      tile[i] = rows[(i / 8) * shape.inner + k + i % 8];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_matrix<A, 8, 8> left[N];
    simdgroup_matrix<B, 8, 8> right;
    for (short i = 0; i < N; i++) {
      simdgroup_load(left[i], tile + i * 64, 8);
    }
    for (short j = 0; j < N; j++) {
      simdgroup_load(right, b + k * shape.columns + int(group.x) * TILE + j * 8, shape.columns);
      for (short i = 0; i < N; i++) {
        simdgroup_multiply_accumulate(sum[i][j], left[i], right, sum[i][j]);
      }
    }
  }
  for (short i = 0; i < N; i++) {
    for (short j = 0; j < N; j++) {
      simdgroup_matrix<C, 8, 8> result;
      result.thread_elements() = vec<C, 2>(sum[i][j].thread_elements());
      simdgroup_store(result, c, shape.columns, ulong2(group.x * TILE + j * 8, group.y * TILE + i * 8));
    }
  }
}

#define instantiate(name, A, B, C) \
  template [[host_name("matmul_" name)]] [[kernel]] decltype(matmul<A, B, C, 16>) matmul<A, B, C, 16>;
instantiate("half", half, half, half)
instantiate("bfloat", bfloat, bfloat, bfloat)
instantiate("float", float, float, float)
instantiate("half_float", half, float, float)
instantiate("float_bfloat", float, bfloat, float)
