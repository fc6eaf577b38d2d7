// Address spaces and vectors for reading, in plain C++ for SYCL: whatever is in an address space converts to what is in
// none, so that legal Metal is legal C++, and overloads by address space stay apart.
#pragma once
#define __global __attribute__((opencl_global))
#define __constant __attribute__((opencl_global_device))
#define __local __attribute__((opencl_local))
#define __private
#define __Local static __local  // written for __local before a threadgroup variable
#define __Given template <>     // and for the word that begins an explicit instantiation
#define addrspace_cast reinterpret_cast
template <typename T> using __Cast = T;  // and for a reinterpret_cast that leaves an address space out
typedef _Float16 half;

namespace metal {
template <bool b, typename T> struct __when {};
template <typename T> struct __when<true, T> { using type = T; };
template <typename A> constexpr bool __is_number = __is_arithmetic(A) || __is_enum(A) || __is_same(A, half);
template <typename A, typename T> using __when_number = typename __when<__is_number<A>, T>::type;
}  // namespace metal

struct bfloat;
namespace metal {
template <typename A> using __when_other = typename __when<__is_number<A> && !__is_same(A, bfloat), A&>::type;
template <> constexpr bool __is_number<bfloat> = true;
template <typename A> struct __beside_bfloat : __when<__is_number<A>, float> {};
template <> struct __beside_bfloat<bool> : __when<true, bfloat> {};
template <> struct __beside_bfloat<int> : __when<true, bfloat> {};
template <> struct __beside_bfloat<unsigned> : __when<true, bfloat> {};
}  // namespace metal
#define __METAL_BFLOAT_OPERATOR(op)                                                                                      \
  friend constexpr bfloat operator op(bfloat a, bfloat b) { return float(a) op float(b); }                                                      \
  template <typename A> friend constexpr typename metal::__beside_bfloat<A>::type operator op(bfloat a, A b) { return float(a) op float(b); }   \
  template <typename A> friend constexpr typename metal::__beside_bfloat<A>::type operator op(A a, bfloat b) { return float(a) op float(b); }   \
  template <typename A> friend constexpr bfloat& operator op##=(bfloat& a, A b) { return a = a op bfloat(b); }                              \
  template <typename A> friend constexpr metal::__when_other<A> operator op##=(A& a, bfloat b) { return a = A(a op float(b)); }
#define __METAL_BFLOAT_COMPARISON(op)                                                                                    \
  friend constexpr bool operator op(bfloat a, bfloat b) { return float(a) op float(b); }                                                    \
  template <typename A> friend constexpr metal::__when_number<A, bool> operator op(bfloat a, A b) { return float(a) op float(b); }          \
  template <typename A> friend constexpr metal::__when_number<A, bool> operator op(A a, bfloat b) { return float(a) op float(b); }
// clang converts no half to bfloat, Metal does.
struct bfloat {
  unsigned short bits;
  bfloat() = default;
  template <typename A, typename = metal::__when_number<A, A>> constexpr bfloat(A a) : bits(__rounded(float(a))) {}
  template <typename A, typename metal::__when<metal::__is_number<A> && !__is_same(A, bfloat), int>::type = 0>
  constexpr operator A() const {
    return A(__builtin_bit_cast(float, unsigned(bits) << 16));
  }
  static constexpr unsigned short __rounded(float x) {
    unsigned word = __builtin_bit_cast(unsigned, x);
    return (word + 0x7fff + (word >> 16 & 1)) >> 16;
  }
  // clang-format off
  __METAL_BFLOAT_OPERATOR(+) __METAL_BFLOAT_OPERATOR(-) __METAL_BFLOAT_OPERATOR(*) __METAL_BFLOAT_OPERATOR(/)
  __METAL_BFLOAT_COMPARISON(<) __METAL_BFLOAT_COMPARISON(>) __METAL_BFLOAT_COMPARISON(<=)
  __METAL_BFLOAT_COMPARISON(>=) __METAL_BFLOAT_COMPARISON(==) __METAL_BFLOAT_COMPARISON(!=)
      // clang-format on
      constexpr bfloat operator-() const {
    return -float(*this);
  }
  constexpr bfloat operator+() const { return *this; }
  constexpr bfloat& operator++() { return *this; }
  constexpr bfloat operator++(int) { return *this; }
  constexpr bfloat& operator--() { return *this; }
  constexpr bfloat operator--(int) { return *this; }
};
constexpr bfloat operator""_b(long double x) { return float(x); }
// In front of the bracket that closes a constructor's parameters: what says that it constructs in an address space.
struct _G {};
struct _L {};
struct _C {};
constexpr half operator""h(long double x) { return half(x); }
constexpr half operator"" H(long double x) { return half(x); }
template <typename T> constexpr bool is_function_constant_defined(const T&) { return true; }
#include <metal_simulator/vectors.h>
