// simdgroup_matrix: lane l holds row (l/4 & 4) + (l/2) % 4, columns (l/4 & 2) * 2 + (l % 2) * 2 and the next.
#pragma once
namespace metal {
extern "C" {
__attribute__((const)) uint metal_matrix_element(void);
__attribute__((convergent, nomerge)) float2 metal_multiply_accumulate(float2 a, float2 b, float2 c);
}

template <typename T, int Rows, int Columns>
struct simdgroup_matrix {
  static_assert(Rows == 8 && Columns == 8, "simdgroup_matrix is 8 x 8");
  static_assert(__is_float<T>::value, "simdgroup_matrix holds half, bfloat or float");
  typedef __vec<T, 2> storage_type;
  storage_type __elements;
  simdgroup_matrix() = default;
  METAL_FUNC explicit simdgroup_matrix(T diagonal) {
    uint element = metal_matrix_element(), row = element / 8, column = element % 8;
    __elements = storage_type{row == column ? diagonal : T(0), row == column + 1 ? diagonal : T(0)};
  }
  METAL_FUNC thread storage_type& thread_elements() thread { return __elements; }
  METAL_FUNC const thread storage_type& thread_elements() const thread { return __elements; }
};

typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;

template <typename T, int Columns, int Rows = Columns>
METAL_FUNC simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Columns, Rows> filled;
  filled.__elements = __vec<T, 2>{value, value};
  return filled;
}

#define __METAL_MATRIX_OFFSETS                                                                           \
  uint element = metal_matrix_element();                                                                 \
  ulong row = element / 8 + origin.y, column = element % 8 + origin.x, next = 1;                         \
  if (transpose) { row = element % 8 + origin.y; column = element / 8 + origin.x; next = elements_per_row; }  \
  ulong at = row * elements_per_row + column;
#define __METAL_MATRIX_LOAD(space)                                                                       \
  template <typename T>                                                                                  \
  METAL_FUNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const space T* from,               \
                                 ulong elements_per_row = 8, ulong2 origin = ulong2{0, 0}, bool transpose = false) { \
    __METAL_MATRIX_OFFSETS                                                                               \
    m.__elements = __vec<T, 2>{from[at], from[at + next]};                                                 \
  }                                                                                                      \
  template <typename T>                                                                                  \
  METAL_FUNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const volatile space T* from,      \
                                 ulong elements_per_row = 8, ulong2 origin = ulong2{0, 0}, bool transpose = false) { \
    simdgroup_load(m, (const space T*)from, elements_per_row, origin, transpose);                        \
  }
// One operation of the SIMD group: its lanes store at the same time, as kernels rely on. It orders no memory.
#define __METAL_MATRIX_STORE(space)                                                                      \
  template <typename T>                                                                                  \
  METAL_FUNC void simdgroup_store(simdgroup_matrix<T, 8, 8> m, space T* to,                              \
                                  ulong elements_per_row = 8, ulong2 origin = ulong2{0, 0}, bool transpose = false) { \
    __METAL_MATRIX_OFFSETS                                                                               \
    metal_collective(__MATRIX_STORE, 0, 0, 0);                                                           \
    to[at] = m.__elements.x;                                                                             \
    to[at + next] = m.__elements.y;                                                                      \
    metal_collective(__MATRIX_STORE, 0, 0, 0);                                                           \
  }
__METAL_MATRIX_LOAD(device)
__METAL_MATRIX_LOAD(threadgroup)
__METAL_MATRIX_STORE(device)
__METAL_MATRIX_STORE(threadgroup)

template <typename T>
METAL_FUNC float2 __widen(__vec<T, 2> v) {
  return float2{float(v.x), float(v.y)};
}

template <typename D, typename A, typename B, typename C>
METAL_FUNC void simdgroup_multiply_accumulate(
    thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
    const thread simdgroup_matrix<B, 8, 8>& b, const thread simdgroup_matrix<C, 8, 8>& c) {
  float2 r = metal_multiply_accumulate(__widen(a.__elements), __widen(b.__elements), __widen(c.__elements));
  d.__elements = __vec<D, 2>{D(r.x), D(r.y)};
}

template <typename D, typename A, typename B>
METAL_FUNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, const thread simdgroup_matrix<A, 8, 8>& a,
                                   const thread simdgroup_matrix<B, 8, 8>& b) {
  float2 r = metal_multiply_accumulate(__widen(a.__elements), __widen(b.__elements), float2{0, 0});
  d.__elements = __vec<D, 2>{D(r.x), D(r.y)};
}

template <typename T>
METAL_FUNC simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}
}  // namespace metal
