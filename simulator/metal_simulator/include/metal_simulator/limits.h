// numeric_limits.
#pragma once
namespace metal {
template <typename T> struct _numeric_limits_impl { static constexpr __constant bool is_specialized = false; };
#define __METAL_INTEGER_LIMITS(T, least, most)                              \
  template <> struct _numeric_limits_impl<T> {                                    \
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
  template <> struct _numeric_limits_impl<T> {                                    \
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
template <typename T> struct numeric_limits : _numeric_limits_impl<T> {};
}  // namespace metal
