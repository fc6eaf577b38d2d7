// Vectors for reading: classes whose types are Metal's, so that all legal Metal is legal here. Nothing of it runs.
#pragma once
#include <metal_simulator/swizzles.h>
namespace metal {
template <typename T, int N> struct vec;
template <typename T, int N> using __vec = vec<T, N>;
template <int N> using __bool_vector = vec<bool, N>;
// The value of a part is never asked for, so all parts of a size share a getter and a setter.
#define __METAL_COMPONENT(x, r, T, i) __declspec(property(get = __get_##x, put = __set)) T x, r; constexpr T __get_##x() const { return component[i]; }
#define __METAL_SWIZZLE(xs, rs, T, n, ...) __declspec(property(get = __get##n, put = __set)) vec<T, n> xs, rs;
#define __METAL_COMPONENTS(N)                                       \
  template <typename T>                                             \
  struct alignas((N == 3 ? 4 : N) * sizeof(T)) __components<T, N> { \
    T component[N];                                                 \
    __METAL_SWIZZLES_##N(T)                                         \
    constexpr vec<T, 2> __get2() const;                             \
    constexpr vec<T, 3> __get3() const;                             \
    constexpr vec<T, 4> __get4() const;                             \
    constexpr void __set(T);                                        \
    constexpr void __set(vec<T, 2>);                                \
    constexpr void __set(vec<T, 3>);                                \
    constexpr void __set(vec<T, 4>);                                \
  };
template <typename T, int N> struct alignas(N * sizeof(T)) __components { T component[N]; };  // of eight
__METAL_COMPONENTS(2)
__METAL_COMPONENTS(3)
__METAL_COMPONENTS(4)

template <typename T> struct __width { static constexpr int value = 1; };
template <typename T, int N> struct __width<vec<T, N>> { static constexpr int value = N; };
template <typename T> struct __width<const T> : __width<T> {};
template <typename A> constexpr A __component_of(A a, int) { return a; }
template <typename T, int N> constexpr T __component_of(const vec<T, N>& v, int i) { return v.component[i]; }
template <typename T, int N>
struct vec : __components<T, N> {
  vec() = default;
  vec(const vec&) = default;
  vec& operator=(const vec&) = default;
  template <typename V, typename = typename __when<__is_same(V, vec), V>::type> constexpr vec(const volatile V& v);
  template <typename V, typename = typename __when<__is_same(V, vec), V>::type> void operator=(const V&) volatile;
  template <typename A, typename = typename __when<__is_number<A>, A>::type>
  constexpr vec(A all) : __components<T, N>() {
    for (int i = 0; i < N; i++) this->component[i] = T(all);
  }
  template <typename U>
  constexpr explicit vec(vec<U, N> v) : __components<T, N>() {
    for (int i = 0; i < N; i++) this->component[i] = T(v.component[i]);
  }
  template <
      typename A, typename B, typename... R,
      typename = typename __when<((__width<A>::value + __width<B>::value) + ... + __width<R>::value) <= N, A>::type>
  constexpr vec(A a, B b, R... rest) : __components<T, N>() {
    int at = 0;
    __append(at, a), __append(at, b), (__append(at, rest), ...);
    while (at < N) this->component[at++] = T(0);
  }
  template <typename A> constexpr void __append(int& at, A a) {
    for (int i = 0; i < __width<A>::value; i++) this->component[at++] = T(__component_of(a, i));
  }
  constexpr T& operator[](int i) { return this->component[i]; }
  constexpr T operator[](int i) const { return this->component[i]; }
  constexpr vec operator+() const { return *this; }
  constexpr vec operator-() const { return *this; }
  constexpr vec operator~() const { return *this; }
  constexpr vec<bool, N> operator!() const { return vec<bool, N>(*this); }
#define __METAL_VECTOR_OPERATOR(op)                                               \
  friend constexpr vec operator op(vec a, vec b) {                                \
    for (int i = 0; i < N; i++) a.component[i] = T(a.component[i] op b.component[i]); \
    return a;                                                                     \
  }                                                                               \
  constexpr vec& operator op##=(vec b) { return *this = *this op b; }
#define __METAL_VECTOR_COMPARISON(op)                                             \
  friend constexpr vec<bool, N> operator op(vec a, vec b) {                       \
    vec<bool, N> r(false);                                                        \
    for (int i = 0; i < N; i++) r.component[i] = a.component[i] op b.component[i]; \
    return r;                                                                     \
  }
#define __METAL_VECTOR_SHIFT(op) \
  template <typename U> friend constexpr vec operator op(vec a, vec<U, N> b) { return a op vec(b); }
  // clang-format off
  __METAL_VECTOR_SHIFT(<<) __METAL_VECTOR_SHIFT(>>)
  __METAL_VECTOR_OPERATOR(+) __METAL_VECTOR_OPERATOR(-) __METAL_VECTOR_OPERATOR(*) __METAL_VECTOR_OPERATOR(/)
  __METAL_VECTOR_OPERATOR(%) __METAL_VECTOR_OPERATOR(&) __METAL_VECTOR_OPERATOR(|) __METAL_VECTOR_OPERATOR(^)
  __METAL_VECTOR_OPERATOR(<<) __METAL_VECTOR_OPERATOR(>>)
  __METAL_VECTOR_COMPARISON(<) __METAL_VECTOR_COMPARISON(>) __METAL_VECTOR_COMPARISON(<=)
  __METAL_VECTOR_COMPARISON(>=) __METAL_VECTOR_COMPARISON(==) __METAL_VECTOR_COMPARISON(!=)
  __METAL_VECTOR_COMPARISON(&&) __METAL_VECTOR_COMPARISON(||)
      // clang-format on
      constexpr vec& operator++() {
    return *this;
  }
  constexpr vec operator++(int) { return *this; }
  constexpr vec& operator--() { return *this; }
  constexpr vec operator--(int) { return *this; }
};
}  // namespace metal
