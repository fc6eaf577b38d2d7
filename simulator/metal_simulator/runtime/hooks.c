// The functions that clang's thread sanitizer pass calls before every access of an instrumented kernel. It says
// `unaligned` where the type does not promise a multiple of the size.
#include "runtime.h"

#define SITE __builtin_return_address(0)
#define HOOKS(bytes)                                                                            \
  void __tsan_unaligned_read##bytes(void* p) { metal_check_access(p, bytes, READS, SITE); }     \
  void __tsan_unaligned_write##bytes(void* p) { metal_check_access(p, bytes, WRITES, SITE); }   \
  void __tsan_read##bytes(void* p) {                                                            \
    if ((uintptr_t)p % bytes) metal_check_aligned(p, bytes, bytes, SITE);                       \
    metal_check_access(p, bytes, READS, SITE);                                                  \
  }                                                                                             \
  void __tsan_write##bytes(void* p) {                                                           \
    if ((uintptr_t)p % bytes) metal_check_aligned(p, bytes, bytes, SITE);                       \
    metal_check_access(p, bytes, WRITES, SITE);                                                 \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_init(void) {}
void __tsan_func_entry(void* site) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void** pointer, void* value) {}

// Those that follow are not of the sanitizer: checking.py inserts them.
void __tsan_alignment(void* p, uint32_t bytes, uint32_t alignment) {
  if ((uintptr_t)p % alignment) metal_check_aligned(p, bytes, alignment, SITE);
}

#define SIZED_HOOK(name, kind)                                                           \
  void name(void* p, uint64_t bytes, uint32_t alignment) {                               \
    if ((uintptr_t)p % alignment) metal_check_aligned(p, bytes, alignment, SITE);        \
    metal_check_access(p, bytes, kind, SITE);                                            \
  }
SIZED_HOOK(__tsan_sized_read, READS)
SIZED_HOOK(__tsan_sized_write, WRITES)
SIZED_HOOK(__tsan_memory_read, READS | COPIES)
SIZED_HOOK(__tsan_memory_write, WRITES | COPIES)
SIZED_HOOK(__tsan_vector_read, READS | THREE)
