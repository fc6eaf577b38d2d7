// bool2, bool3, bool4. Comparisons of vectors give vectors of integers here; both spellings convert to each other.
#pragma once
namespace metal {
template <int N>
struct __bool_vector {
  bool component[N];
  __bool_vector() = default;
  METAL_FUNC __bool_vector(bool all) { for (int i = 0; i < N; i++) component[i] = all; }
  template <typename T>
  METAL_FUNC __bool_vector(vec<T, N> v) { for (int i = 0; i < N; i++) component[i] = v[i] != T(0); }
  METAL_FUNC __bool_vector(bool x, bool y) { static_assert(N == 2, "bool2 takes 2"); component[0] = x; component[1] = y; }
  METAL_FUNC __bool_vector(bool x, bool y, bool z) {
    static_assert(N == 3, "bool3 takes 3");
    component[0] = x; component[1] = y; component[2] = z;
  }
  METAL_FUNC __bool_vector(bool x, bool y, bool z, bool w) {
    static_assert(N == 4, "bool4 takes 4");
    component[0] = x; component[1] = y; component[2] = z; component[3] = w;
  }
  METAL_FUNC bool operator[](int i) const thread { return component[i]; }
  METAL_FUNC thread bool& operator[](int i) thread { return component[i]; }
  METAL_FUNC __bool_vector operator!() const {
    __bool_vector r;
    for (int i = 0; i < N; i++) r.component[i] = !component[i];
    return r;
  }
};
#define __METAL_BOOL_OPERATOR(op)                                                          \
  template <int N>                                                                         \
  METAL_FUNC __bool_vector<N> operator op(__bool_vector<N> a, __bool_vector<N> b) {        \
    __bool_vector<N> r;                                                                    \
    for (int i = 0; i < N; i++) r[i] = a[i] op b[i];                                       \
    return r;                                                                              \
  }
__METAL_BOOL_OPERATOR(&&)
__METAL_BOOL_OPERATOR(||)
__METAL_BOOL_OPERATOR(&)
__METAL_BOOL_OPERATOR(|)
__METAL_BOOL_OPERATOR(^)
__METAL_BOOL_OPERATOR(==)
__METAL_BOOL_OPERATOR(!=)

template <int N> METAL_FUNC bool any(__bool_vector<N> v) { bool r = false; for (int i = 0; i < N; i++) r = r || v[i]; return r; }
template <int N> METAL_FUNC bool all(__bool_vector<N> v) { bool r = true; for (int i = 0; i < N; i++) r = r && v[i]; return r; }
template <typename T, int N> METAL_FUNC bool any(vec<T, N> v) { bool r = false; for (int i = 0; i < N; i++) r = r || v[i] != T(0); return r; }
template <typename T, int N> METAL_FUNC bool all(vec<T, N> v) { bool r = true; for (int i = 0; i < N; i++) r = r && v[i] != T(0); return r; }
METAL_FUNC bool any(bool b) { return b; }
METAL_FUNC bool all(bool b) { return b; }
template <int N> METAL_FUNC __bool_vector<N> __truth(__bool_vector<N> v) { return v; }
template <typename T, int N> METAL_FUNC __bool_vector<N> __truth(vec<T, N> v) { return __bool_vector<N>(v); }
using bool2 = __bool_vector<2>;
using bool3 = __bool_vector<3>;
using bool4 = __bool_vector<4>;
}  // namespace metal
using metal::bool2;
using metal::bool3;
using metal::bool4;
