// The compiler's own functions, which some kernels call to give bfloat the functions that Metal has for float only.
#pragma once
#define __METAL_FAST_MATH__ 1
#define __METAL_PRECISE_MATH__ 0
#define __METAL_MAYBE_FAST_MATH__ 0
#define __METAL_MEMORY_SCOPE_SYSTEM__ 3
namespace metal {
// The last argument, in mathematical functions, chooses between fast and precise; here they are one.
#define __METAL_TRANSCENDENTAL1(f, e)                                     \
  METAL_FUNC float __metal_##f(float x, bool) { return e; }               \
  METAL_FUNC half __metal_##f(half h, bool) { float x = h; return half(e); }
#define __METAL_TRANSCENDENTAL2(f, e)                                     \
  METAL_FUNC float __metal_##f(float x, float y, bool) { return e; }      \
  METAL_FUNC half __metal_##f(half a, half b, bool) { float x = a, y = b; return half(e); }
#define __METAL_TRANSCENDENTAL3(f, e)                                     \
  METAL_FUNC float __metal_##f(float x, float y, float z, bool) { return e; } \
  METAL_FUNC half __metal_##f(half a, half b, half c, bool) { float x = a, y = b, z = c; return half(e); }
__METAL_FUNCTIONS
#undef __METAL_TRANSCENDENTAL1
#undef __METAL_TRANSCENDENTAL2
#undef __METAL_TRANSCENDENTAL3
METAL_FUNC float __metal_fract(float x, bool) { return fract(x); }
METAL_FUNC half __metal_fract(half x, bool) { return fract(x); }
METAL_FUNC float __metal_fma(float x, float y, float z) { return fma(x, y, z); }
METAL_FUNC float __metal_nextafter(float x, float y) { return nextafter(x, y); }
METAL_FUNC float __metal_ldexp(float x, int k, bool) { return ldexp(x, k); }
METAL_FUNC float __metal_frexp(float x, thread int* exponent) { return frexp(x, *exponent); }

METAL_FUNC ushort __metal_get_simdgroup_size(ushort) { return 32; }
METAL_FUNC ushort __metal_get_thread_index_in_simdgroup(ushort) { return metal_lane(); }
METAL_FUNC uint __metal_get_thread_index_in_simdgroup(uint) { return metal_lane(); }
#define __METAL_INTERNAL(name)                                            \
  template <typename... T> METAL_FUNC auto __metal_##name(T... arguments) { return name(arguments...); }
// clang-format off
__METAL_INTERNAL(simd_sum) __METAL_INTERNAL(simd_product) __METAL_INTERNAL(simd_min) __METAL_INTERNAL(simd_max)
// clang-format on
METAL_FUNC float __metal_simd_xor(float x) { return as_type<float>(simd_xor(as_type<uint>(x))); }
// clang-format off
__METAL_INTERNAL(simd_and) __METAL_INTERNAL(simd_or) __METAL_INTERNAL(simd_xor)
__METAL_INTERNAL(simd_prefix_inclusive_sum) __METAL_INTERNAL(simd_prefix_exclusive_sum)
__METAL_INTERNAL(simd_prefix_inclusive_product) __METAL_INTERNAL(simd_prefix_exclusive_product)
__METAL_INTERNAL(simd_broadcast) __METAL_INTERNAL(simd_broadcast_first) __METAL_INTERNAL(simd_shuffle)
__METAL_INTERNAL(simd_shuffle_xor) __METAL_INTERNAL(simd_shuffle_up) __METAL_INTERNAL(simd_shuffle_down)
__METAL_INTERNAL(simd_shuffle_rotate_up) __METAL_INTERNAL(simd_shuffle_rotate_down)
__METAL_INTERNAL(simd_shuffle_and_fill_up) __METAL_INTERNAL(simd_shuffle_and_fill_down)
// clang-format on
}  // namespace metal
using metal::__metal_get_thread_index_in_simdgroup;
using metal::__metal_get_simdgroup_size;
