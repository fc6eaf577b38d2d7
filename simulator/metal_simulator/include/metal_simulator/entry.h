// What the front end's generated entry point uses: kernel arguments, positions, threadgroup variables.
#pragma once
#include <metal_simulator/interface.h>
namespace metal {
struct __context { __METAL_CONTEXT(uint, ulong) };

// Converts to the type of the kernel's parameter, whatever it is, when the entry point passes it.
struct __pointer_argument {
  ulong address;
  template <typename T> METAL_FUNC operator __global T*() const { return (__global T*)address; }
  template <typename T> METAL_FUNC operator __constant T*() const { return (__constant T*)address; }
  template <typename T> METAL_FUNC operator __local T*() const { return (__local T*)address; }
};
struct __reference_argument {
  ulong address;
  template <typename T> METAL_FUNC operator __global T&() const { return *(__global T*)address; }
  template <typename T> METAL_FUNC operator __constant T&() const { return *(__constant T*)address; }
  template <typename T> METAL_FUNC operator __local T&() const { return *(__local T*)address; }
};
struct __position_argument {
  uint x, y, z;
  template <typename T> METAL_FUNC operator T() const {
    using S = typename __is_vector<T>::scalar;
    if constexpr (__is_vector<T>::size == 3) return T{S(x), S(y), S(z)};
    else if constexpr (__is_vector<T>::size == 2) return T{S(x), S(y)};
    else return T(x);
  }
};

METAL_FUNC ulong __argument(ulong table, uint index) { return ((__private const ulong*)table)[index]; }
METAL_FUNC __position_argument __position(__private const uint* p) { return {p[0], p[1], p[2]}; }
METAL_FUNC __position_argument __scalar(uint value) { return {value, 0, 0}; }
METAL_FUNC __position_argument __threads_per_grid(ulong shape) {
  __private const uint* s = (__private const uint*)shape;
  return {s[3] * s[6], s[4] * s[7], s[5] * s[8]};
}
METAL_FUNC __position_argument __origin() { return {0, 0, 0}; }
METAL_FUNC __position_argument __quadgroups(ulong shape) {
  __private const uint* s = (__private const uint*)shape;
  return {(s[6] * s[7] * s[8] + 3) / 4, 0, 0};
}
METAL_FUNC __position_argument __shape(ulong shape, uint at) { return __position((__private const uint*)shape + at); }

// Of a position at namespace scope.
extern "C" __private const __context* metal_context(void);
template <typename T> METAL_FUNC T __input(__position_argument position) { return position; }

template <typename T, int alignment>
struct __threadgroup_storage {
  alignas(alignment) alignas(T) char bytes[sizeof(T)];
};

extern "C" {
__attribute__((const)) ulong metal_threadgroup_memory(void);
extern __attribute__((weak, visibility("hidden"))) __constant const char __start_metal_threadgroup[];
extern __attribute__((weak, visibility("hidden"))) __constant const char __stop_metal_threadgroup[];
}

// A threadgroup variable: its place in the linker's section of all of them is its place in the worker's memory.
#ifdef METAL_SIMULATOR_RUN
template <typename T, int id, int alignment>
METAL_FUNC __local T& __threadgroup_variable() {
  static __global __threadgroup_storage<T, alignment> storage __attribute__((section("metal_threadgroup")));
  return *(__local T*)(metal_threadgroup_memory() + ((ulong)&storage - (ulong)__start_metal_threadgroup));
}
#else
template <typename T, int id, int alignment>
__local T& __threadgroup_variable();
#endif
}  // namespace metal
