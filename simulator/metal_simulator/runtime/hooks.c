// The functions that clang's thread sanitizer pass calls before every access of an instrumented kernel. It says
// `unaligned` where the type does not promise a multiple of the size.
#include "runtime.h"

#include <string.h>

#define SITE __builtin_return_address(0)
#define HOOKS(bytes)                                                                             \
  void __tsan_unaligned_read##bytes(void* p) { metal_check_access(p, bytes, 0, 0, SITE); }       \
  void __tsan_unaligned_write##bytes(void* p) { metal_check_access(p, bytes, 1, 0, SITE); }      \
  void __tsan_read##bytes(void* p) {                                                             \
    if ((uintptr_t)p % bytes) metal_check_aligned(p, bytes, SITE);                               \
    metal_check_access(p, bytes, 0, 0, SITE);                                                    \
  }                                                                                              \
  void __tsan_write##bytes(void* p) {                                                            \
    if ((uintptr_t)p % bytes) metal_check_aligned(p, bytes, SITE);                               \
    metal_check_access(p, bytes, 1, 0, SITE);                                                    \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOKS(32)  // not of the sanitizer: instrument.py inserts them

void __tsan_init(void) {}
void __tsan_func_entry(void* site) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void** pointer, void* value) {}

void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  metal_check_access(from, bytes, 0, 0, SITE);
  metal_check_access(to, bytes, 1, 0, SITE);
  return memcpy(to, from, bytes);
}

void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  metal_check_access(from, bytes, 0, 0, SITE);
  metal_check_access(to, bytes, 1, 0, SITE);
  return memmove(to, from, bytes);
}

void* __tsan_memset(void* to, int value, size_t bytes) {
  metal_check_access(to, bytes, 1, 0, SITE);
  return memset(to, value, bytes);
}
