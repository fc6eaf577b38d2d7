// Atomic operations on device and threadgroup memory. All are sequentially consistent, which relaxed order allows.
#include "runtime.h"

#include <string.h>

static void check(void* address, uint32_t size, int operation, const void* site) {
  if (!metal_current->worker->shadow) return;
  if ((uintptr_t)address % size) metal_check_aligned(address, size, size, site);
  metal_check_access(address, size, ATOMIC | (operation != STORE ? READS : 0) | (operation != LOAD ? WRITES : 0), site);
}

#define INTEGER(name, type)                                                                                        \
  type metal_atomic_##name(type* address, uint32_t operation, type value) {                                        \
    check(address, sizeof(type), operation, __builtin_return_address(0));                                          \
    switch (operation) {                                                                                           \
      case LOAD: return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                \
      case STORE: __atomic_store_n(address, value, __ATOMIC_SEQ_CST); return value;                                \
      case EXCHANGE: return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);                                 \
      case ADD: return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                       \
      case SUBTRACT: return __atomic_fetch_sub(address, value, __ATOMIC_SEQ_CST);                                  \
      case LEAST: return __atomic_fetch_min(address, value, __ATOMIC_SEQ_CST);                                     \
      case MOST: return __atomic_fetch_max(address, value, __ATOMIC_SEQ_CST);                                      \
      case BIT_AND: return __atomic_fetch_and(address, value, __ATOMIC_SEQ_CST);                                   \
      case BIT_OR: return __atomic_fetch_or(address, value, __ATOMIC_SEQ_CST);                                     \
      default: return __atomic_fetch_xor(address, value, __ATOMIC_SEQ_CST);                                        \
    }                                                                                                              \
  }                                                                                                                \
  int metal_atomic_compare_exchange_##name(type* address, type* expected, type desired) {                          \
    check(address, sizeof(type), EXCHANGE, __builtin_return_address(0));                                           \
    return __atomic_compare_exchange_n(address, expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);         \
  }
INTEGER(int, int32_t)
INTEGER(uint, uint32_t)
INTEGER(bool, uint8_t)
INTEGER(ulong, uint64_t)

static float apply(uint32_t operation, float old, float value) {
  switch (operation) {
    case LOAD: return old;
    case ADD: return old + value;
    case SUBTRACT: return old - value;
    default: return value;
  }
}

float metal_atomic_float(float* address, uint32_t operation, float value) {
  check(address, sizeof *address, operation, __builtin_return_address(0));
  uint32_t *word = (uint32_t*)address, old = __atomic_load_n(word, __ATOMIC_SEQ_CST), bits;
  for (;;) {
    float before;
    memcpy(&before, &old, sizeof before);
    float after = apply(operation, before, value);
    memcpy(&bits, &after, sizeof bits);
    if (operation == LOAD || __atomic_compare_exchange_n(word, &old, bits, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      return before;
  }
}
