// Packed vectors: arrays of components with the alignment of one, convertible to and from the plain vectors.
#pragma once
namespace metal {
template <typename T, int N>
struct __packed {
  T __component[N];
  __packed() = default;
  METAL_FUNC __packed(vec<T, N> v) thread { for (int i = 0; i < N; i++) __component[i] = v[i]; }
#define __METAL_PACKED(space)                                                                       \
  METAL_FUNC operator vec<T, N>() const space {                                                     \
    vec<T, N> v;                                                                                    \
    for (int i = 0; i < N; i++) v[i] = __component[i];                                              \
    return v;                                                                                       \
  }                                                                                                 \
  METAL_FUNC const space T& operator[](int i) const space { return __component[i]; }
  __METAL_PACKED(thread)
  __METAL_PACKED(device)
  __METAL_PACKED(threadgroup)
  __METAL_PACKED(constant)
#undef __METAL_PACKED
#define __METAL_PACKED(space)                                                                       \
  METAL_FUNC space T& operator[](int i) space { return __component[i]; }                            \
  METAL_FUNC space __packed& operator=(vec<T, N> v) space {                                         \
    for (int i = 0; i < N; i++) __component[i] = v[i];                                              \
    return *this;                                                                                   \
  }
  __METAL_PACKED(thread)
  __METAL_PACKED(device)
  __METAL_PACKED(threadgroup)
#undef __METAL_PACKED
};
#define __METAL_UNPACK(space)                                                                       \
  template <typename T, typename S, int N>                                                          \
  METAL_FUNC T __construct(const space __packed<S, N>& p) { return __constructor<T>::make(vec<S, N>(p)); }
__METAL_UNPACK(thread)
__METAL_UNPACK(device)
__METAL_UNPACK(threadgroup)
__METAL_UNPACK(constant)
template <typename T, int N>
using packed_vec = __packed<T, N>;
#define __METAL_PACKED_TYPES(T)       \
  using packed_##T##2 = __packed<T, 2>; \
  using packed_##T##3 = __packed<T, 3>; \
  using packed_##T##4 = __packed<T, 4>;
__METAL_PACKED_TYPES(char)
__METAL_PACKED_TYPES(uchar)
__METAL_PACKED_TYPES(short)
__METAL_PACKED_TYPES(ushort)
__METAL_PACKED_TYPES(int)
__METAL_PACKED_TYPES(uint)
__METAL_PACKED_TYPES(long)
__METAL_PACKED_TYPES(half)
__METAL_PACKED_TYPES(float)
__METAL_PACKED_TYPES(bfloat)
}  // namespace metal
#define __METAL_PACKED_TYPES_GLOBAL(T) using metal::packed_##T##2; using metal::packed_##T##3; using metal::packed_##T##4;
__METAL_PACKED_TYPES_GLOBAL(char)
__METAL_PACKED_TYPES_GLOBAL(uchar)
__METAL_PACKED_TYPES_GLOBAL(short)
__METAL_PACKED_TYPES_GLOBAL(ushort)
__METAL_PACKED_TYPES_GLOBAL(int)
__METAL_PACKED_TYPES_GLOBAL(uint)
__METAL_PACKED_TYPES_GLOBAL(half)
__METAL_PACKED_TYPES_GLOBAL(float)
__METAL_PACKED_TYPES_GLOBAL(bfloat)
