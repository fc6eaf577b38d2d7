// Components of a class of vectors by name: v.x, v.xy, v.bgr, as properties with a getter and a setter.
// __METAL_SWIZZLES_N(T) makes __METAL_COMPONENT(x, r, T, i) of each, __METAL_SWIZZLE(xy, rg, T, n, i, j) of each part of n.
#pragma once
#define __METAL_FIRST_2(f, ...) f(x, r, 0, __VA_ARGS__) f(y, g, 1, __VA_ARGS__)
#define __METAL_FIRST_3(f, ...) __METAL_FIRST_2(f, __VA_ARGS__) f(z, b, 2, __VA_ARGS__)
#define __METAL_FIRST_4(f, ...) __METAL_FIRST_3(f, __VA_ARGS__) f(w, a, 3, __VA_ARGS__)
#define __METAL_SECOND_2(f, ...) f(x, r, 0, __VA_ARGS__) f(y, g, 1, __VA_ARGS__)
#define __METAL_SECOND_3(f, ...) __METAL_SECOND_2(f, __VA_ARGS__) f(z, b, 2, __VA_ARGS__)
#define __METAL_SECOND_4(f, ...) __METAL_SECOND_3(f, __VA_ARGS__) f(w, a, 3, __VA_ARGS__)
#define __METAL_THIRD_2(f, ...) f(x, r, 0, __VA_ARGS__) f(y, g, 1, __VA_ARGS__)
#define __METAL_THIRD_3(f, ...) __METAL_THIRD_2(f, __VA_ARGS__) f(z, b, 2, __VA_ARGS__)
#define __METAL_THIRD_4(f, ...) __METAL_THIRD_3(f, __VA_ARGS__) f(w, a, 3, __VA_ARGS__)
#define __METAL_FOURTH_2(f, ...) f(x, r, 0, __VA_ARGS__) f(y, g, 1, __VA_ARGS__)
#define __METAL_FOURTH_3(f, ...) __METAL_FOURTH_2(f, __VA_ARGS__) f(z, b, 2, __VA_ARGS__)
#define __METAL_FOURTH_4(f, ...) __METAL_FOURTH_3(f, __VA_ARGS__) f(w, a, 3, __VA_ARGS__)

#define __METAL_SWIZZLES_2(T) __METAL_FIRST_2(__METAL_PAIRS, T, 2)
#define __METAL_SWIZZLES_3(T) __METAL_FIRST_3(__METAL_PAIRS, T, 3)
#define __METAL_SWIZZLES_4(T) __METAL_FIRST_4(__METAL_PAIRS, T, 4)
#define __METAL_PAIRS(x1, r1, i1, T, N)                                                                  \
  __METAL_COMPONENT(x1, r1, T, i1)                                                                       \
  __METAL_SECOND_##N(__METAL_TRIPLES, x1, r1, i1, T, N)
#define __METAL_TRIPLES(x2, r2, i2, x1, r1, i1, T, N) \
  __METAL_SWIZZLE(x1##x2, r1##r2, T, 2, i1, i2)        \
  __METAL_THIRD_##N(__METAL_QUADRUPLES, x1##x2, r1##r2, i1, i2, T, N)
#define __METAL_QUADRUPLES(x3, r3, i3, xs, rs, i1, i2, T, N) \
  __METAL_SWIZZLE(xs##x3, rs##r3, T, 3, i1, i2, i3)           \
  __METAL_FOURTH_##N(__METAL_QUADRUPLE, xs##x3, rs##r3, i1, i2, i3, T)
#define __METAL_QUADRUPLE(x4, r4, i4, xs, rs, i1, i2, i3, T) __METAL_SWIZZLE(xs##x4, rs##r4, T, 4, i1, i2, i3, i4)
