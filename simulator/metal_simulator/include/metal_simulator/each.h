// A function of scalars, of each component of vectors; and scalars spread over vectors: clamp(v, 0.0f, 1.0f), min(v, s).
#pragma once
#define __METAL_EACH(f, T)                                                                        \
  METAL_FUNC T##2 f(T##2 a) { return T##2{f(a.x), f(a.y)}; }                                      \
  METAL_FUNC T##3 f(T##3 a) { return T##3{f(a.x), f(a.y), f(a.z)}; }                              \
  METAL_FUNC T##4 f(T##4 a) { return T##4{f(a.x), f(a.y), f(a.z), f(a.w)}; }
#define __METAL_EACH2(f, T)                                                                       \
  METAL_FUNC T##2 f(T##2 a, T##2 b) { return T##2{f(a.x, b.x), f(a.y, b.y)}; }                    \
  METAL_FUNC T##3 f(T##3 a, T##3 b) { return T##3{f(a.x, b.x), f(a.y, b.y), f(a.z, b.z)}; }       \
  METAL_FUNC T##4 f(T##4 a, T##4 b) { return T##4{f(a.x, b.x), f(a.y, b.y), f(a.z, b.z), f(a.w, b.w)}; }
#define __METAL_EACH3(f, T)                                                                       \
  METAL_FUNC T##2 f(T##2 a, T##2 b, T##2 c) { return T##2{f(a.x, b.x, c.x), f(a.y, b.y, c.y)}; }  \
  METAL_FUNC T##3 f(T##3 a, T##3 b, T##3 c) {                                                     \
    return T##3{f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z)};                            \
  }                                                                                               \
  METAL_FUNC T##4 f(T##4 a, T##4 b, T##4 c) {                                                     \
    return T##4{f(a.x, b.x, c.x), f(a.y, b.y, c.y), f(a.z, b.z, c.z), f(a.w, b.w, c.w)};          \
  }
#define __METAL_SPREAD(T, N)                                                                       \
  METAL_FUNC T##N clamp(T##N x, T low, T high) { return clamp(x, (T##N)(low), (T##N)(high)); }     \
  METAL_FUNC T##N min(T x, T##N y) { return min((T##N)(x), y); }                                   \
  METAL_FUNC T##N max(T x, T##N y) { return max((T##N)(x), y); }                                   \
  METAL_FUNC T##N min(T##N x, T y) { return min(x, (T##N)(y)); }                                   \
  METAL_FUNC T##N max(T##N x, T y) { return max(x, (T##N)(y)); }
#define __METAL_SPREAD_ALL(T) __METAL_SPREAD(T, 2) __METAL_SPREAD(T, 3) __METAL_SPREAD(T, 4)
