// bool2, bool3, bool4. The front end puts __comparison around what compares vectors, so that it gives these.
#pragma once
#include <metal_simulator/components.h>
namespace metal {
template <int N>
struct alignas(N == 3 ? 4 : N) __bool_vector : __components<bool, N> {
  __bool_vector() = default;
  METAL_FUNC constexpr __bool_vector(bool all) : __components<bool, N>() {
    for (int i = 0; i < N; i++) this->component[i] = all;
  }
  template <typename T>
  METAL_FUNC explicit constexpr __bool_vector(__vec<T, N> v) : __components<bool, N>() {
    for (int i = 0; i < N; i++) this->component[i] = v[i] != T(0);
  }
  template <typename A, typename B, typename... R>
  METAL_FUNC constexpr __bool_vector(A a, B b, R... rest) : __components<bool, N>() {
    constexpr int given = ((__is_vector<A>::size + __is_vector<B>::size) + ... + __is_vector<R>::size);
    static_assert(given == N, "wrong number of components for a bool vector");
    int at = 0;
    __append(at, a), __append(at, b), (__append(at, rest), ...);
  }
  METAL_FUNC constexpr bool operator[](int i) const { return this->component[i]; }
  METAL_FUNC constexpr bool operator[](int i) const constant { return this->component[i]; }
  METAL_FUNC constexpr auto& operator[](int i) { return this->component[i]; }
  METAL_FUNC constexpr __bool_vector operator!() const {
    __bool_vector r;
    for (int i = 0; i < N; i++) r.component[i] = !this->component[i];
    return r;
  }

  METAL_FUNC constexpr __bool_vector operator~() const { return !*this; }

 private:
  template <typename A> METAL_FUNC constexpr void __append(int& at, A a) {
    if constexpr (__is_vector<A>::value) {
      for (int i = 0; i < __is_vector<A>::size; i++) this->component[at++] = bool(a[i]);
    } else {
      this->component[at++] = bool(a);
    }
  }
};
template <int N> struct __is_vector<__bool_vector<N>> : true_type {
  using scalar = bool;
  static constexpr __constant int size = N;
};

// What the front end puts around comparisons: clang's, of vectors, give vectors of integers, -1 for true.
template <typename T> METAL_FUNC constexpr T __comparison(T result) { return result; }
template <typename T, int N> METAL_FUNC constexpr __bool_vector<N> __comparison(__vec<T, N> result) {
  return __bool_vector<N>(result);
}

#define __METAL_BOOL_OPERATOR(op)                                                                           \
  template <int N>                                                                                          \
  METAL_FUNC constexpr __bool_vector<N> operator op(__bool_vector<N> a, __bool_vector<N> b) {               \
    for (int i = 0; i < N; i++) a.component[i] = a.component[i] op b.component[i];                          \
    return a;                                                                                               \
  }                                                                                                         \
  template <int N>                                                                                          \
  METAL_FUNC constexpr __bool_vector<N> operator op(__bool_vector<N> a, bool b) { return a op __bool_vector<N>(b); } \
  template <int N>                                                                                          \
  METAL_FUNC constexpr __bool_vector<N> operator op(bool a, __bool_vector<N> b) { return __bool_vector<N>(a) op b; }
__METAL_BOOL_OPERATOR(&&)
__METAL_BOOL_OPERATOR(||)
__METAL_BOOL_OPERATOR(&)
__METAL_BOOL_OPERATOR(|)
__METAL_BOOL_OPERATOR(^)
__METAL_BOOL_OPERATOR(==)
__METAL_BOOL_OPERATOR(!=)

template <int N> METAL_FUNC bool any(__bool_vector<N> v) {
  bool r = false;
  for (int i = 0; i < N; i++) r = r || v[i];
  return r;
}
template <int N> METAL_FUNC bool all(__bool_vector<N> v) {
  bool r = true;
  for (int i = 0; i < N; i++) r = r && v[i];
  return r;
}
METAL_FUNC bool any(bool b) { return b; }
METAL_FUNC bool all(bool b) { return b; }
using bool2 = __bool_vector<2>;
using bool3 = __bool_vector<3>;
using bool4 = __bool_vector<4>;
}  // namespace metal
using metal::bool2;
using metal::bool3;
using metal::bool4;
