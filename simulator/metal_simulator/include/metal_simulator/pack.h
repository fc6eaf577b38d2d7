// Packing of normalised numbers into integers, component 0 in the lowest bits. NaN is packed as 0.
#pragma once
namespace metal {
METAL_FUNC uint __pack_field(float x, int bits, bool negative) {
  float most = float((1u << (bits - negative)) - 1);
  x = x == x ? clamp(x, negative ? -1.0f : 0.0f, 1.0f) : 0.0f;
  return uint(int(__builtin_rintf(x * most))) & ((1u << bits) - 1);
}
METAL_FUNC float __unpack_field(uint packed, int bits, int offset, bool negative) {
  float most = float((1u << (bits - negative)) - 1);
  uint field = packed << (32 - bits - offset);
  return max((negative ? float(int(field) >> (32 - bits)) : float(field >> (32 - bits))) / most, -1.0f);
}
METAL_FUNC float __to_srgb(float x) {
  x = x == x ? clamp(x, 0.0f, 1.0f) : 0.0f;
  return x < 0.0031308f ? 12.92f * x : 1.055f * __builtin_powf(x, 1.0f / 2.4f) - 0.055f;
}
METAL_FUNC float __from_srgb(float x) {
  return x <= 0.04045f ? x / 12.92f : __builtin_powf((x + 0.055f) / 1.055f, 2.4f);
}

// bits: of each component; srgb: of the first three.
template <typename R, bool negative, bool srgb, int... bits, typename V>
METAL_FUNC R __pack(V v) {
  uint packed = 0;
  int i = 0, offset = 0;
  ((packed |= __pack_field(srgb && i < 3 ? __to_srgb(float(v[i])) : float(v[i]), bits, negative) << offset, i++,
    offset += bits),
   ...);
  return R(packed);
}
template <typename V, bool negative, bool srgb, int... bits>
METAL_FUNC V __unpack(uint packed) {
  V v;
  int i = 0, offset = 0;
  ((v[i] = typename __is_vector<V>::scalar(srgb && i < 3 ? __from_srgb(__unpack_field(packed, bits, offset, negative))
                                                         : __unpack_field(packed, bits, offset, negative)),
    i++, offset += bits),
   ...);
  return v;
}
#define __METAL_PACK(T, N, R, to, from, negative, srgb, ...)                                                          \
  METAL_FUNC R pack_##T##_to_##to(T##N v) { return __pack<R, negative, srgb, __VA_ARGS__>(v); }                       \
  METAL_FUNC T##N unpack_##from##_to_##T(R x) { return __unpack<T##N, negative, srgb, __VA_ARGS__>(x); }
#define __METAL_PACK_ALL(T)                                                                                           \
  __METAL_PACK(T, 4, uint, unorm4x8, unorm4x8, false, false, 8, 8, 8, 8)                                              \
  __METAL_PACK(T, 4, uint, snorm4x8, snorm4x8, true, false, 8, 8, 8, 8)                                               \
  __METAL_PACK(T, 4, uint, srgb_unorm4x8, unorm4x8_srgb, false, true, 8, 8, 8, 8)                                     \
  __METAL_PACK(T, 2, uint, unorm2x16, unorm2x16, false, false, 16, 16)                                                \
  __METAL_PACK(T, 2, uint, snorm2x16, snorm2x16, true, false, 16, 16)                                                 \
  __METAL_PACK(T, 4, uint, unorm10a2, unorm10a2, false, false, 10, 10, 10, 2)                                         \
  __METAL_PACK(T, 4, uint, snorm10a2, snorm10a2, true, false, 10, 10, 10, 2)                                          \
  __METAL_PACK(T, 3, ushort, unorm565, unorm565, false, false, 5, 6, 5)
__METAL_PACK_ALL(float)
__METAL_PACK_ALL(half)
}  // namespace metal
