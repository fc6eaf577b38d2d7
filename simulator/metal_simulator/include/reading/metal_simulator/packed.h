// Packed vectors, for reading.
#pragma once
namespace metal {
template <typename T, int N>
struct __packed : vec<T, N> {
  using vec<T, N>::vec;
  __packed() = default;
  constexpr __packed(vec<T, N> v) : vec<T, N>(v) {}
};
template <typename T, int N> struct __width<__packed<T, N>> : __width<vec<T, N>> {};
template <typename T, int N> constexpr T __component_of(const __packed<T, N>& v, int i) { return v.component[i]; }
template <typename T, int N>
using packed_vec = __packed<T, N>;
#define __METAL_PACKED_TYPES(T)       \
  using packed_##T##2 = __packed<T, 2>; \
  using packed_##T##3 = __packed<T, 3>; \
  using packed_##T##4 = __packed<T, 4>;
#define __METAL_PACKED_TYPES_GLOBAL(T) using metal::packed_##T##2; using metal::packed_##T##3; using metal::packed_##T##4;
__METAL_PACKED_TYPES(char)
__METAL_PACKED_TYPES(uchar)
__METAL_PACKED_TYPES(short)
__METAL_PACKED_TYPES(ushort)
__METAL_PACKED_TYPES(int)
__METAL_PACKED_TYPES(uint)
__METAL_PACKED_TYPES(long)
__METAL_PACKED_TYPES(ulong)
__METAL_PACKED_TYPES(half)
__METAL_PACKED_TYPES(float)
__METAL_PACKED_TYPES(bfloat)
}  // namespace metal
__METAL_PACKED_TYPES_GLOBAL(char)
__METAL_PACKED_TYPES_GLOBAL(uchar)
__METAL_PACKED_TYPES_GLOBAL(short)
__METAL_PACKED_TYPES_GLOBAL(ushort)
__METAL_PACKED_TYPES_GLOBAL(int)
__METAL_PACKED_TYPES_GLOBAL(uint)
__METAL_PACKED_TYPES_GLOBAL(long)
__METAL_PACKED_TYPES_GLOBAL(ulong)
__METAL_PACKED_TYPES_GLOBAL(half)
__METAL_PACKED_TYPES_GLOBAL(float)
__METAL_PACKED_TYPES_GLOBAL(bfloat)
