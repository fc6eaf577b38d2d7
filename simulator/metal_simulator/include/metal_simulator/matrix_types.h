// float2x2 ... float4x4 and half2x2 ... half4x4: matrix<T, columns, rows>, an array of columns.
#pragma once
namespace metal {
template <typename T, int C, int R>
struct __matrix {
  __vec<T, R> columns[C];
  __matrix() = default;
  // Clang 20 and 21 crash on a constant whose vectors' components are set before the vectors are.
  METAL_FUNC explicit constexpr __matrix(T diagonal) : columns{} {
    for (int c = 0; c < C; c++)
      for (int r = 0; r < R; r++) columns[c][r] = c == r ? diagonal : T(0);
  }
  template <typename U>
  METAL_FUNC explicit constexpr __matrix(__matrix<U, C, R> m) {
    for (int c = 0; c < C; c++) columns[c] = __construct<__vec<T, R>>(m.columns[c]);
  }
  template <typename A, typename B, typename... M>
  METAL_FUNC constexpr __matrix(A a, B b, M... more) : columns{} {
    static_assert(
        sizeof...(more) + 2 == C || sizeof...(more) + 2 == C * R, "a matrix takes its columns or its elements");
    if constexpr (__is_vector<A>::value) {
      __vec<T, R> given[] = {a, b, more...};
      for (int c = 0; c < C; c++) columns[c] = given[c];
    } else {
      T given[] = {static_cast<T>(a), static_cast<T>(b), static_cast<T>(more)...};
      for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++) columns[c][r] = given[c * R + r];
    }
  }
  METAL_FUNC constexpr auto& operator[](int c) { return columns[c]; }
  METAL_FUNC constexpr auto& operator[](int c) const { return columns[c]; }
#ifndef METAL_SIMULATOR_READING
  METAL_FUNC constexpr auto& operator[](int c) const constant { return columns[c]; }
#endif
};
template <typename T, int C, int R>
using matrix = __matrix<T, C, R>;
#define __METAL_MATRIX_TYPES(T)                                                          \
  using T##2x2 = __matrix<T, 2, 2>; using T##2x3 = __matrix<T, 2, 3>; using T##2x4 = __matrix<T, 2, 4>; \
  using T##3x2 = __matrix<T, 3, 2>; using T##3x3 = __matrix<T, 3, 3>; using T##3x4 = __matrix<T, 3, 4>; \
  using T##4x2 = __matrix<T, 4, 2>; using T##4x3 = __matrix<T, 4, 3>; using T##4x4 = __matrix<T, 4, 4>;
__METAL_MATRIX_TYPES(float)
__METAL_MATRIX_TYPES(half)

#define __METAL_EACH_COLUMN(T, e)                                                           \
  __matrix<T, C, R> m;                                                                   \
  for (int c = 0; c < C; c++) m.columns[c] = e;                                          \
  return m;
#define __METAL_MATRIX_SCALAR(T)                                                         \
  template <int C, int R> METAL_FUNC __matrix<T, C, R> operator*(__matrix<T, C, R> a, T s) { __METAL_EACH_COLUMN(T, a.columns[c] * s) } \
  template <int C, int R> METAL_FUNC __matrix<T, C, R> operator*(T s, __matrix<T, C, R> a) { __METAL_EACH_COLUMN(T, s * a.columns[c]) } \
  template <int C, int R> METAL_FUNC __matrix<T, C, R> operator/(__matrix<T, C, R> a, T s) { __METAL_EACH_COLUMN(T, a.columns[c] / s) }
__METAL_MATRIX_SCALAR(float)
__METAL_MATRIX_SCALAR(half)
#define __METAL_COLUMNS template <typename T, int C, int R> METAL_FUNC
__METAL_COLUMNS __matrix<T, C, R> operator+(__matrix<T, C, R> a, __matrix<T, C, R> b) {
  __METAL_EACH_COLUMN(T, a.columns[c] + b.columns[c])
}
__METAL_COLUMNS __matrix<T, C, R> operator-(__matrix<T, C, R> a, __matrix<T, C, R> b) {
  __METAL_EACH_COLUMN(T, a.columns[c] - b.columns[c])
}
__METAL_COLUMNS __matrix<T, C, R> operator-(__matrix<T, C, R> a) { __METAL_EACH_COLUMN(T, -a.columns[c]) }
__METAL_COLUMNS bool operator==(__matrix<T, C, R> a, __matrix<T, C, R> b) {
  bool equal = true;
  for (int c = 0; c < C; c++) equal = equal && all(a.columns[c] == b.columns[c]);
  return equal;
}
__METAL_COLUMNS bool operator!=(__matrix<T, C, R> a, __matrix<T, C, R> b) { return !(a == b); }
__METAL_COLUMNS __vec<T, R> operator*(__matrix<T, C, R> m, typename type_identity<__vec<T, C>>::type v) {
  __vec<T, R> sum = m.columns[0] * v[0];
  for (int c = 1; c < C; c++) sum += m.columns[c] * v[c];
  return sum;
}
__METAL_COLUMNS __vec<T, C> operator*(typename type_identity<__vec<T, R>>::type v, __matrix<T, C, R> m) {
  __vec<T, C> result;
  for (int c = 0; c < C; c++) {
    T sum = v[0] * m.columns[c][0];
    for (int r = 1; r < R; r++) sum += v[r] * m.columns[c][r];
    result[c] = sum;
  }
  return result;
}
template <typename T, int K, int R, int C>
METAL_FUNC __matrix<T, C, R> operator*(__matrix<T, K, R> a, __matrix<T, C, K> b) {
  __METAL_EACH_COLUMN(T, a * b.columns[c])
}
#define __METAL_MATRIX_ASSIGN(op)                                                        \
  template <typename T, int C, int R, typename B>                                        \
  METAL_FUNC thread __matrix<T, C, R>& operator op##=(thread __matrix<T, C, R>& a, B b) { a = a op b; return a; }
__METAL_MATRIX_ASSIGN(+)
__METAL_MATRIX_ASSIGN(-)
__METAL_MATRIX_ASSIGN(*)
__METAL_COLUMNS __matrix<T, R, C> transpose(__matrix<T, C, R> a) {
  __matrix<T, R, C> m;
  for (int c = 0; c < C; c++)
    for (int r = 0; r < R; r++) m.columns[r][c] = a.columns[c][r];
  return m;
}
template <typename T, int C, int R>
METAL_FUNC T determinant(__matrix<T, C, R> a) {
  static_assert(C == R, "the determinant of a square matrix");
  constexpr int N = C;
  if constexpr (N == 2) {
    return a.columns[0][0] * a.columns[1][1] - a.columns[1][0] * a.columns[0][1];
  } else {
    T sum = 0;
    for (int k = 0; k < N; k++) {  // along the first row
      __matrix<T, N - 1, N - 1> minor;
      for (int c = 1; c < N; c++)
        for (int r = 1; r < N; r++) minor.columns[c - 1][r - 1] = a.columns[c <= k ? c - 1 : c][r];
      sum += (k % 2 ? -1 : 1) * a.columns[k][0] * determinant(minor);
    }
    return sum;
  }
}
}  // namespace metal
#define __METAL_GLOBAL_MATRICES(T)                                                     \
  using metal::T##2x2; using metal::T##2x3; using metal::T##2x4; using metal::T##3x2;  \
  using metal::T##3x3; using metal::T##3x4; using metal::T##4x2; using metal::T##4x3; using metal::T##4x4;
__METAL_GLOBAL_MATRICES(half)
__METAL_GLOBAL_MATRICES(float)
