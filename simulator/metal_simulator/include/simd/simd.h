// Stand-in for <simd/simd.h>, which Metal shares with the host: other names of its vectors and matrices.
#pragma once
#include <metal_stdlib>
#define __METAL_SIMD_VECTOR(T, N)      \
  typedef T##N vector_##T##N;          \
  typedef T##N simd_##T##N;            \
  namespace simd { using ::T##N; }
#define __METAL_SIMD_VECTORS(T)        \
  typedef T vector_##T##1;             \
  typedef T simd_##T##1;               \
  __METAL_SIMD_VECTOR(T, 2) __METAL_SIMD_VECTOR(T, 3) __METAL_SIMD_VECTOR(T, 4)
__METAL_SIMD_VECTORS(char)
__METAL_SIMD_VECTORS(uchar)
__METAL_SIMD_VECTORS(short)
__METAL_SIMD_VECTORS(ushort)
__METAL_SIMD_VECTORS(int)
__METAL_SIMD_VECTORS(uint)
__METAL_SIMD_VECTORS(long)
__METAL_SIMD_VECTORS(ulong)
__METAL_SIMD_VECTORS(half)
__METAL_SIMD_VECTORS(float)
#define __METAL_SIMD_MATRIX(T, C, R)                    \
  typedef metal::T##C##x##R matrix_##T##C##x##R;        \
  typedef metal::T##C##x##R simd_##T##C##x##R;          \
  namespace simd { using metal::T##C##x##R; }
#define __METAL_SIMD_MATRICES(T)                                                                        \
  __METAL_SIMD_MATRIX(T, 2, 2) __METAL_SIMD_MATRIX(T, 2, 3) __METAL_SIMD_MATRIX(T, 2, 4)                \
  __METAL_SIMD_MATRIX(T, 3, 2) __METAL_SIMD_MATRIX(T, 3, 3) __METAL_SIMD_MATRIX(T, 3, 4)                \
  __METAL_SIMD_MATRIX(T, 4, 2) __METAL_SIMD_MATRIX(T, 4, 3) __METAL_SIMD_MATRIX(T, 4, 4)
__METAL_SIMD_MATRICES(half)
__METAL_SIMD_MATRICES(float)
