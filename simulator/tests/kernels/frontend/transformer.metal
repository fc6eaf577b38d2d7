// Kernels around attention: rotary embedding, copy into a paged cache, quantised matrix-vector product, tiled GEMM.
#include <metal_stdlib>
#include <metal_simdgroup_matrix>
using namespace metal;

namespace rotary {
struct Shape {
  uint heads, head_dim;
  float base;
};
inline float2 rotated(float2 x, float angle) {
  float cosine;
  const float sine = sincos(angle, cosine);
  return float2(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
}
// Grid: (head_dim / 2, heads, tokens).
template <typename T, bool interleaved>
[[kernel]] void embed(device T* x, const device int* positions, constant Shape& shape,
                      uint3 at [[thread_position_in_grid]], uint3 size [[threads_per_grid]]) {
  device T* row = x + (at.z * shape.heads + at.y) * shape.head_dim;
  const uint first = interleaved ? 2 * at.x : at.x, second = interleaved ? first + 1 : at.x + size.x;
  const float angle = positions[at.z] * precise::pow(shape.base, -2.0f * at.x / shape.head_dim);
  const float2 r = rotated(float2(row[first], row[second]), angle);
  row[first] = static_cast<T>(r.x);
  row[second] = static_cast<T>(r.y);
}
template [[host_name("rotary_half")]] kernel void embed<half, false>(device half*, const device int*, constant Shape&,
                                                                     uint3, uint3);
template [[host_name("rotary_float_interleaved")]] kernel void embed<float, true>(device float*, const device int*,
                                                                                  constant Shape&, uint3, uint3);
}  // namespace rotary

enum CacheBuffers { kKey = 0, kCache, kSlots, kSizes };
constant constexpr uint kBlock = 16;

// cache [blocks, heads, head_dim / 8, 16, 8]; a negative slot is skipped.
kernel void reshape_and_cache(const device half* key [[buffer(kKey)]], device half* cache [[buffer(kCache)]],
                              const device long* slots [[buffer(kSlots)]], constant uint2& sizes [[buffer(kSizes)]],
                              uint token [[threadgroup_position_in_grid]],
                              uint thread_index [[thread_position_in_threadgroup]],
                              uint threads [[threads_per_threadgroup]]) {
  const long slot = slots[token];
  if (slot < 0) return;
  const uint heads = sizes.x, head_dim = sizes.y;
  const long block = slot / kBlock, offset = slot % kBlock;
  for (uint i = thread_index; i < heads * head_dim; i += threads) {
    const uint head = i / head_dim, d = i % head_dim;
    cache[((block * heads + head) * (head_dim / 8) + d / 8) * kBlock * 8 + offset * 8 + d % 8] =
        key[token * heads * head_dim + i];
  }
}

struct Block8 {
  half scale;
  packed_char4 q[8];
};  // 32 weights of 8 bits
static_assert(sizeof(Block8) == 34, "no padding");

// One SIMD group per row: y = W x.
kernel void quantised_matvec(const device Block8* weights, const device float4* x, device float* y,
                             constant uint& columns, uint row [[threadgroup_position_in_grid]],
                             ushort lane [[thread_index_in_simdgroup]]) {
  const uint blocks = columns / 32;
  float sum = 0;
  for (uint b = lane; b < blocks; b += 32) {
    const Block8 block = weights[row * blocks + b];
#pragma unroll
    for (int i = 0; i < 8; i++) sum += float(block.scale) * dot(float4(char4(block.q[i])), x[b * 8 + i]);
  }
  sum = simd_sum(sum);
  if (simd_is_first()) y[row] = sum;
}

constant bool transposed [[function_constant(0)]];
constant bool has_bias [[function_constant(1)]];
constant bool plain = !has_bias;

// C = A B (+ bias): 32 x 32 per threadgroup of 4 SIMD groups, K a multiple of 16.
template <typename T, int BM = 32, int BN = 32, int BK = 16>
[[kernel, max_total_threads_per_threadgroup(128)]] void gemm(
    const device T* a [[buffer(0)]], const device T* b [[buffer(1)]], device T* c [[buffer(2)]],
    constant int3& mnk [[buffer(3)]], const device float* bias [[buffer(4), function_constant(has_bias)]],
    threadgroup T* a_tile [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    ushort thread_index [[thread_index_in_threadgroup]], ushort simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int pad = 16 / sizeof(T);
  alignas(16) threadgroup T b_tile[BK * (BN + pad)];
  threadgroup float c_tile[BM * BN];
  simdgroup_matrix<float, 8, 8> sums[2][2];
  for (auto i = 0; i < 2; i++)
    for (auto j = 0; j < 2; j++) sums[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.f);
  const int row = group.y * BM, column = group.x * BN, m = (simdgroup / 2) * 16, n = (simdgroup % 2) * 16;
  for (int k = 0; k < mnk.z; k += BK) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = thread_index; i < BM * BK; i += 128) {
      const int r = row + i / BK;
      a_tile[i] = r < mnk.x ? a[r * mnk.z + k + i % BK] : T(0);
    }
    for (int i = thread_index; i < BK * BN; i += 128) {
      const int r = k + i / BN, s = column + i % BN;
      b_tile[(i / BN) * (BN + pad) + i % BN] = s < mnk.y ? (transposed ? b[s * mnk.z + r] : b[r * mnk.y + s]) : T(0);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    _Pragma("clang loop unroll(full)") for (short kk = 0; kk < BK; kk += 8) {
      simdgroup_matrix<T, 8, 8> left[2], right[2];
      for (short i = 0; i < 2; i++) {
        simdgroup_load(left[i], a_tile + (m + 8 * i) * BK + kk, BK);
        simdgroup_load(right[i], b_tile, BN + pad, ulong2(n + 8 * i, kk));
      }
      for (short i = 0; i < 2; i++)
        for (short j = 0; j < 2; j++) simdgroup_multiply_accumulate(sums[i][j], left[i], right[j], sums[i][j]);
    }
  }
  for (short i = 0; i < 2; i++)
    for (short j = 0; j < 2; j++) simdgroup_store(sums[i][j], c_tile + (m + 8 * i) * BN + n + 8 * j, BN);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = thread_index; i < BM * BN; i += 128) {
    const int r = row + i / BN, s = column + i % BN;
    if (r < mnk.x && s < mnk.y) c[r * mnk.y + s] = T(c_tile[i] + (plain ? 0.0f : bias[s]));
  }
}
template [[host_name("gemm_half")]] [[kernel]] decltype(gemm<half>) gemm<half>;
template [[host_name("gemm_float")]] [[kernel]] decltype(gemm<float, 32, 32>) gemm<float, 32, 32>;
template [[host_name("gemm_bfloat")]] [[kernel]] decltype(gemm<bfloat>) gemm<bfloat>;
