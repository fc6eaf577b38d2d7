// numeric_limits.
#pragma once
namespace metal {
template <typename T> struct __no_limits {
  static constexpr __constant bool is_specialized = false, is_integer = false, is_signed = false, has_infinity = false;
  static constexpr __constant int digits = 0;
  static constexpr T min() { return T(); }
  static constexpr T max() { return T(); }
  static constexpr T lowest() { return T(); }
  static constexpr T epsilon() { return T(); }
  static constexpr T infinity() { return T(); }
  static constexpr T quiet_NaN() { return T(); }
};
template <typename T> struct _numeric_limits_impl : __no_limits<T> {};
#define __METAL_INTEGER_LIMITS(T, least, most)                              \
  template <> struct _numeric_limits_impl<T> : __no_limits<T> {           \
    static constexpr __constant bool is_specialized = true;                 \
    static constexpr __constant bool is_integer = true;                     \
    static constexpr __constant bool is_signed = T(-1) < T(1);              \
    static constexpr __constant int digits = sizeof(T) * 8 - is_signed;     \
    static constexpr T max() { return T(most); }                            \
    static constexpr T min() { return T(least); }                           \
    static constexpr T lowest() { return T(least); }                        \
  };
__METAL_INTEGER_LIMITS(char, -128, 127)
__METAL_INTEGER_LIMITS(uchar, 0, 255)
__METAL_INTEGER_LIMITS(short, -32768, 32767)
__METAL_INTEGER_LIMITS(ushort, 0, 65535)
__METAL_INTEGER_LIMITS(int, INT_MIN, INT_MAX)
__METAL_INTEGER_LIMITS(uint, 0, UINT_MAX)
__METAL_INTEGER_LIMITS(long, LONG_MIN, LONG_MAX)
__METAL_INTEGER_LIMITS(ulong, 0, ULONG_MAX)
#define __METAL_FLOAT_LIMITS(T, most, least, step, bits)                    \
  template <> struct _numeric_limits_impl<T> : __no_limits<T> {           \
    static constexpr __constant bool is_specialized = true;                 \
    static constexpr __constant bool is_integer = false;                    \
    static constexpr __constant bool is_signed = true;                      \
    static constexpr __constant bool has_infinity = true;                   \
    static constexpr __constant int digits = bits;                          \
    static constexpr T max() { return T(most); }                            \
    static constexpr T lowest() { return T(-(most)); }                      \
    static constexpr T min() { return T(least); }                           \
    static constexpr T epsilon() { return T(step); }                        \
    static constexpr T infinity() { return T(__builtin_inff()); }           \
    static constexpr T quiet_NaN() { return T(__builtin_nanf("")); }        \
  };
__METAL_FLOAT_LIMITS(half, 65504.0f, 6.103515625e-05f, 9.765625e-04f, 11)
__METAL_FLOAT_LIMITS(float, FLT_MAX, FLT_MIN, FLT_EPSILON, 24)
__METAL_FLOAT_LIMITS(bfloat, 3.38953138925153547590e+38f, FLT_MIN, 7.8125e-03f, 8)
template <typename T> struct numeric_limits : _numeric_limits_impl<remove_cv_t<T>> {};
}  // namespace metal
#define HUGE_VALH half(__builtin_inff())
#define M_LOG10E_H 0.43429448190325182765h
#define M_PI_2_H 1.57079632679489661923h
#define M_PI_4_H 0.78539816339744830962h
#define M_1_PI_H 0.31830988618379067154h
#define M_2_PI_H 0.63661977236758134308h
#define M_2_SQRTPI_H 1.12837916709551257390h
#define M_SQRT1_2_H 0.70710678118654752440h
#define MAXBFLOAT bfloat(3.38953138925153547590e+38f)
#define HUGE_VALBF bfloat(__builtin_inff())
#define M_E_BF bfloat(M_E_F)
#define M_LOG2E_BF bfloat(M_LOG2E_F)
#define M_LOG10E_BF bfloat(M_LOG10E_F)
#define M_LN2_BF bfloat(M_LN2_F)
#define M_LN10_BF bfloat(M_LN10_F)
#define M_PI_BF bfloat(M_PI_F)
#define M_PI_2_BF bfloat(M_PI_2_F)
#define M_PI_4_BF bfloat(M_PI_4_F)
#define M_1_PI_BF bfloat(M_1_PI_F)
#define M_2_PI_BF bfloat(M_2_PI_F)
#define M_2_SQRTPI_BF bfloat(M_2_SQRTPI_F)
#define M_SQRT2_BF bfloat(M_SQRT2_F)
#define M_SQRT1_2_BF bfloat(M_SQRT1_2_F)
