// Atomics on device and threadgroup memory. The operations are in runtime/atomics.c.
#pragma once
namespace metal {
template <typename T>
struct _atomic {
  static_assert(__is_same(T, int) || __is_same(T, uint) || __is_same(T, bool) || __is_same(T, ulong) ||
                    __is_same(T, float),
                "atomic<T> exists for int, uint, bool, ulong and float");
  T __value;
};
template <typename T>
using atomic = _atomic<T>;
// clang has OpenCL's types of these names.
#define atomic_int __metal_atomic_int
#define atomic_uint __metal_atomic_uint
#define atomic_bool __metal_atomic_bool
#define atomic_ulong __metal_atomic_ulong
#define atomic_float __metal_atomic_float
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<bool> atomic_bool;
typedef _atomic<ulong> atomic_ulong;
typedef _atomic<float> atomic_float;

enum __atomic_operation { __METAL_ATOMICS(__METAL_NAME) };
extern "C" {
int metal_atomic_int(ulong address, uint operation, int value);
uint metal_atomic_uint(ulong address, uint operation, uint value);
uchar metal_atomic_bool(ulong address, uint operation, uchar value);
ulong metal_atomic_ulong(ulong address, uint operation, ulong value);
float metal_atomic_float(ulong address, uint operation, float value);
int metal_atomic_compare_exchange_int(ulong address, thread int* expected, int desired);
int metal_atomic_compare_exchange_uint(ulong address, thread uint* expected, uint desired);
int metal_atomic_compare_exchange_bool(ulong address, thread uchar* expected, uchar desired);
}
METAL_FUNC int __apply(ulong address, uint operation, int value) { return metal_atomic_int(address, operation, value); }
METAL_FUNC uint __apply(ulong address, uint operation, uint value) {
  return metal_atomic_uint(address, operation, value);
}
METAL_FUNC bool __apply(ulong address, uint operation, bool value) {
  return metal_atomic_bool(address, operation, value);
}
METAL_FUNC ulong __apply(ulong address, uint operation, ulong value) {
  return metal_atomic_ulong(address, operation, value);
}
METAL_FUNC float __apply(ulong address, uint operation, float value) {
  return metal_atomic_float(address, operation, value);
}
METAL_FUNC bool __swap(ulong p, thread int* e, int d) { return metal_atomic_compare_exchange_int(p, e, d); }
METAL_FUNC bool __swap(ulong p, thread uint* e, uint d) { return metal_atomic_compare_exchange_uint(p, e, d); }
METAL_FUNC bool __swap(ulong p, thread bool* e, bool d) {
  return metal_atomic_compare_exchange_bool(p, (thread uchar*)e, d);
}
METAL_FUNC bool __swap(ulong p, thread float* e, float d) {
  return metal_atomic_compare_exchange_uint(p, (thread uint*)e, as_type<uint>(d));
}

// Functions exist for the types that the specification names: float is for device memory and for sums alone, ulong for the
// two functions without a result.
template <typename T, typename... U> struct __is_one_of : bool_constant<(is_same<T, U>::value || ...)> {};
#define __METAL_ATOMIC_OF(...) template <typename T, typename = enable_if_t<__is_one_of<T, __VA_ARGS__>::value>>
#define __METAL_ATOMIC_UPDATE(name, operation, space, ...)                                                        \
  __METAL_ATOMIC_OF(__VA_ARGS__)                                                                                  \
  METAL_FUNC T name(volatile space _atomic<T>* object, typename type_identity<T>::type value, memory_order) {     \
    return __apply((ulong)object, operation, value);                                                              \
  }
#define __METAL_ATOMICS(space, ...) /* the types but int, uint and bool */                                        \
  __METAL_ATOMIC_OF(int, uint, bool, __VA_ARGS__)                                                                 \
  METAL_FUNC T atomic_load_explicit(const volatile space _atomic<T>* object, memory_order) {                      \
    return __apply((ulong)object, __LOAD, T(0));                                                                  \
  }                                                                                                               \
  __METAL_ATOMIC_OF(int, uint, bool, __VA_ARGS__)                                                                 \
  METAL_FUNC void atomic_store_explicit(volatile space _atomic<T>* object, typename type_identity<T>::type value, memory_order) { \
    __apply((ulong)object, __STORE, value);                                                                       \
  }                                                                                                               \
  __METAL_ATOMIC_OF(int, uint, bool, __VA_ARGS__)                                                                 \
  METAL_FUNC bool atomic_compare_exchange_weak_explicit(volatile space _atomic<T>* object, thread T* expected,    \
                                                        typename type_identity<T>::type desired, memory_order, memory_order) { \
    return __swap((ulong)object, expected, desired);                                                              \
  }                                                                                                               \
  __METAL_ATOMIC_UPDATE(atomic_exchange_explicit, __EXCHANGE, space, int, uint, bool, __VA_ARGS__)                \
  __METAL_ATOMIC_UPDATE(atomic_fetch_add_explicit, __ADD, space, int, uint, __VA_ARGS__)                          \
  __METAL_ATOMIC_UPDATE(atomic_fetch_sub_explicit, __SUBTRACT, space, int, uint, __VA_ARGS__)                     \
  __METAL_ATOMIC_UPDATE(atomic_fetch_min_explicit, __LEAST, space, int, uint)                                     \
  __METAL_ATOMIC_UPDATE(atomic_fetch_max_explicit, __MOST, space, int, uint)                                      \
  __METAL_ATOMIC_UPDATE(atomic_fetch_and_explicit, __BIT_AND, space, int, uint)                                   \
  __METAL_ATOMIC_UPDATE(atomic_fetch_or_explicit, __BIT_OR, space, int, uint)                                     \
  __METAL_ATOMIC_UPDATE(atomic_fetch_xor_explicit, __BIT_XOR, space, int, uint)
METAL_FUNC void atomic_max_explicit(volatile device _atomic<ulong>* object, ulong value, memory_order) {
  __apply((ulong)object, __MOST, value);
}
METAL_FUNC void atomic_min_explicit(volatile device _atomic<ulong>* object, ulong value, memory_order) {
  __apply((ulong)object, __LEAST, value);
}
__METAL_ATOMICS(device, float)
__METAL_ATOMICS(threadgroup, int)
}  // namespace metal
