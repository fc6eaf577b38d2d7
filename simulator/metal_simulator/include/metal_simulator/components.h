// Components of the vectors that are classes, those of bool and packed ones: v[i], v.x, v.xy.
#pragma once
#include <metal_simulator/swizzles.h>
namespace metal {
#define __METAL_COMPONENT(x, r, T, i)
#define __METAL_SWIZZLE(xs, rs, T, n, ...)                                                                  \
  METAL_FUNC constexpr vec<T, n> __get_##xs() const { return {__METAL_COMPONENTS_##n(__VA_ARGS__)}; }        \
  METAL_FUNC void __set_##xs(vec<T, n> v) {                                                                 \
    constexpr int at[] = {__VA_ARGS__};                                                                     \
    for (int i = 0; i < n; i++) component[at[i]] = v[i];                                                    \
  }                                                                                                         \
  __declspec(property(get = __get_##xs, put = __set_##xs)) vec<T, n> xs, rs;
#define __METAL_COMPONENTS_2(a, b) component[a], component[b]
#define __METAL_COMPONENTS_3(a, b, c) component[a], component[b], component[c]
#define __METAL_COMPONENTS_4(a, b, c, d) component[a], component[b], component[c], component[d]
template <typename T, int N> struct __components { T component[N]; };  // of eight
// clang-format off
template <typename T> struct __components<T, 2> {
  union { T component[2]; struct { T x, y; }; struct { T r, g; }; };
  __METAL_SWIZZLES_2(T)
};
template <typename T> struct __components<T, 3> {
  union { T component[3]; struct { T x, y, z; }; struct { T r, g, b; }; };
  __METAL_SWIZZLES_3(T)
};
template <typename T> struct __components<T, 4> {
  union { T component[4]; struct { T x, y, z, w; }; struct { T r, g, b, a; }; };
  __METAL_SWIZZLES_4(T)
};
// clang-format on
}  // namespace metal
