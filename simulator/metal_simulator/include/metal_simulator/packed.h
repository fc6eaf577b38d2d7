// Packed vectors: components with the alignment of one, convertible to and from the plain vectors.
#pragma once
namespace metal {
template <typename T, int N> struct __packed_components;
template <typename T> struct __packed_components<T, 2> {
  // clang-format off
  union { T component[2]; struct { T x, y; }; struct { T r, g; }; };
};
template <typename T> struct __packed_components<T, 3> {
  union { T component[3]; struct { T x, y, z; }; struct { T r, g, b; }; };
};
template <typename T> struct __packed_components<T, 4> {
  union { T component[4]; struct { T x, y, z, w; }; struct { T r, g, b, a; }; };
};
// clang-format on

template <typename T, int N>
struct __packed : __packed_components<T, N> {
  __packed() = default;
  METAL_FUNC constexpr __packed(vec<T, N> v) {
    for (int i = 0; i < N; i++) this->component[i] = v[i];
  }
  METAL_FUNC constexpr explicit __packed(T all) {
    for (int i = 0; i < N; i++) this->component[i] = all;
  }
  template <typename A, typename B, typename... R>
  METAL_FUNC constexpr __packed(A a, B b, R... rest) : __packed(__construct<vec<T, N>>(a, b, rest...)) {}
#define __METAL_PACKED_READ(space)                                                          \
  METAL_FUNC operator vec<T, N>() const space {                                             \
    vec<T, N> v;                                                                            \
    for (int i = 0; i < N; i++) v[i] = this->component[i];                                  \
    return v;                                                                               \
  }                                                                                         \
  METAL_FUNC const auto& operator[](int i) const space { return this->component[i]; }
  __METAL_PACKED_READ()
  __METAL_PACKED_READ(constant)
  METAL_FUNC auto& operator[](int i) { return this->component[i]; }
#define __METAL_PACKED_ASSIGN(op)                                                           \
  METAL_FUNC void operator op##=(vec<T, N> v) { *this = __packed(vec<T, N>(*this) op v); }  \
  METAL_FUNC void operator op##=(T s) { *this = __packed(vec<T, N>(*this) op s); }
  __METAL_PACKED_ASSIGN(+)
  __METAL_PACKED_ASSIGN(-)
  __METAL_PACKED_ASSIGN(*)
  __METAL_PACKED_ASSIGN(/)
};
template <typename T, int N> METAL_FUNC vec<T, N> __unpacked(const __packed<T, N>& p) { return p; }
template <typename T, int N> METAL_FUNC vec<T, N> __unpacked(const constant __packed<T, N>& p) { return p; }
#define __METAL_UNPACK(space)                                                                       \
  template <typename T, typename S, int N>                                                          \
  METAL_FUNC T __construct(const space __packed<S, N>& p) { return __constructor<T>::make(vec<S, N>(p)); } \
  template <typename T, typename S, int N>                                                          \
  METAL_FUNC T __convert(const space __packed<S, N>& p) { return __constructor<T>::make(vec<S, N>(p)); }
__METAL_UNPACK(thread)
__METAL_UNPACK(device)
__METAL_UNPACK(threadgroup)
__METAL_UNPACK(constant)
template <typename T, int N> struct __is_vector<__packed<T, N>> : true_type {
  using scalar = T;
  static constexpr __constant int size = N;
};
template <typename T, int N> struct __constructor<__packed<T, N>, true, N> {
  template <typename... A>
  static METAL_FUNC constexpr __packed<T, N> make(A... a) {
    return __packed<T, N>(__construct<vec<T, N>>(a...));
  }
};
#define __METAL_PACKED_SCALAR(op)                                                                   \
  template <typename T, int N>                                                                      \
  METAL_FUNC vec<T, N> operator op(__packed<T, N> p, typename type_identity<T>::type s) { return vec<T, N>(p) op s; } \
  template <typename T, int N>                                                                      \
  METAL_FUNC vec<T, N> operator op(typename type_identity<T>::type s, __packed<T, N> p) { return s op vec<T, N>(p); }
__METAL_PACKED_SCALAR(+)
__METAL_PACKED_SCALAR(-)
__METAL_PACKED_SCALAR(*)
__METAL_PACKED_SCALAR(/)
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
__METAL_PACKED_TYPES(ulong)
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
__METAL_PACKED_TYPES_GLOBAL(long)
__METAL_PACKED_TYPES_GLOBAL(ulong)
__METAL_PACKED_TYPES_GLOBAL(half)
__METAL_PACKED_TYPES_GLOBAL(float)
__METAL_PACKED_TYPES_GLOBAL(bfloat)
