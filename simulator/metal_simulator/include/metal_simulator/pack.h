// Packing of normalised numbers into integers, component 0 in the lowest bits.
#pragma once
namespace metal {
template <int bits, bool negative, typename V>
METAL_FUNC uint __pack_normalised(V v) {
  constexpr int N = __is_vector<V>::size;
  constexpr float most = float((1u << (bits - negative)) - 1);
  uint packed = 0;
  for (int i = 0; i < N; i++) {
    float x = __builtin_rintf(clamp(float(v[i]), negative ? -1.0f : 0.0f, 1.0f) * most);
    packed |= (uint(int(x)) & ((1u << bits) - 1)) << (i * bits);
  }
  return packed;
}
template <int bits, bool negative, typename V>
METAL_FUNC V __unpack_normalised(uint packed) {
  constexpr float most = float((1u << (bits - negative)) - 1);
  V v;
  for (int i = 0; i < __is_vector<V>::size; i++) {
    uint field = packed << (32 - bits - i * bits);
    float x = negative ? float(int(field) >> (32 - bits)) : float(field >> (32 - bits));
    v[i] = typename __is_vector<V>::scalar(max(x / most, -1.0f));
  }
  return v;
}
#define __METAL_PACK(T, kind, bits, N, negative)                                                                    \
  METAL_FUNC uint pack_##T##_to_##kind##N##x##bits(T##N v) { return __pack_normalised<bits, negative>(v); }         \
  METAL_FUNC T##N unpack_##kind##N##x##bits##_to_##T(uint x) { return __unpack_normalised<bits, negative, T##N>(x); }
__METAL_PACK(float, unorm, 8, 4, false) __METAL_PACK(float, snorm, 8, 4, true)
__METAL_PACK(float, unorm, 16, 2, false) __METAL_PACK(float, snorm, 16, 2, true)
__METAL_PACK(half, unorm, 8, 4, false) __METAL_PACK(half, snorm, 8, 4, true)
__METAL_PACK(half, unorm, 16, 2, false) __METAL_PACK(half, snorm, 16, 2, true)
}  // namespace metal
