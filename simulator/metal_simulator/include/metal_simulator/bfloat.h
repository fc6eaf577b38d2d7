// Arithmetic on bfloat for clang 16, to which it is a type of storage: it converts to and from float, and no more.
// storage_bfloat.py puts these functions around what clang refuses; on other types, in templates, they change nothing.
#pragma once
namespace metal {
template <typename T, typename... A> METAL_FUNC constexpr T __construct(A... a);

// What construct.h casts to S.
#define __METAL_NUMBER(S, a) static_cast<S>(__through_float<S>(a))
template <typename S, typename A>
METAL_FUNC constexpr auto __through_float(A a) {
  constexpr bool to = __is_same(S, bfloat), of = __is_same(A, bfloat);
  static_assert(
      !(to && __is_same(A, half)) && !(of && __is_same(S, half)), "half and bfloat do not convert to each other");
  if constexpr (to != of) return float(a);
  else return a;
}

METAL_FUNC constexpr float __widened(bfloat x) { return float(x); }
template <int N> METAL_FUNC vec<float, N> __widened(vec<bfloat, N> v) {
  return __builtin_convertvector(v, vec<float, N>);
}
template <typename T> METAL_FUNC constexpr T __widened(T x) { return x; }

// A value of bfloat, or a vector of them, as an operand.
template <typename T> struct __bfloat_operand {
  T value;
  METAL_FUNC constexpr explicit operator bool() const { return float(value) != 0; }
};
METAL_FUNC constexpr __bfloat_operand<bfloat> __operand_of(bfloat x) { return {x}; }
template <int N> METAL_FUNC constexpr __bfloat_operand<vec<bfloat, N>> __operand_of(vec<bfloat, N> v) { return {v}; }
template <typename T> METAL_FUNC constexpr T __operand_of(T x) { return x; }
template <typename T, int N> struct __packed;
#define __METAL_PACKED_OPERAND(space) \
  template <int N> METAL_FUNC auto __operand_of(const space __packed<bfloat, N>& p) { return __operand_of(vec<bfloat, N>(p)); }
__METAL_PACKED_OPERAND(thread)
__METAL_PACKED_OPERAND(device)
__METAL_PACKED_OPERAND(threadgroup)
__METAL_PACKED_OPERAND(constant)

// The two operands in float, and the type of the result: bfloat beside bfloat and integers, float beside float; of a
// vector and a scalar the vector's. There is none for half, as in Metal.
template <typename A, typename B> struct __bfloat_pair {};
template <> struct __bfloat_pair<bfloat, bfloat> { using type = bfloat; };
template <> struct __bfloat_pair<bfloat, float> { using type = float; };
template <> struct __bfloat_pair<float, bfloat> { using type = float; };
template <int N> struct __bfloat_pair<vec<bfloat, N>, vec<bfloat, N>> { using type = vec<bfloat, N>; };
template <int N> struct __bfloat_pair<vec<float, N>, bfloat> { using type = vec<float, N>; };
template <int N> struct __bfloat_pair<bfloat, vec<float, N>> { using type = vec<float, N>; };
template <int N> struct __bfloat_pair<vec<bfloat, N>, float> { using type = vec<bfloat, N>; };
template <int N> struct __bfloat_pair<float, vec<bfloat, N>> { using type = vec<bfloat, N>; };
template <typename T> using __bfloat_scalar = conditional_t<__is_integral(T) || __is_enum(T), bfloat, T>;
template <int N> struct __bfloat_pair<vec<bfloat, N>, bfloat> { using type = vec<bfloat, N>; };
template <int N> struct __bfloat_pair<bfloat, vec<bfloat, N>> { using type = vec<bfloat, N>; };
template <typename A, typename B> using __bfloat_result =
    typename __bfloat_pair<__bfloat_scalar<A>, __bfloat_scalar<B>>::type;

template <typename R, typename T>  // the operand as it enters an operation of result R, in float
METAL_FUNC constexpr auto __in_float(T x) {
  using S = typename __is_vector<R>::scalar;
  if constexpr (__is_vector<R>::value && !__is_vector<T>::value) return __widened(__construct<R>(x));
  else if constexpr (__is_vector<T>::value) return __widened(x);
  else return __widened(S(float(x)));
}
METAL_FUNC constexpr bfloat __rounded(bfloat, float x) { return bfloat(x); }
METAL_FUNC constexpr float __rounded(float, float x) { return x; }
template <int N> METAL_FUNC vec<float, N> __rounded(vec<float, N>, vec<float, N> v) { return v; }
template <int N> METAL_FUNC vec<bfloat, N> __rounded(vec<bfloat, N>, vec<float, N> v) {
  return __builtin_convertvector(v, vec<bfloat, N>);
}
METAL_FUNC constexpr bool __compared(bool c) { return c; }
template <int N> METAL_FUNC vec<short, N> __compared(vec<int, N> v) {
  return __builtin_convertvector(v, vec<short, N>);
}

#define __METAL_BFLOAT_OPERATOR(op, result)                                                       \
  template <typename A, typename B, typename R = __bfloat_result<A, B>>                           \
  METAL_FUNC constexpr auto operator op(__bfloat_operand<A> a, __bfloat_operand<B> b) {           \
    return result(__in_float<R>(a.value) op __in_float<R>(b.value));                              \
  }                                                                                               \
  template <typename A, typename B, typename R = __bfloat_result<A, B>>                           \
  METAL_FUNC constexpr auto operator op(__bfloat_operand<A> a, B b) {                             \
    return result(__in_float<R>(a.value) op __in_float<R>(b));                                    \
  }                                                                                               \
  template <typename A, typename B, typename R = __bfloat_result<A, B>>                           \
  METAL_FUNC constexpr auto operator op(A a, __bfloat_operand<B> b) {                             \
    return result(__in_float<R>(a) op __in_float<R>(b.value));                                    \
  }
#define __METAL_BFLOAT_ROUNDED(x) __rounded(R(), x)
// clang-format off
__METAL_BFLOAT_OPERATOR(+, __METAL_BFLOAT_ROUNDED) __METAL_BFLOAT_OPERATOR(-, __METAL_BFLOAT_ROUNDED)
__METAL_BFLOAT_OPERATOR(*, __METAL_BFLOAT_ROUNDED) __METAL_BFLOAT_OPERATOR(/, __METAL_BFLOAT_ROUNDED)
__METAL_BFLOAT_OPERATOR(<, __compared) __METAL_BFLOAT_OPERATOR(>, __compared)
__METAL_BFLOAT_OPERATOR(<=, __compared) __METAL_BFLOAT_OPERATOR(>=, __compared)
__METAL_BFLOAT_OPERATOR(==, __compared) __METAL_BFLOAT_OPERATOR(!=, __compared)
// clang-format on
template <typename T> METAL_FUNC constexpr T operator-(__bfloat_operand<T> a) {
  return __rounded(T(), -__widened(a.value));
}
template <typename T> METAL_FUNC constexpr T operator+(__bfloat_operand<T> a) { return a.value; }

// a += b is a = __assigned<decltype(a)>(a + b), and where `a` must not be written twice __target(a) += b.
template <typename T, typename A>
METAL_FUNC constexpr auto __assigned(A a) {
  return __construct<__value_t<T>>(a);
}
template <typename T> struct __bfloat_target { T& target; };
template <typename T> METAL_FUNC __bfloat_target<T> __target(T& x) { return {x}; }
#define __METAL_BFLOAT_ASSIGN(op)                                                                 \
  template <typename T, typename A> METAL_FUNC T& operator op##=(__bfloat_target<T> t, A a) {     \
    return t.target = __assigned<T>(__operand_of(t.target) op __operand_of(a));                   \
  }
// clang-format off
__METAL_BFLOAT_ASSIGN(+) __METAL_BFLOAT_ASSIGN(-) __METAL_BFLOAT_ASSIGN(*) __METAL_BFLOAT_ASSIGN(/)
// clang-format on

// A value that becomes what it is needed as: integers and bfloat convert to each other.
template <typename T> struct __bfloat_source {
  T value;
  template <typename U> METAL_FUNC constexpr operator U() const { return __construct<U>(value); }
};
template <typename T> METAL_FUNC constexpr __bfloat_source<T> __converted(T x) { return {x}; }
}  // namespace metal
