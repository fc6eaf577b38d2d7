// Relational functions and select.
#pragma once
namespace metal {
#define __METAL_CLASSIFY(f, e) __METAL_CLASSIFY_AS(f, e, e, e)
#define __METAL_CLASSIFY_AS(f, e, of_half, of_bfloat)                                  \
  METAL_FUNC bool f(float x) { return e; }                                             \
  METAL_FUNC bool f(half h) { float x = h; return of_half; }                           \
  METAL_FUNC bool f(bfloat h) { float x = h; return of_bfloat; }                       \
  template <typename T, int N> METAL_FUNC __bool_vector<N> f(__vec<T, N> v) {            \
    __bool_vector<N> r;                                                                \
    for (int i = 0; i < N; i++) r[i] = f(v[i]);                                        \
    return r;                                                                          \
  }
__METAL_CLASSIFY(isnan, __builtin_isnan(x))
__METAL_CLASSIFY(isinf, __builtin_isinf(x))
__METAL_CLASSIFY(isfinite, __builtin_isfinite(x))
__METAL_CLASSIFY_AS(isnormal, __builtin_isnormal(x), __builtin_isfinite(x) && __builtin_fabsf(x) >= float(HALF_MIN),
                    __builtin_isnormal(x))
__METAL_CLASSIFY_AS(signbit, __builtin_signbit(x) != 0, __builtin_signbit(x) != 0, as_type<ushort>(h) >> 15 != 0)
#define __METAL_ORDERED(f, e)                                                          \
  METAL_FUNC bool f(float a, float b) { return e; }                                    \
  METAL_FUNC bool f(half a, half b) { return f(float(a), float(b)); }                  \
  METAL_FUNC bool f(bfloat a, bfloat b) { return f(float(a), float(b)); }              \
  template <typename T, int N>                                                         \
  METAL_FUNC enable_if_t<is_floating_point<T>::value, __bool_vector<N>> f(__vec<T, N> a, __vec<T, N> b) { \
    __bool_vector<N> r;                                                                \
    for (int i = 0; i < N; i++) r[i] = f(a[i], b[i]);                                  \
    return r;                                                                          \
  }
__METAL_ORDERED(isordered, a == a && b == b)
__METAL_ORDERED(isunordered, a != a || b != b)

#define __METAL_SELECT(T) METAL_FUNC constexpr T select(T a, T b, bool c) { return c ? b : a; }
__METAL_SELECT(bool)
__METAL_SELECT(char)
__METAL_SELECT(uchar)
__METAL_SELECT(short)
__METAL_SELECT(ushort)
__METAL_SELECT(int)
__METAL_SELECT(uint)
__METAL_SELECT(long)
__METAL_SELECT(ulong)
__METAL_SELECT(half)
__METAL_SELECT(float)
__METAL_SELECT(bfloat)
template <typename T, int N>
METAL_FUNC __vec<T, N> select(__vec<T, N> a, __vec<T, N> b, bool condition) {
  return condition ? b : a;
}
template <int N>
METAL_FUNC __bool_vector<N> select(__bool_vector<N> a, __bool_vector<N> b, __bool_vector<N> c) {
  return (a && !c) || (b && c);
}
template <typename T, int N>
METAL_FUNC __vec<T, N> select(__vec<T, N> a, typename type_identity<__vec<T, N>>::type b, __bool_vector<N> c) {
  for (int i = 0; i < N; i++)
    if (c[i]) a[i] = b[i];
  return a;
}
#define __METAL_SINGLE(N) \
  METAL_FUNC float##N select(float##N a, float##N b, bool##N c) { return metal::select(a, b, c); }
#define __METAL_SINGLES                                                                           \
  METAL_FUNC constexpr float select(float a, float b, bool c) { return c ? b : a; }               \
  __METAL_SINGLE(2) __METAL_SINGLE(3) __METAL_SINGLE(4)
namespace fast {
__METAL_SINGLES
}
namespace precise {
__METAL_SINGLES
}
#undef __METAL_SINGLE
#undef __METAL_SINGLES
}  // namespace metal
