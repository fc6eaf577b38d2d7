// Barriers and fences.
#pragma once
#include <metal_simulator/interface.h>
namespace metal {
enum class mem_flags {
  mem_none = 0,
  mem_device = __METAL_MEM_DEVICE,
  mem_threadgroup = __METAL_MEM_THREADGROUP,
  mem_device_and_threadgroup = 3,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8
};
METAL_FUNC constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }
#define __METAL_ORDER(number, name) memory_order_##name,
enum memory_order { __METAL_MEMORY_ORDERS(__METAL_ORDER) };
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };

#define __METAL_NUMBER(name, text) __##name,
#define __METAL_NAME(name) __##name,
// Those from __QUAD_SUM are those from __SUM, of quad-groups.
enum __collective { __METAL_COLLECTIVES(__METAL_NUMBER) };
enum __lane_type { __METAL_LANE_TYPES(__METAL_NAME) };

extern "C" {
__attribute__((convergent, nomerge)) void metal_threadgroup_barrier(uint flags);
__attribute__((convergent, nomerge)) ulong metal_collective(uint operation, ulong value, ulong fill, uint parameter);
void metal_fence(uint flags, uint order, uint scope);
}
METAL_FUNC void threadgroup_barrier(mem_flags flags) { metal_threadgroup_barrier(uint(flags)); }
METAL_FUNC void threadgroup_barrier(mem_flags flags, memory_order, thread_scope) { threadgroup_barrier(flags); }
METAL_FUNC void simdgroup_barrier(mem_flags flags) { metal_collective(__SIMD_BARRIER, 0, 0, uint(flags)); }
METAL_FUNC void atomic_thread_fence(mem_flags flags, memory_order order, thread_scope scope = thread_scope_device) {
  metal_fence(uint(flags), order, scope);
}
}  // namespace metal
