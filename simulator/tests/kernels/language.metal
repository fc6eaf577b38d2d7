// Constructions of the language that clang, reading it as OpenCL, knows differently.
#include <metal_logging>
#include <metal_simdgroup_matrix>
#include <metal_stdlib>
using namespace metal;

#define WIDTH 4

template <typename T>
struct Pair {
  T first, second;

  constexpr Pair(T first, T second) thread : first(first), second(second) {}
  constexpr Pair(T first, T second) constant : first(first), second(second) {}
  template <typename U, typename = enable_if_t<is_convertible_v<U, T> && sizeof(U) <= 8>>
  constexpr Pair(U both) thread : first(static_cast<T>(both)), second(static_cast<T>(both)) {}

  T sum() const { return first + second; }
  thread Pair& add(T x) thread {
    first += x;
    return *this;
  }
  Pair operator*(Pair other) const { return Pair(first * other.first, second * other.second); }
  constexpr operator vec<T, 2>() const thread { return vec<T, 2>(first, second); }
};

template <typename T>
struct Limits {
  static constexpr constant T start = T(1.5f, 2.5f);
};
template <typename T>
struct Start {
  static constexpr constant T value = Limits<T>::start;
};

struct Step {
  constexpr operator int() const { return 2; }
};

float twice(const thread float& x) { return x * 2; }
float middle(uint3 at) { return at.y; }
void shift(const device float*& x, int by) { x += by; }
void clear(thread Pair<float>& p) { p = Pair<float>(0.0f, 0.0f); }
struct Holder {
  Pair<float> held;
  Holder(float x) thread : held(x) {}
  void reset() { clear(held); }
};
template <typename T>
T fill(uint i) {
  T x = 0;
  x = i;
  return x;
}
template <typename P>
float walk(P from, Step step) {
  from += step;
  return *from;
}
template <typename T>
using Change = void (*)(thread T*);
template <typename T>
void negate(thread T* x) {
  *x = -*x;
}
template <typename T, Change<T> change>
T changed(T x) {
  change(&x);
  return x;
}
constant os_log messages("simulator", "tests");

kernel void language(device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
                     constant Pair<float>& pair [[buffer(00'2)]], device half4* halves [[buffer(3)]],
                     uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float shared[4];
  const uniform<int> four = make_uniform(WIDTH);
  messages.log_debug("lane %u", lane);
  assert(lane < 32);
  if (lane != 0) return;
  device const float* at = x;
  shift(at, 1);
  shared[0] = at[0];
  out[0] = shared[0];
  out[1] = twice(x[2] + 1) + twice(3);
  out[2] = middle({lane, four * 2, 5});
  out[3] = Pair<float>(1.0f, 2.0f).add(3).sum() + (Pair<float>(2.0f, 3.0f) * Pair<float>(4.0f, 5.0f)).sum();
  Pair<float> copy = lane == 0 ? pair : Pair<float>(0.0f, 0.0f);
  out[4] = copy.sum() + Start<Pair<float>>::value.second;
  float4 partial = {1, 2, 3};
  out[5] = partial.w + partial.z;
  halves[0] = 0.5 * halves[1] + halves[2] * 2.0f;
  halves[3] *= x[3];
  out[6] = walk(x, Step());
  Holder holder(7);
  out[7] = holder.held.sum();
  holder.reset();
  out[8] = holder.held.sum() + fill<bfloat>(9);
  out[9] = changed<float, negate<float>>(x[1]);
  short2 place(lane + 1, 3), other = short2(2);
  out[10] = place.x + place.y + other.y;
  float4 chosen = select(float4(1, 2, 3, 4), -INFINITY, float4(1, 2, 3, 4) > 2);
  out[11] = chosen.y;
  float sum = 0;
#pragma unroll(WIDTH / 2)
  for (int i = 0; i < WIDTH; i++) sum += x[i] * 0.1;
  out[12] = sum;
  out[13] = static_cast<half>(bfloat(2.5f));
  float2 spread = copy;
  out[14] = spread.y;
}

// A template whose arguments follow from the signature that is instantiated.
template <typename T, int N>
struct Scales {
  T scale[N];
};
template <typename T, int N>
[[kernel]] void scaled(device const T* x [[buffer(0)]], device T* out [[buffer(1)]],
                       const constant Scales<T, N>* scales [[buffer(2)]], uint i [[thread_position_in_grid]]) {
  out[i] = x[i] * scales->scale[i % N];
}
template [[host_name("scaled_float_3")]] [[kernel]] void scaled(
    device const float* x [[buffer(0)]], device float* out [[buffer(1)]],
    const constant Scales<float, 3>* scales [[buffer(2)]], uint i [[thread_position_in_grid]]);
template [[host_name("scaled_half_2")]] [[kernel]] void scaled(
    device const half* x [[buffer(0)]], device half* out [[buffer(1)]],
    const constant Scales<half, 2>* scales [[buffer(2)]], uint i [[thread_position_in_grid]]);
