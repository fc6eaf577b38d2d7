// bool2, bool3, bool4. Comparisons of vectors give vectors of integers here; both spellings convert to each other.
#pragma once
namespace metal {
template <int N> struct alignas(N) __bool_components { bool component[N]; };  // of eight
// clang-format off
template <> struct __bool_components<1> { union { bool component[1]; bool x, r; }; };
template <> struct alignas(2) __bool_components<2> {
  union { bool component[2]; struct { bool x, y; }; struct { bool r, g; }; };
};
template <> struct alignas(4) __bool_components<3> {
  union { bool component[3]; struct { bool x, y, z; }; struct { bool r, g, b; }; };
};
template <> struct alignas(4) __bool_components<4> {
  union { bool component[4]; struct { bool x, y, z, w; }; struct { bool r, g, b, a; }; };
};
// clang-format on

template <int N>
struct __bool_vector : __bool_components<N> {
  __bool_vector() = default;
  METAL_FUNC constexpr __bool_vector(bool all) {
    for (int i = 0; i < N; i++) this->component[i] = all;
  }
  template <typename T>
  METAL_FUNC constexpr __bool_vector(vec<T, N> v) {
    for (int i = 0; i < N; i++) this->component[i] = v[i] != T(0);
  }
  template <typename... B>
  METAL_FUNC constexpr __bool_vector(bool x, bool y, B... rest) {
    static_assert(sizeof...(rest) + 2 == N, "wrong number of components for a bool vector");
    bool given[N] = {x, y, rest...};
    for (int i = 0; i < N; i++) this->component[i] = given[i];
  }
  METAL_FUNC constexpr bool operator[](int i) const { return this->component[i]; }
  METAL_FUNC constexpr auto& operator[](int i) { return this->component[i]; }
  METAL_FUNC constexpr __bool_vector operator!() const {
    __bool_vector r;
    for (int i = 0; i < N; i++) r.component[i] = !this->component[i];
    return r;
  }
};
template <int N> struct __is_vector<__bool_vector<N>> : true_type {
  using scalar = bool;
  static constexpr __constant int size = N;
};

template <int N> METAL_FUNC __bool_vector<N> __truth(__bool_vector<N> v) { return v; }
template <typename T, int N> METAL_FUNC __bool_vector<N> __truth(vec<T, N> v) { return __bool_vector<N>(v); }
METAL_FUNC constexpr bool __truth(bool b) { return b; }
// What the front end puts around comparisons whose result is used as a number.
template <typename T> METAL_FUNC constexpr auto __comparison(T result) {
  if constexpr (__is_vector<T>::value) return __truth(result);
  else return result;
}

#define __METAL_BOOL_OPERATOR(op)                                                          \
  template <int N>                                                                         \
  METAL_FUNC __bool_vector<N> operator op(__bool_vector<N> a, __bool_vector<N> b) {        \
    __bool_vector<N> r;                                                                    \
    for (int i = 0; i < N; i++) r[i] = a[i] op b[i];                                       \
    return r;                                                                              \
  }                                                                                        \
  template <int N, typename T>                                                             \
  METAL_FUNC __bool_vector<N> operator op(__bool_vector<N> a, vec<T, N> b) { return a op __truth(b); } \
  template <int N, typename T>                                                             \
  METAL_FUNC __bool_vector<N> operator op(vec<T, N> a, __bool_vector<N> b) { return __truth(a) op b; } \
  template <int N>                                                                         \
  METAL_FUNC __bool_vector<N> operator op(__bool_vector<N> a, bool b) { return a op __bool_vector<N>(b); } \
  template <int N>                                                                         \
  METAL_FUNC __bool_vector<N> operator op(bool a, __bool_vector<N> b) { return __bool_vector<N>(a) op b; }
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
// Of a comparison's vector of integers; the strict check sees by this type that one is taken, and looks where it is from.
struct __of_comparison {};
template <typename T, int N> METAL_FUNC bool any(vec<T, N> v, __of_comparison = __of_comparison()) {
  return any(__truth(v));
}
template <typename T, int N> METAL_FUNC bool all(vec<T, N> v, __of_comparison = __of_comparison()) {
  return all(__truth(v));
}
METAL_FUNC bool any(bool b) { return b; }
METAL_FUNC bool all(bool b) { return b; }
using bool2 = __bool_vector<2>;
using bool3 = __bool_vector<3>;
using bool4 = __bool_vector<4>;

// vec<T, N> where T may be bool; the front end writes it wherever T and N need not be deduced.
template <typename T, int N> struct __vector_of { using type = T __attribute__((ext_vector_type(N))); };
template <int N> struct __vector_of<bool, N> { using type = __bool_vector<N>; };
// For bool in a vector whose element type is deduced.
template <typename T> struct __component_of { using type = T; };
template <> struct __component_of<bool> { using type = uchar; };
template <typename T> using __component = typename __component_of<T>::type;
template <typename T, int N> using __any_vec = typename __vector_of<T, N>::type;
}  // namespace metal
using metal::bool2;
using metal::bool3;
using metal::bool4;
