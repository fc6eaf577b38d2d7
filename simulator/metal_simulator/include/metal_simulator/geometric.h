// Geometric functions on vectors of float and half.
#pragma once
namespace metal {
#define __METAL_GEOMETRIC(T, N)                                                                  \
  METAL_FUNC T dot(T##N a, T##N b) { T r = a[0] * b[0]; for (int i = 1; i < N; i++) r += a[i] * b[i]; return r; } \
  METAL_FUNC T length_squared(T##N a) { return dot(a, a); }                                      \
  METAL_FUNC T length(T##N a) { return sqrt(dot(a, a)); }                                        \
  METAL_FUNC T distance_squared(T##N a, T##N b) { return dot(a - b, a - b); }                    \
  METAL_FUNC T distance(T##N a, T##N b) { return length(a - b); }                                \
  METAL_FUNC T##N normalize(T##N a) { return a * rsqrt(dot(a, a)); }                             \
  METAL_FUNC T##N reflect(T##N i, T##N n) { n = normalize(n); return i - n * (T(2) * dot(n, i)); } \
  METAL_FUNC T##N refract(T##N i, T##N n, T eta) {                                               \
    T d = dot(n, i), k = T(1) - eta * eta * (T(1) - d * d);                                      \
    return k < T(0) ? T##N(0) : T##N(i * eta - n * (eta * d + sqrt(k)));                         \
  }                                                                                              \
  METAL_FUNC T##N faceforward(T##N n, T##N i, T##N r) { return dot(r, i) < T(0) ? n : -n; }
__METAL_GEOMETRIC(float, 2)
__METAL_GEOMETRIC(float, 3)
__METAL_GEOMETRIC(float, 4)
__METAL_GEOMETRIC(half, 2)
__METAL_GEOMETRIC(half, 3)
__METAL_GEOMETRIC(half, 4)
METAL_FUNC float3 cross(float3 a, float3 b) { return a.yzx * b.zxy - a.zxy * b.yzx; }
METAL_FUNC half3 cross(half3 a, half3 b) { return a.yzx * b.zxy - a.zxy * b.yzx; }
#define __METAL_SINGLE(N)                                                                         \
  METAL_FUNC float length(float##N a) { return metal::length(a); }                                \
  METAL_FUNC float distance(float##N a, float##N b) { return metal::distance(a, b); }             \
  METAL_FUNC float##N normalize(float##N a) { return metal::normalize(a); }
namespace fast {
__METAL_SINGLE(2) __METAL_SINGLE(3) __METAL_SINGLE(4)
}
namespace precise {
__METAL_SINGLE(2) __METAL_SINGLE(3) __METAL_SINGLE(4)
}
#undef __METAL_SINGLE
}  // namespace metal
