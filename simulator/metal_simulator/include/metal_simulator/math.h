// Floating-point functions for float, half and their vectors. On bfloat they take and give float, as in the specification.
#pragma once
#include <metal_simulator/each.h>
namespace metal {
// A function of float arguments in libm, for float and half; half results are rounded once.
#define __METAL_SCALAR1(f, e)                                                       \
  METAL_FUNC float f(float x) { return e; }                                         \
  METAL_FUNC half f(half h) { float x = h; return half(e); }
// Templates, so that a kernel may add overloads of its own for bfloat.
#define __METAL_BFLOAT1(f) template <typename T> METAL_FUNC __float_of_bfloat<T> f(T x) { return f(float(x)); }
#define __METAL_MATH1(f, e)                                                         \
  __METAL_SCALAR1(f, e) __METAL_BFLOAT1(f) __METAL_EACH(f, float) __METAL_EACH(f, half)
#define __METAL_SCALAR2(f, e)                                                       \
  METAL_FUNC float f(float x, float y) { return e; }                                \
  METAL_FUNC half f(half a, half b) { float x = a, y = b; return half(e); }
#define __METAL_BFLOAT2(f) template <typename T> METAL_FUNC __float_of_bfloat<T> f(T x, T y) { return f(float(x), float(y)); }
#define __METAL_MATH2(f, e)                                                         \
  __METAL_SCALAR2(f, e) __METAL_BFLOAT2(f) __METAL_EACH2(f, float) __METAL_EACH2(f, half)
#define __METAL_SCALAR3(f, e)                                                       \
  METAL_FUNC float f(float x, float y, float z) { return e; }                       \
  METAL_FUNC half f(half a, half b, half c) { float x = a, y = b, z = c; return half(e); }
#define __METAL_MATH3(f, e)                                                         \
  __METAL_SCALAR3(f, e)                                                             \
  template <typename T> METAL_FUNC __float_of_bfloat<T> f(T x, T y, T z) { return f(float(x), float(y), float(z)); } \
  __METAL_EACH3(f, float) __METAL_EACH3(f, half)

// Functions that exist plainly and, for float only, in namespaces fast and precise.
#define __METAL_FUNCTIONS                                                           \
  __METAL_TRANSCENDENTAL1(acos, __builtin_acosf(x))                                 \
  __METAL_TRANSCENDENTAL1(acosh, __builtin_acoshf(x))                               \
  __METAL_TRANSCENDENTAL1(asin, __builtin_asinf(x))                                 \
  __METAL_TRANSCENDENTAL1(asinh, __builtin_asinhf(x))                               \
  __METAL_TRANSCENDENTAL1(atan, __builtin_atanf(x))                                 \
  __METAL_TRANSCENDENTAL1(atanh, __builtin_atanhf(x))                               \
  __METAL_TRANSCENDENTAL1(cos, __builtin_cosf(x))                                   \
  __METAL_TRANSCENDENTAL1(cosh, __builtin_coshf(x))                                 \
  __METAL_TRANSCENDENTAL1(cospi, __builtin_cosf(x * M_PI_F))                        \
  __METAL_TRANSCENDENTAL1(exp, __builtin_expf(x))                                   \
  __METAL_TRANSCENDENTAL1(exp2, __builtin_exp2f(x))                                 \
  __METAL_TRANSCENDENTAL1(exp10, __builtin_exp2f(x * 3.32192809488736234787f))      \
  __METAL_TRANSCENDENTAL1(log, __builtin_logf(x))                                   \
  __METAL_TRANSCENDENTAL1(log2, __builtin_log2f(x))                                 \
  __METAL_TRANSCENDENTAL1(log10, __builtin_log10f(x))                               \
  __METAL_TRANSCENDENTAL1(rsqrt, 1.0f / __builtin_sqrtf(x))                         \
  __METAL_TRANSCENDENTAL1(sin, __builtin_sinf(x))                                   \
  __METAL_TRANSCENDENTAL1(sinh, __builtin_sinhf(x))                                 \
  __METAL_TRANSCENDENTAL1(sinpi, __builtin_sinf(x * M_PI_F))                        \
  __METAL_TRANSCENDENTAL1(sqrt, __builtin_sqrtf(x))                                 \
  __METAL_TRANSCENDENTAL1(tan, __builtin_tanf(x))                                   \
  __METAL_TRANSCENDENTAL1(tanh, __builtin_tanhf(x))                                 \
  __METAL_TRANSCENDENTAL1(tanpi, __builtin_tanf(x * M_PI_F))                        \
  __METAL_TRANSCENDENTAL1(ceil, __builtin_ceilf(x))                                 \
  __METAL_TRANSCENDENTAL1(floor, __builtin_floorf(x))                               \
  __METAL_TRANSCENDENTAL1(rint, __builtin_rintf(x))                                 \
  __METAL_TRANSCENDENTAL1(round, __builtin_roundf(x))                               \
  __METAL_TRANSCENDENTAL1(trunc, __builtin_truncf(x))                               \
  __METAL_TRANSCENDENTAL1(fabs, __builtin_fabsf(x))                                 \
  __METAL_TRANSCENDENTAL1(abs, __builtin_fabsf(x))                                  \
  __METAL_TRANSCENDENTAL1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f)) \
  __METAL_TRANSCENDENTAL2(atan2, __builtin_atan2f(x, y))                            \
  __METAL_TRANSCENDENTAL2(pow, __builtin_powf(x, y))                                \
  __METAL_TRANSCENDENTAL2(powr, x < 0 ? NAN : __builtin_powf(x, y))                 \
  __METAL_TRANSCENDENTAL2(fmod, __builtin_fmodf(x, y))                              \
  __METAL_TRANSCENDENTAL2(divide, x / y)                                            \
  __METAL_TRANSCENDENTAL2(fmin, __builtin_fminf(x, y))                              \
  __METAL_TRANSCENDENTAL2(fmax, __builtin_fmaxf(x, y))                              \
  __METAL_TRANSCENDENTAL2(min, __builtin_fminf(x, y))                               \
  __METAL_TRANSCENDENTAL2(max, __builtin_fmaxf(x, y))                               \
  __METAL_TRANSCENDENTAL2(fdim, __builtin_fdimf(x, y))                              \
  __METAL_TRANSCENDENTAL2(copysign, __builtin_copysignf(x, y))                      \
  __METAL_TRANSCENDENTAL3(fma, __builtin_fmaf(x, y, z))                             \
  __METAL_TRANSCENDENTAL3(clamp, __builtin_fminf(__builtin_fmaxf(x, y), z))         \
  __METAL_TRANSCENDENTAL3(min3, __builtin_fminf(x, __builtin_fminf(y, z)))          \
  __METAL_TRANSCENDENTAL3(max3, __builtin_fmaxf(x, __builtin_fmaxf(y, z)))          \
  __METAL_TRANSCENDENTAL3(fmin3, __builtin_fminf(x, __builtin_fminf(y, z)))         \
  __METAL_TRANSCENDENTAL3(fmax3, __builtin_fmaxf(x, __builtin_fmaxf(y, z)))         \
  __METAL_TRANSCENDENTAL3(median3, __median(x, y, z))                               \
  __METAL_TRANSCENDENTAL3(fmedian3, __median(x, y, z))

METAL_FUNC float __median(float x, float y, float z) {
  return __builtin_fmaxf(__builtin_fminf(x, y), __builtin_fminf(__builtin_fmaxf(x, y), z));
}
METAL_FUNC float __smoothstep(float low, float high, float x) {
  float t = __builtin_fminf(__builtin_fmaxf((x - low) / (high - low), 0.0f), 1.0f);
  return t * t * (3.0f - 2.0f * t);
}

#define __METAL_TRANSCENDENTAL1 __METAL_MATH1
#define __METAL_TRANSCENDENTAL2 __METAL_MATH2
#define __METAL_TRANSCENDENTAL3 __METAL_MATH3
__METAL_FUNCTIONS
__METAL_MATH1(sign, x > 0 ? 1.0f : (x < 0 ? -1.0f : (x == x ? x : 0.0f)))
__METAL_MATH2(step, y < x ? 0.0f : 1.0f)
__METAL_MATH3(mix, x + (y - x) * z)
__METAL_MATH3(smoothstep, __smoothstep(x, y, z))
METAL_FUNC float nextafter(float x, float y) { return __builtin_nextafterf(x, y); }
METAL_FUNC half nextafter(half x, half y) {
  if (!(x < y || x > y)) return x == y ? y : x + y;  // NaN
  if (x == half(0)) return y > x ? as_type<half>(ushort(1)) : as_type<half>(ushort(0x8001));
  return as_type<half>(ushort(as_type<ushort>(x) + ((x < y) == (x > half(0)) ? 1 : -1)));
}
// clang-format off
__METAL_BFLOAT2(nextafter) __METAL_EACH2(nextafter, float) __METAL_EACH2(nextafter, half)
// clang-format on
// Below 1, whatever rounding does: -1e-9 is 1 - 1e-9 above the next integer.
METAL_FUNC float fract(float x) {
  float r = x - __builtin_floorf(x);
  return r < 1.0f || r != r ? r : 0x1.fffffep-1f;
}
METAL_FUNC half fract(half x) {
  half r = half(float(x) - __builtin_floorf(float(x)));
  return r < half(1) || r != r ? r : half(0x1.ffcp-1f);
}
// clang-format off
__METAL_BFLOAT1(fract) __METAL_EACH(fract, float) __METAL_EACH(fract, half)
// clang-format on
#undef __METAL_TRANSCENDENTAL1
#undef __METAL_TRANSCENDENTAL2
#undef __METAL_TRANSCENDENTAL3
#define __METAL_TRANSCENDENTAL1(f, e) \
  METAL_FUNC float f(float x) { return e; } __METAL_BFLOAT1(f) __METAL_EACH(f, float)
#define __METAL_TRANSCENDENTAL2(f, e) \
  METAL_FUNC float f(float x, float y) { return e; } __METAL_BFLOAT2(f) __METAL_EACH2(f, float)
#define __METAL_TRANSCENDENTAL3(f, e) METAL_FUNC float f(float x, float y, float z) { return e; } __METAL_EACH3(f, float)
namespace fast {
__METAL_FUNCTIONS
}
namespace precise {
__METAL_FUNCTIONS
}
#undef __METAL_TRANSCENDENTAL1
#undef __METAL_TRANSCENDENTAL2
#undef __METAL_TRANSCENDENTAL3

#define __METAL_PARTS(T, N)                                                                        \
  METAL_FUNC int##N ilogb(T##N x) {                                                                \
    int##N exponents;                                                                              \
    for (int i = 0; i < N; i++) exponents[i] = ilogb(x[i]);                                        \
    return exponents;                                                                              \
  }                                                                                                \
  METAL_FUNC T##N ldexp(T##N x, int##N k) {                                                        \
    for (int i = 0; i < N; i++) x[i] = ldexp(x[i], k[i]);                                          \
    return x;                                                                                      \
  }                                                                                                \
  METAL_FUNC T##N frexp(T##N x, thread int##N& exponents) {                                        \
    for (int i = 0; i < N; i++) { int e; x[i] = frexp(x[i], e); exponents[i] = e; }                \
    return x;                                                                                      \
  }                                                                                                \
  METAL_FUNC T##N modf(T##N x, thread T##N& whole) {                                               \
    for (int i = 0; i < N; i++) { T w; x[i] = modf(x[i], w); whole[i] = w; }                       \
    return x;                                                                                      \
  }                                                                                                \
  METAL_FUNC T##N sincos(T##N x, thread T##N& cosines) {                                           \
    for (int i = 0; i < N; i++) { T c; x[i] = sincos(x[i], c); cosines[i] = c; }                   \
    return x;                                                                                      \
  }
METAL_FUNC float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }
METAL_FUNC half ldexp(half x, int k) { return half(__builtin_ldexpf(float(x), k)); }
METAL_FUNC float frexp(float x, thread int& exponent) { return __builtin_frexpf(x, &exponent); }
METAL_FUNC int ilogb(float x) { return __builtin_ilogbf(x); }
METAL_FUNC float modf(float x, thread float& whole) {
  whole = __builtin_truncf(x);
  return __builtin_copysignf(__builtin_isinf(x) ? 0.0f : x - whole, x);
}
METAL_FUNC float sincos(float x, thread float& cosine) {
  cosine = __builtin_cosf(x);
  return __builtin_sinf(x);
}
METAL_FUNC half frexp(half x, thread int& exponent) { return half(__builtin_frexpf(float(x), &exponent)); }
METAL_FUNC int ilogb(half x) { return __builtin_ilogbf(float(x)); }
METAL_FUNC half modf(half x, thread half& whole) {
  float w;
  half r = half(modf(float(x), w));
  whole = half(w);
  return r;
}
METAL_FUNC half sincos(half x, thread half& cosine) {
  cosine = half(__builtin_cosf(x));
  return half(__builtin_sinf(x));
}
// clang-format off
__METAL_PARTS(float, 2) __METAL_PARTS(float, 3) __METAL_PARTS(float, 4)
__METAL_PARTS(half, 2) __METAL_PARTS(half, 3) __METAL_PARTS(half, 4)
// clang-format on
#define __METAL_SINGLE                                                                             \
  METAL_FUNC float fract(float x) { return metal::fract(x); }                                      \
  METAL_FUNC float nextafter(float x, float y) { return metal::nextafter(x, y); }                  \
  METAL_FUNC int ilogb(float x) { return metal::ilogb(x); }                                        \
  METAL_FUNC float ldexp(float x, int k) { return metal::ldexp(x, k); }                            \
  METAL_FUNC float frexp(float x, thread int& exponent) { return metal::frexp(x, exponent); }      \
  METAL_FUNC float modf(float x, thread float& whole) { return metal::modf(x, whole); }            \
  METAL_FUNC float sincos(float x, thread float& cosine) { return metal::sincos(x, cosine); }      \
  __METAL_BFLOAT1(fract) __METAL_EACH(fract, float) __METAL_EACH2(nextafter, float)                                       \
  __METAL_PARTS(float, 2) __METAL_PARTS(float, 3) __METAL_PARTS(float, 4)
namespace fast {
__METAL_SINGLE
}
namespace precise {
__METAL_SINGLE
}
#undef __METAL_SINGLE

// Scalars spread over vectors: clamp(v, 0.0f, 1.0f), mix(a, b, t), min(v, s).
__METAL_SPREAD_ALL(float)
__METAL_SPREAD_ALL(half)
#define __METAL_MIX(T, N)                                                                          \
  METAL_FUNC T##N mix(T##N a, T##N b, T t) { return mix(a, b, (T##N)(t)); }                        \
  METAL_FUNC T##N step(T edge, T##N x) { return step((T##N)(edge), x); }                           \
  METAL_FUNC T##N smoothstep(T low, T high, T##N x) { return smoothstep((T##N)(low), (T##N)(high), x); }
// clang-format off
__METAL_MIX(float, 2) __METAL_MIX(float, 3) __METAL_MIX(float, 4)
__METAL_MIX(half, 2) __METAL_MIX(half, 3) __METAL_MIX(half, 4)
// clang-format on
}  // namespace metal
