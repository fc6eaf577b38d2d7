// Address spaces, scalar and vector types.
#pragma once
#include <metal_simulator/dialect.h>
#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_INTERNAL inline __attribute__((always_inline))
#define device __global
#define constant __constant const  // a pointer or reference to constant memory needs no const of its own
#define threadgroup __local
#define thread __private
#define coherent(scope)

// Keywords of OpenCL that are ordinary names in Metal.
#define local __metal_name_local
#define global __metal_name_global
#define generic __metal_name_generic
#define pipe __metal_name_pipe
#define read_only __metal_name_read_only
#define write_only __metal_name_write_only
#define read_write __metal_name_read_write
#define event_t __metal_name_event_t
#define queue_t __metal_name_queue_t
#define vec_step __metal_name_vec_step

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef long intptr_t;
typedef unsigned long uintptr_t;
typedef bfloat bfloat16_t;
typedef half float16_t;
typedef float float32_t;

#define __METAL_VECTORS(T)       \
  typedef metal::vec<T, 2> T##2; \
  typedef metal::vec<T, 3> T##3; \
  typedef metal::vec<T, 4> T##4; \
  namespace metal {              \
  using ::T##2;                  \
  using ::T##3;                  \
  using ::T##4;                  \
  }
__METAL_VECTORS(char)
__METAL_VECTORS(uchar)
__METAL_VECTORS(short)
__METAL_VECTORS(ushort)
__METAL_VECTORS(int)
__METAL_VECTORS(uint)
__METAL_VECTORS(long)
__METAL_VECTORS(ulong)
__METAL_VECTORS(half)
__METAL_VECTORS(float)
__METAL_VECTORS(bfloat)

namespace metal {
using ::uchar;
using ::ushort;
using ::uint;
using ::ulong;
using ::bfloat;
using ::int8_t;
using ::uint8_t;
using ::int16_t;
using ::uint16_t;
using ::int32_t;
using ::uint32_t;
using ::int64_t;
using ::uint64_t;
using ::size_t;
using ::ptrdiff_t;
}  // namespace metal

#ifndef assert
#define assert(condition) ((void)0)
#endif
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define HUGE_VALH ((half)__builtin_inff())
#define HUGE_VALBF ((bfloat)__builtin_inff())
#define MAXFLOAT 3.40282346638528859812e+38f
#define FLT_MAX 3.40282346638528859812e+38f
#define FLT_MIN 1.17549435082228750797e-38f
#define FLT_EPSILON 1.19209289550781250000e-07f
#define FLT_DIG 6
#define FLT_MANT_DIG 24
#define HALF_MAX 65504.0h
#define MAXHALF 65504.0h
#define HALF_MIN 6.103515625e-05h
#define HALF_EPSILON 9.765625e-04h
#define CHAR_BIT 8
#define SCHAR_MAX 127
#define SCHAR_MIN (-128)
#define UCHAR_MAX 255
#define SHRT_MAX 32767
#define SHRT_MIN (-32768)
#define USHRT_MAX 65535
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define LONG_MAX 9223372036854775807l
#define LONG_MIN (-9223372036854775807l - 1)
#define ULONG_MAX 18446744073709551615ul

#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_E_H 2.71828182845904523536h
#define M_LOG2E_H 1.44269504088896340736h
#define M_LN2_H 0.69314718055994530942h
#define M_LN10_H 2.30258509299404568402h
#define M_PI_H 3.14159265358979323846h
#define M_SQRT2_H 1.41421356237309504880h
