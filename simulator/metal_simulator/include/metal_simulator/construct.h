// Constructors and conversions of vectors. The front end writes float4(...) as __construct<float4>(...).
#pragma once
namespace metal {
template <typename T, bool vector = __is_vector<T>::value, int N = __is_vector<T>::size>
struct __constructor {
  template <typename... A>
  static METAL_FUNC constexpr T make(A... a) {
    return T(a...);
  }
  template <typename A>
  static METAL_FUNC constexpr T make(A a) {
    if constexpr (__is_same(T, bfloat) && __is_same(A, half)) return static_cast<bfloat>(float(a));
    else if constexpr (__is_same(T, half) && __is_same(A, bfloat)) return static_cast<half>(float(a));
    else return static_cast<T>(a);
  }
  static METAL_FUNC constexpr T make() { return T(); }
};

template <typename S, typename A>
METAL_FUNC int __append(__private S* to, A a) {
  if constexpr (__is_vector<A>::value) {
    for (int i = 0; i < __is_vector<A>::size; i++) to[i] = __constructor<S>::make(a[i]);
  } else {
    *to = __constructor<S>::make(a);
  }
  return __is_vector<A>::size;
}

template <typename S, typename A, typename... R>
METAL_FUNC void __append_all(__private S* to, A a, R... rest) {
  int used = __append(to, a);
  if constexpr (sizeof...(rest) > 0) __append_all(to + used, rest...);
}

template <typename T, int N>
struct __constructor<T, true, N> {
  using S = typename __is_vector<T>::scalar;
  static METAL_FUNC constexpr T make() { return T{}; }
  template <typename A>
  static METAL_FUNC constexpr T make(A a) {
    if constexpr (__is_vector<A>::value) {
      static_assert(__is_vector<A>::size == N, "a vector is constructed from a vector of another length");
      using C = __constructor<S>;
      if constexpr (__is_same(A, T)) return a;
      else if constexpr (N == 2) return T{C::make(a[0]), C::make(a[1])};
      else if constexpr (N == 3) return T{C::make(a[0]), C::make(a[1]), C::make(a[2])};
      else return T{C::make(a[0]), C::make(a[1]), C::make(a[2]), C::make(a[3])};
    } else {
      S s = __constructor<S>::make(a);
      if constexpr (N == 2) return T{s, s};
      else if constexpr (N == 3) return T{s, s, s};
      else if constexpr (N == 4) return T{s, s, s, s};
      else return T(s);  // of eight, which some public kernels use
    }
  }
  template <typename A, typename B, typename... R>
  static METAL_FUNC constexpr T make(A a, B b, R... rest) {
    constexpr int given = ((__is_vector<A>::size + __is_vector<B>::size) + ... + __is_vector<R>::size);
    static_assert(given == N, "wrong number of components for a vector constructor");
    if constexpr (sizeof...(rest) + 2 == N) {
      return T{__constructor<S>::make(a), __constructor<S>::make(b), __constructor<S>::make(rest)...};
    } else {
      S parts[4] = {};
      __append_all(parts, a, b, rest...);
      if constexpr (N == 3) return T{parts[0], parts[1], parts[2]};
      else return T{parts[0], parts[1], parts[2], parts[3]};
    }
  }
};

template <typename T, typename... A>
METAL_FUNC constexpr T __construct(A... a) {
  return __constructor<T>::make(a...);
}

template <typename T, typename A>
METAL_FUNC constexpr T __convert(A a) {
  return __constructor<T>::make(a);
}

// A copy of an object in constant memory; every address space is the same memory on this machine.
template <typename T>
METAL_FUNC constexpr T __copy(const __constant T& object) {
  return __builtin_bit_cast(T, object);
}
template <typename T>
METAL_FUNC __value_t<T> __copy(const T& object) {
  return object;
}

// What repairs.py puts around operands that clang refuses.
template <typename T>
struct __temporary {  // a value that a `thread T&` can name until the end of the expression
  T value;
  METAL_FUNC constexpr thread T& get() { return *addrspace_cast<thread T*>(&value); }
};
template <typename T>
METAL_FUNC constexpr __temporary<T> __lasting(T value) {
  return {value};
}
template <typename T>
METAL_FUNC auto __integer(T value) {
  if constexpr (__is_class(T)) return long(value);
  else return value;
}
template <typename T> struct __scalar_operand {
  T value;
  METAL_FUNC operator T() const { return value; }
  template <typename U, int N> METAL_FUNC operator vec<U, N>() const { return vec<U, N>(U(value)); }
};
template <typename T>
METAL_FUNC __scalar_operand<T> __operand(T value) {
  return {value};
}
#define __METAL_SCALAR_OPERAND(op)                                                                            \
  template <typename T, int N, typename S>                                                                    \
  METAL_FUNC auto operator op(vec<T, N> v, __scalar_operand<S> s) { return v op vec<T, N>(T(s.value)); }      \
  template <typename T, int N, typename S>                                                                    \
  METAL_FUNC auto operator op(__scalar_operand<S> s, vec<T, N> v) { return vec<T, N>(T(s.value)) op v; }
// clang-format off
__METAL_SCALAR_OPERAND(+) __METAL_SCALAR_OPERAND(-) __METAL_SCALAR_OPERAND(*) __METAL_SCALAR_OPERAND(/)
__METAL_SCALAR_OPERAND(%) __METAL_SCALAR_OPERAND(&) __METAL_SCALAR_OPERAND(|) __METAL_SCALAR_OPERAND(^)
__METAL_SCALAR_OPERAND(<<) __METAL_SCALAR_OPERAND(>>) __METAL_SCALAR_OPERAND(<) __METAL_SCALAR_OPERAND(>)
__METAL_SCALAR_OPERAND(<=) __METAL_SCALAR_OPERAND(>=) __METAL_SCALAR_OPERAND(==) __METAL_SCALAR_OPERAND(!=)
// clang-format on
#define __METAL_SCALAR_ASSIGN_IN(op, space)                                                                   \
  template <typename T, int N, typename S>                                                                    \
  METAL_FUNC void operator op##=(space vec<T, N>& v, __scalar_operand<S> s) { v = v op vec<T, N>(T(s.value)); }
#define __METAL_SCALAR_ASSIGN(op)                                                                             \
  __METAL_SCALAR_ASSIGN_IN(op, thread) __METAL_SCALAR_ASSIGN_IN(op, device) __METAL_SCALAR_ASSIGN_IN(op, threadgroup)
// clang-format off
__METAL_SCALAR_ASSIGN(+) __METAL_SCALAR_ASSIGN(-) __METAL_SCALAR_ASSIGN(*) __METAL_SCALAR_ASSIGN(/)
// clang-format on

// (float4) x is written __cast<float4>() ->* x, an operator that binds almost as tightly as a cast.
template <typename T> struct __cast {};
template <typename T, typename A>
METAL_FUNC constexpr T operator->*(__cast<T>, A a) {
  if constexpr (__is_pointer(T)) return (T)a;
  else return __construct<T>(a);
}
template <typename T> struct __negated_cast {};
template <typename T> METAL_FUNC constexpr __negated_cast<T> operator-(__cast<T>) { return {}; }
template <typename T, typename A>
METAL_FUNC constexpr T operator->*(__negated_cast<T>, A a) {
  return -__construct<T>(a);
}
}  // namespace metal

template <typename T, typename U>
METAL_FUNC constexpr T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of equal size");
  if constexpr (sizeof(T) == sizeof(U)) return __builtin_bit_cast(T, u);
}
