// Constructors and conversions of vectors. The front end writes float4(...) as __construct<float4>(...).
#pragma once
namespace metal {
// An object whose constructor takes a `const thread U&`, of another number than U.
template <typename T, typename U, typename... R, typename A> METAL_FUNC constexpr T __make_through(A a) {
  if constexpr (__is_constructible(T, const thread U&) || sizeof...(R) == 0) {
    thread U u = a;
    return T(u);
  } else {
    return __make_through<T, R...>(a);
  }
}

template <typename T, bool vector = __is_vector<T>::value, int N = __is_vector<T>::size>
struct __constructor {
  template <typename... A>
  static METAL_FUNC constexpr T make(A... a) {
    return T(a...);
  }
  template <typename A>
  static METAL_FUNC constexpr T make(A a) {
    if constexpr (__is_pointer(T)) return (T)a;
    else if constexpr (__is_same(T, bfloat) && __is_same(A, half)) return static_cast<bfloat>(float(a));
    else if constexpr (__is_same(T, half) && __is_same(A, bfloat)) return static_cast<half>(float(a));
    else if constexpr (__is_class(T) && __is_arithmetic(A) && !__is_constructible(T, thread A&))
      return __make_through<T, float, half, ulong, long, uint, int, ushort, short, uchar, char>(a);
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

#if __clang_major__ < 19  // which convert no vectors where constants are evaluated; 17 does not know their bits, either
template <typename S, int N> struct __stored { S at[N]; };
template <typename S> struct __stored<S, 3> {
  S at[3];
  uchar padding[sizeof(S)];
};
#endif

template <typename T, int N>
struct __constructor<T, true, N> {
  using S = typename __is_vector<T>::scalar;
#if __clang_major__ < 19
  template <typename A> using __stored_t = __stored<typename __is_vector<A>::scalar, N>;
  template <typename A> static METAL_FUNC constexpr T __converted(A a) {
    using C = __constructor<S>;
    if constexpr (N == 2) return T{C::make(a.at[0]), C::make(a.at[1])};
    else if constexpr (N == 3) return T{C::make(a.at[0]), C::make(a.at[1]), C::make(a.at[2])};
    else return T{C::make(a.at[0]), C::make(a.at[1]), C::make(a.at[2]), C::make(a.at[3])};
  }
#endif
  // Where constants are evaluated, a vector has no components.
  template <typename A> static METAL_FUNC constexpr T __components_of(A a) {
    if constexpr (__is_class(A) || __is_class(T)) return T{};
#if __clang_major__ < 19
    else return __converted(__builtin_bit_cast(__stored_t<A>, a));
#else
    else return __builtin_convertvector(a, T);
#endif
  }
  static METAL_FUNC constexpr T make() { return T{}; }
  template <typename A>
  static METAL_FUNC constexpr T make(A a) {
    if constexpr (__is_vector<A>::value) {
      static_assert(__is_vector<A>::size == N, "a vector is constructed from a vector of another length");
      using C = __constructor<S>;
      if constexpr (__is_same(A, T)) return a;
      else if (!__is_class(A) && __builtin_is_constant_evaluated()) return __components_of(a);
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

// A vector from braces; components that are not named are 0.
template <typename T, typename... A>
METAL_FUNC constexpr T __filled(A... a) {
  constexpr int missing = __is_vector<T>::size - (0 + ... + __is_vector<A>::size);
  if constexpr (missing <= 0 || missing == __is_vector<T>::size) return __construct<T>(a...);
  else return __filled<T>(a..., 0);
}
// Braces of a type that may be a vector for some template arguments.
template <typename T, typename... A>
METAL_FUNC constexpr T __braced(A... a) {
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wc++11-narrowing"
  if constexpr (__is_vector<T>::value) return __filled<T>(a...);
  else if constexpr (__is_class(T) || sizeof...(A) != 1) return T{a...};
  else return __construct<T>(a...);
#pragma clang diagnostic pop
}
// The same where the type is not said: they become whatever type is wanted of them.
template <typename... A>
struct __list {
  template <typename T, typename... B> METAL_FUNC constexpr T __make(B... b) const { return __braced<T>(b...); }
};
template <typename A, typename... R>
struct __list<A, R...> {
  A first;
  __list<R...> rest;
  template <typename T, typename... B> METAL_FUNC constexpr T __make(B... b) const {
    return rest.template __make<T>(b..., first);
  }
  template <typename T> METAL_FUNC constexpr operator T() const { return __make<T>(); }
};
METAL_FUNC constexpr __list<> __braces() { return {}; }
template <typename A, typename... R>
METAL_FUNC constexpr __list<A, R...> __braces(A a, R... rest) {
  return {a, __braces(rest...)};
}

// A copy of an object in constant memory; every address space is the same memory on this machine.
template <typename T>
METAL_FUNC constexpr T __copy(const __constant T& object) {
  return __builtin_bit_cast(T, object);
}
template <typename T>
METAL_FUNC constexpr __value_t<T> __copy(const T& object) {
  return object;
}

// What an object is assigned as, in whatever address space.
template <ulong N>
struct __bytes {
  uchar at[N];
};

// What is passed where a call names the parameter's type.
template <typename To, typename T>
METAL_FUNC constexpr decltype(auto) __passed(const __constant T& object) {
  if constexpr (__is_lvalue_reference(To)) return (object);
  else return __copy(object);
}
template <typename To, typename T>
METAL_FUNC constexpr decltype(auto) __passed(T& object) {
  if constexpr (__is_lvalue_reference(To)) return (object);
  else return __copy(object);
}

template <typename T>
METAL_FUNC constexpr T __value(T value) {
  return value;
}

// A value that a `thread T&` can name until the end of the expression.
template <typename T>
struct __temporary {
  T value;
  METAL_FUNC constexpr thread T& get() thread { return value; }
};
template <typename T>
METAL_FUNC constexpr __temporary<T> __lasting(T value) {
  return {value};
}
// The same of what is a value for some template arguments, and for others an object, which is itself.
template <typename T>
struct __itself {
  T object;
  METAL_FUNC constexpr T get() { return object; }
};
#define __METAL_ITSELF(space)                                                                       \
  template <typename T> METAL_FUNC constexpr __itself<space T&> __lasting_or_itself(space T& object) { \
    return {object};                                                                                \
  }
__METAL_ITSELF(thread)
__METAL_ITSELF(device)
__METAL_ITSELF(threadgroup)
__METAL_ITSELF(constant)
template <typename T> struct __is_named : false_type {};
template <typename T> struct __is_named<T&> : true_type {};
template <typename T>
METAL_FUNC constexpr enable_if_t<!__is_named<T>::value, __temporary<__value_t<T>>> __lasting_or_itself(T&& value) {
  return {value};
}
// The same of what is a part of a B: components of vectors are values.
template <typename B, typename T>
METAL_FUNC constexpr enable_if_t<__is_vector<__value_t<B>>::value, __temporary<__value_t<T>>> __lasting_part(T value) {
  return {value};
}
template <typename B, typename T>
METAL_FUNC constexpr auto __lasting_part(T&& part) ->
    typename enable_if<!__is_vector<__value_t<B>>::value, decltype(__lasting_or_itself(static_cast<T&&>(part)))>::type {
  return __lasting_or_itself(static_cast<T&&>(part));
}
// What is added to a pointer: an object that stands for an integer is none to clang here.
template <typename T>
METAL_FUNC constexpr auto __integer(T value) {
  if constexpr (__is_class(T)) return long(value);
  else return value;
}
// The same beside a B, which may be a pointer.
template <typename T, bool stands_for_integer> struct __offset { using type = T; };
template <typename T> struct __offset<T, true> { using type = long; };
template <typename T, typename B>
using __offset_t = typename __offset<__value_t<T>, __is_class(__value_t<T>) && __is_pointer(__value_t<B>)>::type;
// What a bool becomes on its way to a T: as a vector's components it is 1, where clang has -1.
template <typename T> struct __of_bool { using type = bool; };
template <typename T, int N> struct __of_bool<__vec<T, N>> { using type = int; };
template <typename T> using __of_bool_t = typename __of_bool<__value_t<T>>::type;
// What a number of type S becomes beside operands of types T: of a vector the type of its components.
template <typename S, typename... T> struct __beside_operands { using type = S; };
template <typename S, typename T, typename... R> struct __beside_operands<S, T, R...> : __beside_operands<S, R...> {};
template <typename S, typename T, int N, typename... R> struct __beside_operands<S, __vec<T, N>, R...> {
  using type = T;
};
template <typename S, typename... T> using __beside_t = typename __beside_operands<S, __value_t<T>...>::type;

// Clang for x86 takes a bfloat's sign, if no other bit is asked for, from a wrong place: it may not know.
METAL_FUNC ushort __bits_of(bfloat x) {
  uint bits = __builtin_bit_cast(ushort, x);
  __asm__("" : "+r"(bits));
  return bits;
}
}  // namespace metal

template <typename T, typename U>
METAL_FUNC constexpr T as_type(U u) {
  static_assert(sizeof(T) == sizeof(U), "as_type needs types of equal size");
  if constexpr (__is_same(U, bfloat) && sizeof(T) == sizeof(U)) {
    if (!__builtin_is_constant_evaluated()) return __builtin_bit_cast(T, metal::__bits_of(u));
  }
  if constexpr (sizeof(T) == sizeof(U)) return __builtin_bit_cast(T, u);
}
