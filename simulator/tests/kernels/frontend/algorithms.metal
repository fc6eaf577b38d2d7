// Top-k, scan, histogram and Fourier transform.
#include <metal_stdlib>
#include <metal_atomic>
using namespace metal;

typedef struct {
  float value;
  uint index;
} Candidate;
static inline bool before(Candidate a, Candidate b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// The k largest of each row, sorted; bitonic sort of 256 candidates in threadgroup memory.
kernel void top_k(device const float* x [[buffer(0)]], device float* values [[buffer(1)]],
                  device uint* indices [[buffer(2)]], constant uint2& shape [[buffer(3)]],
                  uint row [[threadgroup_position_in_grid]], uint i [[thread_index_in_threadgroup]]) {
  threadgroup Candidate kept[256];
  const uint columns = shape.x, k = shape.y;
  kept[i] = Candidate{i < columns ? x[row * columns + i] : -INFINITY, i};
  for (uint size = 2; size <= 256; size <<= 1) {
    for (uint step = size >> 1; step > 0; step >>= 1) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
      const uint other = i ^ step;
      if (other > i) {
        const bool descending = (i & size) == 0;
        const Candidate a = kept[i], b = kept[other];
        if (before(b, a) == descending) {
          kept[i] = b;
          kept[other] = a;
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i < k) {
    values[row * k + i] = kept[i].value;
    indices[row * k + i] = kept[i].index;
  }
}

template <typename T> struct Plus {
  static constexpr constant T start = T(0);
  T operator()(T a, T b) { return a + b; }
};

// Exclusive scan of one row per threadgroup, in chunks of the threadgroup's size.
template <typename T, typename Op>
kernel void exclusive_scan(device const T* x, device T* out, constant uint& count,
                           threadgroup T* sums [[threadgroup(0)]], uint i [[thread_index_in_threadgroup]],
                           uint threads [[threads_per_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  Op op;
  T carry = Op::start;
  for (uint base = 0; base < count; base += threads) {
    const T mine = base + i < count ? x[base + i] : Op::start;
    const T scanned = simd_prefix_exclusive_sum(mine);
    if (lane == 31) sums[simdgroup] = op(scanned, mine);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    T earlier = carry, all = carry;
    for (uint g = 0; g < threads / 32; g++) {
      if (g < simdgroup) earlier = op(earlier, sums[g]);
      all = op(all, sums[g]);
    }
    if (base + i < count) out[base + i] = op(earlier, scanned);
    carry = all;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
template [[host_name("exclusive_scan_int")]] kernel void exclusive_scan<int, Plus<int>>(
    device const int*, device int*, constant uint&, threadgroup int*, uint, uint, uint, uint);

kernel void histogram(device const uchar4* pixels [[buffer(0)]], device atomic_uint* bins [[buffer(1)]],
                      device atomic_float* total [[buffer(2)]], constant uint& count [[buffer(3)]],
                      uint i [[thread_position_in_grid]], uint t [[thread_index_in_threadgroup]]) {
  threadgroup atomic_uint local[256];
  atomic_store_explicit(&local[t], 0, memory_order_relaxed);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (i < count) {
    const uchar4 p = pixels[i];
    for (int c = 0; c < 4; c++) atomic_fetch_add_explicit(&local[p[c]], 1u, memory_order_relaxed);
    atomic_fetch_add_explicit(total, dot(float4(p) / 255.0f, float4(1)), memory_order_relaxed);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  atomic_fetch_add_explicit(&bins[t], atomic_load_explicit(&local[t], memory_order_relaxed), memory_order_relaxed);
}

struct complex_t {
  float real, imaginary;
  METAL_FUNC complex_t(float r = 0, float i = 0) : real(r), imaginary(i) {}
  METAL_FUNC complex_t operator+(complex_t o) const { return complex_t(real + o.real, imaginary + o.imaginary); }
  METAL_FUNC complex_t operator-(complex_t o) const { return {real - o.real, imaginary - o.imaginary}; }
  METAL_FUNC complex_t operator*(complex_t o) const {
    return {real * o.real - imaginary * o.imaginary, fma(real, o.imaginary, imaginary * o.real)};
  }
};

// Radix 2, in place in threadgroup memory; N threads / 2.
template <uint N>
kernel void fft(device float2* x [[buffer(0)]], uint row [[threadgroup_position_in_grid]],
                uint i [[thread_index_in_threadgroup]]) {
  threadgroup float2 buffer[N];
  constexpr uint bits = 31 - clz(N);
  x += row * N;
  for (uint j = i; j < N; j += N / 2) buffer[reverse_bits(j) >> (32 - bits)] = x[j];
  for (uint half_size = 1; half_size < N; half_size *= 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint k = i & (half_size - 1), low = 2 * i - k, high = low + half_size;
    const float angle = -M_PI_F * k / half_size;
    complex_t twiddle(precise::cos(angle), precise::sin(angle));
    complex_t a(buffer[low].x, buffer[low].y), b = complex_t(buffer[high].x, buffer[high].y) * twiddle;
    complex_t s = a + b, d = a - b;
    buffer[low] = float2(s.real, s.imaginary);
    buffer[high] = float2(d.real, d.imaginary);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint j = i; j < N; j += N / 2) x[j] = buffer[j];
}
template [[host_name("fft_128")]] kernel void fft<128>(device float2*, uint, uint);
