// Packed vectors: components with the alignment of one, convertible to and from the plain vectors.
#pragma once
#include <metal_simulator/components.h>
namespace metal {
template <typename T, int N>
struct __packed : __components<T, N> {
  __packed() = default;
  METAL_FUNC constexpr __packed(__vec<T, N> v) {
    for (int i = 0; i < N; i++) this->component[i] = v[i];
  }
  template <typename U>
  METAL_FUNC constexpr explicit __packed(__vec<U, N> v) : __packed(__construct<__vec<T, N>>(v)) {}
  METAL_FUNC constexpr explicit __packed(T all) {
    for (int i = 0; i < N; i++) this->component[i] = all;
  }
  template <typename A, typename B, typename... R>
  METAL_FUNC constexpr __packed(A a, B b, R... rest) : __packed(__construct<__vec<T, N>>(a, b, rest...)) {}
#define __METAL_PACKED_READ(space)                                                          \
  METAL_FUNC operator __vec<T, N>() const space {                                             \
    __vec<T, N> v;                                                                            \
    for (int i = 0; i < N; i++) v[i] = this->component[i];                                  \
    return v;                                                                               \
  }                                                                                         \
  METAL_FUNC const auto& operator[](int i) const space { return this->component[i]; }
  __METAL_PACKED_READ()
  __METAL_PACKED_READ(constant)
  METAL_FUNC auto& operator[](int i) { return this->component[i]; }
#define __METAL_PACKED_ASSIGN(op)                                                           \
  METAL_FUNC void operator op##=(__vec<T, N> v) { *this = __packed(__vec<T, N>(*this) op v); }  \
  METAL_FUNC void operator op##=(T s) { *this = __packed(__vec<T, N>(*this) op s); }
  __METAL_PACKED_ASSIGN(+)
  __METAL_PACKED_ASSIGN(-)
  __METAL_PACKED_ASSIGN(*)
  __METAL_PACKED_ASSIGN(/)
};
#define __METAL_UNPACK(space)                                                                       \
  template <typename T, typename S, int N>                                                          \
  METAL_FUNC T __construct(const space __packed<S, N>& p) { return __constructor<T>::make(__vec<S, N>(p)); } \
  template <typename T, typename S, int N>                                                          \
  METAL_FUNC T __convert(const space __packed<S, N>& p) { return __constructor<T>::make(__vec<S, N>(p)); }
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
    return __packed<T, N>(__construct<__vec<T, N>>(a...));
  }
};
#define __METAL_PACKED_BINARY(op)                                                                    \
  template <typename T, int N>                                                                      \
  METAL_FUNC auto operator op(__packed<T, N> a, __packed<T, N> b) { return __vec<T, N>(a) op __vec<T, N>(b); } \
  template <typename T, int N>                                                                      \
  METAL_FUNC auto operator op(__packed<T, N> a, typename type_identity<__vec<T, N>>::type b) { return __vec<T, N>(a) op b; } \
  template <typename T, int N>                                                                      \
  METAL_FUNC auto operator op(typename type_identity<__vec<T, N>>::type a, __packed<T, N> b) { return a op __vec<T, N>(b); }
// clang-format off
__METAL_PACKED_BINARY(+) __METAL_PACKED_BINARY(-) __METAL_PACKED_BINARY(*) __METAL_PACKED_BINARY(/)
__METAL_PACKED_BINARY(<) __METAL_PACKED_BINARY(>) __METAL_PACKED_BINARY(<=) __METAL_PACKED_BINARY(>=)
__METAL_PACKED_BINARY(==) __METAL_PACKED_BINARY(!=)
__METAL_PACKED_BINARY(%) __METAL_PACKED_BINARY(&) __METAL_PACKED_BINARY(|) __METAL_PACKED_BINARY(^)
__METAL_PACKED_BINARY(<<) __METAL_PACKED_BINARY(>>)
    // clang-format on
    template <typename T, int N> METAL_FUNC __vec<T, N> operator-(__packed<T, N> a) {
  return -__vec<T, N>(a);
}
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
