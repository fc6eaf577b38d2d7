// Integer functions. Overloads are per exact type, so mixed arguments are ambiguous, as they are to Apple's compiler.
#pragma once
#include <metal_simulator/each.h>
namespace metal {
typedef signed _BitInt(128) __wide_long;
typedef unsigned _BitInt(128) __wide_ulong;
#define __METAL_BITS(T, N)                                                                          \
  METAL_FUNC T##N extract_bits(T##N x, uint offset, uint bits) {                                   \
    for (int i = 0; i < N; i++) x[i] = extract_bits(x[i], offset, bits);                           \
    return x;                                                                                      \
  }                                                                                                \
  METAL_FUNC T##N insert_bits(T##N base, T##N insert, uint offset, uint bits) {                    \
    for (int i = 0; i < N; i++) base[i] = insert_bits(base[i], insert[i], offset, bits);           \
    return base;                                                                                   \
  }
#define __METAL_INTEGER(T, U, W)                                                                   \
  METAL_FUNC constexpr T min(T a, T b) { return a < b ? a : b; }                                   \
  METAL_FUNC constexpr T max(T a, T b) { return a > b ? a : b; }                                   \
  METAL_FUNC constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }              \
  METAL_FUNC constexpr T min3(T a, T b, T c) { return min(a, min(b, c)); }                         \
  METAL_FUNC constexpr T max3(T a, T b, T c) { return max(a, max(b, c)); }                         \
  METAL_FUNC constexpr T median3(T a, T b, T c) { return max(min(a, b), min(max(a, b), c)); }      \
  METAL_FUNC constexpr T clz(T x) { return x == 0 ? T(sizeof(T) * 8) : T(__builtin_clzl(ulong(U(x))) - (64 - int(sizeof(T)) * 8)); } \
  METAL_FUNC constexpr T ctz(T x) { return x == 0 ? T(sizeof(T) * 8) : T(__builtin_ctzl(ulong(U(x)))); } \
  METAL_FUNC constexpr T popcount(T x) { return T(__builtin_popcountl(ulong(U(x)))); }             \
  METAL_FUNC constexpr T rotate(T x, T n) {                                                        \
    constexpr int bits = sizeof(T) * 8;                                                            \
    int left = int(n) & (bits - 1);                                                                \
    return left == 0 ? x : T(U(U(x) << left) | U(U(x) >> (bits - left)));                          \
  }                                                                                                \
  METAL_FUNC T reverse_bits(T x) {                                                                 \
    U r = 0;                                                                                       \
    for (int i = 0; i < int(sizeof(T)) * 8; i++) r |= U(U(U(x) >> i & 1) << (sizeof(T) * 8 - 1 - i)); \
    return T(r);                                                                                   \
  }                                                                                                \
  METAL_FUNC T extract_bits(T x, uint offset, uint bits) {                                         \
    if (bits == 0) return 0;                                                                       \
    int up = int(sizeof(T)) * 8 - int(offset + bits);                                              \
    return T(T(U(x) << up) >> (int(sizeof(T)) * 8 - int(bits)));                                   \
  }                                                                                                \
  METAL_FUNC T insert_bits(T base, T insert, uint offset, uint bits) {                             \
    U mask = bits >= sizeof(T) * 8 ? U(-1) : U(U((U(1) << bits) - 1) << offset);                   \
    return T((U(base) & U(~mask)) | (U(U(insert) << offset) & mask));                              \
  }                                                                                                \
  METAL_FUNC constexpr U absdiff(T a, T b) { return a > b ? U(U(a) - U(b)) : U(U(b) - U(a)); }     \
  METAL_FUNC constexpr T hadd(T a, T b) { return T((W(a) + W(b)) >> 1); }                          \
  METAL_FUNC constexpr T rhadd(T a, T b) { return T((W(a) + W(b) + 1) >> 1); }                     \
  METAL_FUNC constexpr T mulhi(T a, T b) { return T((W(a) * W(b)) >> (sizeof(T) * 8)); }           \
  METAL_FUNC constexpr T madhi(T a, T b, T c) { return T(mulhi(a, b) + c); }                       \
  METAL_FUNC T addsat(T a, T b) {                                                                  \
    T r;                                                                                           \
    if (!__builtin_add_overflow(a, b, &r)) return r;                                               \
    return a < T(0) ? T(U(1) << (sizeof(T) * 8 - 1)) : T(T(-1) < T(0) ? U(U(-1) >> 1) : U(-1));    \
  }                                                                                                \
  METAL_FUNC T subsat(T a, T b) {                                                                  \
    T r;                                                                                           \
    if (!__builtin_sub_overflow(a, b, &r)) return r;                                               \
    if (!(T(-1) < T(0))) return T(0);                                                              \
    return a < T(0) ? T(U(1) << (sizeof(T) * 8 - 1)) : T(U(-1) >> 1);                              \
  }                                                                                                \
  METAL_FUNC T madsat(T a, T b, T c) {                                                             \
    W r = W(a) * W(b) + W(c), most = W(T(-1) < T(0) ? U(U(-1) >> 1) : U(-1));                      \
    W least = T(-1) < T(0) ? -most - 1 : W(0);                                                     \
    return T(r > most ? most : (r < least ? least : r));                                           \
  }                                                                                                \
  __METAL_EACH2(min, T) __METAL_EACH2(max, T) __METAL_EACH3(clamp, T)                              \
  __METAL_EACH3(min3, T) __METAL_EACH3(max3, T) __METAL_EACH3(median3, T)                          \
  __METAL_EACH(clz, T) __METAL_EACH(ctz, T) __METAL_EACH(popcount, T) __METAL_EACH(reverse_bits, T) \
  __METAL_EACH2(rotate, T) __METAL_EACH2(addsat, T) __METAL_EACH2(subsat, T) __METAL_EACH2(mulhi, T) \
  __METAL_EACH2(hadd, T) __METAL_EACH2(rhadd, T) __METAL_EACH3(madsat, T) __METAL_EACH3(madhi, T) \
  __METAL_BITS(T, 2) __METAL_BITS(T, 3) __METAL_BITS(T, 4)
__METAL_INTEGER(char, uchar, int)
__METAL_INTEGER(uchar, uchar, int)
__METAL_INTEGER(short, ushort, int)
__METAL_INTEGER(ushort, ushort, uint)
__METAL_INTEGER(int, uint, long)
__METAL_INTEGER(uint, uint, ulong)
__METAL_INTEGER(long, ulong, __wide_long)
__METAL_INTEGER(ulong, ulong, __wide_ulong)

#define __METAL_SIGNED(T)                                      \
  METAL_FUNC constexpr T abs(T x) { return x < 0 ? -x : x; }   \
  __METAL_EACH(abs, T)
__METAL_SIGNED(char)
__METAL_SIGNED(short)
__METAL_SIGNED(int)
__METAL_SIGNED(long)
#define __METAL_UNSIGNED(T)                                    \
  METAL_FUNC constexpr T abs(T x) { return x; }                \
  __METAL_EACH(abs, T)
__METAL_UNSIGNED(uchar)
__METAL_UNSIGNED(ushort)
__METAL_UNSIGNED(uint)
__METAL_UNSIGNED(ulong)
METAL_FUNC int mul24(int a, int b) { return a * b; }
METAL_FUNC uint mul24(uint a, uint b) { return a * b; }
METAL_FUNC int mad24(int a, int b, int c) { return a * b + c; }
METAL_FUNC uint mad24(uint a, uint b, uint c) { return a * b + c; }
// clang-format off
__METAL_EACH2(mul24, int) __METAL_EACH2(mul24, uint) __METAL_EACH3(mad24, int) __METAL_EACH3(mad24, uint)
// clang-format on
#define __METAL_ABSDIFF(T, U)                                                                      \
  METAL_FUNC U##2 absdiff(T##2 a, T##2 b) { return U##2{absdiff(a.x, b.x), absdiff(a.y, b.y)}; }   \
  METAL_FUNC U##3 absdiff(T##3 a, T##3 b) { return U##3{absdiff(a.x, b.x), absdiff(a.y, b.y), absdiff(a.z, b.z)}; } \
  METAL_FUNC U##4 absdiff(T##4 a, T##4 b) {                                                        \
    return U##4{absdiff(a.x, b.x), absdiff(a.y, b.y), absdiff(a.z, b.z), absdiff(a.w, b.w)};       \
  }
// clang-format off
__METAL_ABSDIFF(char, uchar) __METAL_ABSDIFF(uchar, uchar) __METAL_ABSDIFF(short, ushort) __METAL_ABSDIFF(ushort, ushort)
__METAL_ABSDIFF(int, uint) __METAL_ABSDIFF(uint, uint) __METAL_ABSDIFF(long, ulong) __METAL_ABSDIFF(ulong, ulong)
// clang-format on
__METAL_SPREAD_ALL(int)
__METAL_SPREAD_ALL(uint)
__METAL_SPREAD_ALL(short)
__METAL_SPREAD_ALL(ushort)
__METAL_SPREAD_ALL(char)
__METAL_SPREAD_ALL(uchar)
__METAL_SPREAD_ALL(long)
__METAL_SPREAD_ALL(ulong)
}  // namespace metal
