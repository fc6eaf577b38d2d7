// Address spaces and vectors for reading, in plain C++ for SYCL: whatever is in an address space converts to what is in
// none, so that legal Metal is legal C++, and overloads by address space stay apart.
#pragma once
#define __global __attribute__((opencl_global))
#define __constant __attribute__((opencl_global_device))
#define __local __attribute__((opencl_local))
#define __private
// Written for __local before a threadgroup variable, and for the address space of a member function.
#define __Local static __local
#define __Private &
#define __Global volatile &
#define __locaL &&
#define __Constant volatile &&
#define addrspace_cast reinterpret_cast
typedef _Float16 half;

namespace metal {
template <bool b, typename T> struct __when {};
template <typename T> struct __when<true, T> { using type = T; };
template <typename A> constexpr bool __is_number = __is_arithmetic(A) || __is_enum(A) || __is_same(A, half);
}  // namespace metal

// clang converts no half to bfloat, Metal does.
struct bfloat {
  unsigned short bits;
  bfloat() = default;
  template <typename A, typename = typename metal::__when<metal::__is_number<A>, A>::type> constexpr bfloat(A) : bits(0) {}
  template <typename A, typename metal::__when<__is_same(A, float), int>::type = 0> constexpr operator A() const { return 0; }
  template <typename A, typename metal::__when<metal::__is_number<A> && !__is_same(A, float), int>::type = 0>
  explicit constexpr operator A() const { return A(0); }
};
namespace metal {
template <> constexpr bool __is_number<bfloat> = true;
template <typename A> using __beside_bfloat = typename __when<__is_integral(A), bfloat>::type;
}  // namespace metal
#define __METAL_BFLOAT_OPERATOR(op)                                                                     \
  constexpr bfloat operator op(bfloat, bfloat) { return 0; }                                            \
  constexpr float operator op(bfloat, float) { return 0; }                                              \
  constexpr float operator op(float, bfloat) { return 0; }                                              \
  template <typename A> constexpr metal::__beside_bfloat<A> operator op(bfloat, A) { return 0; }        \
  template <typename A> constexpr metal::__beside_bfloat<A> operator op(A, bfloat) { return 0; }        \
  template <typename A> constexpr bfloat& operator op##=(bfloat& a, A) { return a; }
__METAL_BFLOAT_OPERATOR(+)
__METAL_BFLOAT_OPERATOR(-)
__METAL_BFLOAT_OPERATOR(*)
__METAL_BFLOAT_OPERATOR(/)
constexpr bfloat operator-(bfloat a) { return a; }
constexpr bfloat operator+(bfloat a) { return a; }
constexpr bfloat operator""bf(long double) { return 0; }
constexpr bfloat operator""BF(long double) { return 0; }
constexpr half operator""h(long double x) { return half(x); }
constexpr half operator""H(long double x) { return half(x); }
template <typename T> constexpr bool is_function_constant_defined(const T&) { return true; }
#include <metal_simulator/vectors.h>
