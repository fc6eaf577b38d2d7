// What the stand-in headers call, for NVIDIA GPUs: a SIMD group is a warp, threadgroup memory is shared memory.
//
// Hardware lane h runs Metal's lane l with l4 = h4, l3 = h1, l2 = h3, l1 = h2, l0 = h0: then lane h holds row h / 4 and
// columns 2 (h % 4) and the next of an 8x8 matrix, which is how NVIDIA's matrix instructions lay one out. The relabelling
// moves bits, so the xor of two lanes is relabelled as they are.
//
// Lanes of a SIMD group must come together to SIMD-group functions. MATRIX_FAST: matrix products by tensor cores.
#include "../include/metal_simulator/interface.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef int i32;
typedef long i64;
typedef float float2 __attribute__((ext_vector_type(2)));

#define INLINE static inline __attribute__((always_inline))
#define BUILTIN __attribute__((always_inline))
#define ALL 0xFFFFFFFFu

INLINE u32 hardware_lane(u32 l) { return (l & 17) | (l & 4) << 1 | (l & 2) << 1 | (l & 8) >> 2; }
INLINE u32 metal_lane_of(u32 h) { return (h & 17) | (h & 2) << 2 | (h & 8) >> 1 | (h & 4) >> 1; }
INLINE u32 hardware_thread(void) {
  return __nvvm_read_ptx_sreg_tid_x() +
         __nvvm_read_ptx_sreg_ntid_x() *
             (__nvvm_read_ptx_sreg_tid_y() + __nvvm_read_ptx_sreg_ntid_y() * __nvvm_read_ptx_sreg_tid_z());
}
INLINE u32 my_hardware_lane(void) { return hardware_thread() & 31; }

// What the entry point puts into the kernel's context.
BUILTIN u32 metal_thread_index(void) {
  u32 thread = hardware_thread();
  return (thread & ~31u) | metal_lane_of(thread & 31);
}
BUILTIN u32 metal_lane(void) { return metal_lane_of(my_hardware_lane()); }
BUILTIN u32 metal_group(void) { return __nvvm_read_ptx_sreg_ctaid_x(); }
BUILTIN u32 metal_threads(u32 axis) {
  return axis == 0   ? __nvvm_read_ptx_sreg_ntid_x()
         : axis == 1 ? __nvvm_read_ptx_sreg_ntid_y()
                     : __nvvm_read_ptx_sreg_ntid_z();
}

// Threadgroup variables are placed by address, so that the memory as a whole starts at 0; what arguments have follows.
extern __attribute__((address_space(3), aligned(16))) u8 metal_dynamic[];
BUILTIN u64 metal_threadgroup_memory(void) { return 0; }
BUILTIN u64 metal_dynamic_memory(void) { return (u64)metal_dynamic; }

// Barriers. Every kind of memory is ordered, whatever the flags say.
BUILTIN void metal_threadgroup_barrier(u32 flags) { __syncthreads(); }

// SIMD-group functions: the kinds from QUAD_SUM are those from SUM, of quad-groups.
#define NUMBER(name, text) name,
#define NAME(name) name,
enum { __METAL_COLLECTIVES(NUMBER) COLLECTIVES };
enum { __METAL_LANE_TYPES(NAME) LANE_TYPES };

INLINE float as_float(u32 bits) { return __builtin_bit_cast(float, bits); }
INLINE u32 as_bits(float value) { return __builtin_bit_cast(u32, value); }

INLINE u32 from_hardware(u32 x, u32 lane) { return __nvvm_shfl_sync_idx_i32(ALL, x, lane, 31); }
INLINE u32 from_lane(u32 x, u32 lane) { return from_hardware(x, hardware_lane(lane & 31)); }
INLINE u32 from_xor(u32 x, u32 mask) { return __nvvm_shfl_sync_bfly_i32(ALL, x, hardware_lane(mask & 31), 31); }
INLINE u64 wide_from_xor(u64 x, u32 mask) { return from_xor(x, mask) | (u64)from_xor(x >> 32, mask) << 32; }
// Both halves; the upper one only where it may be other than 0.
INLINE u64 wide_from_lane(u64 x, u32 lane) {
  u32 high = x >> 32;
  u64 moved = from_lane(x, lane);
  if (__builtin_constant_p(high) && !high) return moved;
  return moved | (u64)from_lane(high, lane) << 32;
}

INLINE u32 combine(u32 kind, u32 type, u32 x, u32 y) {
  float a = as_float(x), b = as_float(y);
  switch (kind) {
    case SUM: return type == FLOAT ? as_bits(a + b) : x + y;
    case PRODUCT: return type == FLOAT ? as_bits(a * b) : x * y;
    case MINIMUM:
      return type == FLOAT    ? as_bits(__builtin_fminf(a, b))
             : type == SIGNED ? ((i32)x < (i32)y ? x : y)
             : x < y          ? x
                              : y;
    case MAXIMUM:
      return type == FLOAT    ? as_bits(__builtin_fmaxf(a, b))
             : type == SIGNED ? ((i32)x > (i32)y ? x : y)
             : x > y          ? x
                              : y;
    case AND: return x & y;
    case OR: return x | y;
    default: return x ^ y;
  }
}

INLINE u64 combine_wide(u32 kind, u32 type, u64 x, u64 y) {
  switch (kind) {
    case SUM: return x + y;
    case PRODUCT: return x * y;
    case MINIMUM: return type == LONG ? ((i64)x < (i64)y ? x : y) : x < y ? x : y;
    case MAXIMUM: return type == LONG ? ((i64)x > (i64)y ? x : y) : x > y ? x : y;
    case AND: return x & y;
    case OR: return x | y;
    default: return x ^ y;
  }
}

// The tree of the CPU runtime: every lane adds the same pairs.
INLINE u64 reduce(u32 kind, u32 type, u64 x, u32 width) {
#pragma unroll
  for (u32 step = width / 2; step; step /= 2)
    x = type < LONG ? combine(kind, type, x, from_xor(x, step)) : combine_wide(kind, type, x, wide_from_xor(x, step));
  return x;
}

INLINE u64 scan(u32 kind, u32 type, u64 x, u32 width) {
  int product = kind == PREFIX_INCLUSIVE_PRODUCT || kind == PREFIX_EXCLUSIVE_PRODUCT;
  int inclusive = kind == PREFIX_INCLUSIVE_SUM || kind == PREFIX_INCLUSIVE_PRODUCT;
  u32 lane = metal_lane(), base = lane & -width;
  u64 result = product ? (type == FLOAT ? as_bits(1) : 1) : 0;
  kind = product ? PRODUCT : SUM;
  for (u32 i = base; i < base + width; i++) {
    u64 other = type < LONG ? from_lane(x, i) : wide_from_lane(x, i);
    if (i < lane + inclusive)
      result = type < LONG ? combine(kind, type, result, other) : combine_wide(kind, type, result, other);
  }
  return result;
}

INLINE u64 move(u32 kind, u64 x, u64 fill, u32 parameter, u32 width) {
  u32 lane = metal_lane(), p = parameter & 0xFFFF, modulo = parameter >> 16, base = lane & -width, at = lane % width;
  u64 moved, filled;
  switch (kind) {
    case SHUFFLE:
    case BROADCAST: return wide_from_lane(x, base + p % width);
    case BROADCAST_FIRST: return wide_from_lane(x, base);
    case SHUFFLE_XOR: return wide_from_lane(x, lane ^ p % width);
    case SHUFFLE_UP: return wide_from_lane(x, at < p ? lane : lane - p);
    case SHUFFLE_DOWN: return wide_from_lane(x, at + p >= width ? lane : lane + p);
    case ROTATE_UP: return wide_from_lane(x, base + (at - p) % width);
    case ROTATE_DOWN: return wide_from_lane(x, base + (at + p) % width);
    case FILL_UP:
      moved = wide_from_lane(x, lane - p), filled = wide_from_lane(fill, lane + modulo - p);
      return lane % modulo < p ? filled : moved;
    default:  // FILL_DOWN
      moved = wide_from_lane(x, lane + p), filled = wide_from_lane(fill, lane + p - modulo);
      return lane % modulo + p >= modulo ? filled : moved;
  }
}

// Swaps two bits of every bit's index: those at `from`, with the one set and the other not, move up by `distance`.
INLINE u32 swapped(u32 bits, u32 distance, u32 from) {
  u32 different = (bits ^ bits >> distance) & from;
  return bits ^ different ^ different << distance;
}

// Votes below, lanes that vote above, by Metal's lanes.
INLINE u64 ballot(u64 x, u32 width) {
  u32 votes = swapped(swapped(__nvvm_vote_ballot_sync(ALL, x != 0), 6, 0x00CC00CC), 2, 0x0C0C0C0C);
  u32 group = ALL >> (32 - width);
  return (votes >> (metal_lane() & -width) & group) | (u64)group << 32;
}

BUILTIN u64 metal_collective(u32 operation, u64 value, u64 fill, u32 parameter) {
  u32 kind = operation & 0xFF, type = operation >> 8, width = kind < QUAD_SUM ? 32 : 4;
  if (kind == SIMD_BARRIER || kind == MATRIX_STORE) return __nvvm_bar_warp_sync(ALL), 0;
  if (kind >= QUAD_SUM) kind -= QUAD_SUM - SUM;
  if (kind <= XOR) return reduce(kind, type, value, width);
  if (kind <= PREFIX_EXCLUSIVE_PRODUCT) return scan(kind, type, value, width);
  if (kind == BALLOT) return ballot(value, width);
  return move(kind, value, fill, parameter, width);
}

// 8x8 matrices. c + a b with every sum in fp32.
BUILTIN u32 metal_matrix_element(void) { return 2 * my_hardware_lane(); }

#ifndef MATRIX_FAST
BUILTIN float2 metal_multiply_accumulate(float2 a, float2 b, float2 c) {
  u32 lane = my_hardware_lane(), row = lane & 28, column = lane & 3;
#pragma unroll 1  // ptxas would move the shuffles of all products ahead, and run out of registers
  for (u32 pair = 0; pair < 4; pair++) {
    float even = as_float(from_hardware(as_bits(a.x), row | pair)),
          odd = as_float(from_hardware(as_bits(a.y), row | pair));
    c.x = __builtin_fmaf(even, as_float(from_hardware(as_bits(b.x), 8 * pair | column)), c.x);
    c.y = __builtin_fmaf(even, as_float(from_hardware(as_bits(b.y), 8 * pair | column)), c.y);
    c.x = __builtin_fmaf(odd, as_float(from_hardware(as_bits(b.x), 8 * pair + 4 | column)), c.x);
    c.y = __builtin_fmaf(odd, as_float(from_hardware(as_bits(b.y), 8 * pair + 4 | column)), c.y);
  }
  return c;
}
#else
// One tf32 product, half of whose 16 rows are 0. Half and bfloat operands are exact in tf32, fp32 ones are rounded to its
// 11 bits. a holds columns (2p, 2p + 1) where the instruction has (p, p + 4): b's rows are permuted the same way, by being
// taken from its transpose.
INLINE u32 transposed_16(u32 x) {
  u32 result;
  __asm__ volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(x));
  return result;
}
INLINE u32 tf32(u32 x) {
  u32 result;
  __asm__("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(as_float(x)));
  return result;
}
BUILTIN float2 metal_multiply_accumulate(float2 a, float2 b, float2 c) {
  u32 x = as_bits(b.x), y = as_bits(b.y);
  u32 low = transposed_16((x & 0xFFFF) | y << 16), high = transposed_16(x >> 16 | (y & 0xFFFF0000u));
  u32 b0 = tf32((low & 0xFFFF) | high << 16), b1 = tf32(low >> 16 | (high & 0xFFFF0000u));
  float unused0, unused1;
  __asm__ volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%9, %10, %11, %11};"
      : "=f"(c.x), "=f"(c.y), "=f"(unused0), "=f"(unused1)
      : "r"(tf32(as_bits(a.x))), "r"(0), "r"(tf32(as_bits(a.y))), "r"(b0), "r"(b1), "f"(c.x), "f"(c.y), "f"(0.0f));
  return c;
}
#endif

// Atomic operations. Shared memory ends far below the lowest device address.
enum { __METAL_ATOMICS(NAME) ATOMICS };
#define DEVICE __attribute__((address_space(1)))
#define SHARED __attribute__((address_space(3)))
INLINE int is_shared(u64 address) { return address < 1 << 20; }

#define INTEGER_IN(space, name, type)                                                         \
  INLINE type name(space type* p, u32 operation, type value) {                                \
    switch (operation) {                                                                      \
      case LOAD: return __atomic_load_n(p, __ATOMIC_RELAXED);                                 \
      case STORE: __atomic_store_n(p, value, __ATOMIC_RELAXED); return value;                 \
      case EXCHANGE: return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);                  \
      case ADD: return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);                        \
      case SUBTRACT: return __atomic_fetch_sub(p, value, __ATOMIC_RELAXED);                   \
      case LEAST: return __atomic_fetch_min(p, value, __ATOMIC_RELAXED);                      \
      case MOST: return __atomic_fetch_max(p, value, __ATOMIC_RELAXED);                       \
      case BIT_AND: return __atomic_fetch_and(p, value, __ATOMIC_RELAXED);                    \
      case BIT_OR: return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);                      \
      default: return __atomic_fetch_xor(p, value, __ATOMIC_RELAXED);                         \
    }                                                                                         \
  }
#define INTEGER(name, type)                                                                                        \
  INTEGER_IN(DEVICE, device_##name, type)                                                                          \
  INTEGER_IN(SHARED, shared_##name, type)                                                                          \
  BUILTIN type metal_atomic_##name(u64 address, u32 operation, type value) {                                       \
    return is_shared(address) ? shared_##name((SHARED type*)address, operation, value)                             \
                              : device_##name((DEVICE type*)address, operation, value);                            \
  }                                                                                                                \
  BUILTIN int metal_atomic_compare_exchange_##name(u64 address, type* expected, type desired) {                    \
    type before = *expected;                                                                                       \
    int same = is_shared(address)                                                                                  \
                   ? __atomic_compare_exchange_n((SHARED type*)address, &before, desired, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)   \
                   : __atomic_compare_exchange_n((DEVICE type*)address, &before, desired, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);  \
    *expected = before;                                                                                            \
    return same;                                                                                                   \
  }
INTEGER(int, i32)
INTEGER(uint, u32)
INTEGER(bool, u8)
INTEGER(ulong, u64)

INLINE float updated(u32 operation, float old, float value) {
  switch (operation) {
    case ADD: return old + value;
    case SUBTRACT: return old - value;
    default: return value;
  }
}
BUILTIN float metal_atomic_float(u64 address, u32 operation, float value) {
  u32 before = metal_atomic_uint(address, LOAD, 0);
  if (operation == LOAD) return as_float(before);
  while (!metal_atomic_compare_exchange_uint(address, &before, as_bits(updated(operation, as_float(before), value)))) {
  }
  return as_float(before);
}

// The mathematical functions that clang takes from a C library; NVIDIA's own, from libdevice.
#define FUNCTION1(name)          \
  float __nv_##name(float);      \
  BUILTIN float name(float x) { return __nv_##name(x); }
#define FUNCTION2(name)                \
  float __nv_##name(float, float);     \
  BUILTIN float name(float x, float y) { return __nv_##name(x, y); }
FUNCTION1(acosf)
FUNCTION1(acoshf)
FUNCTION1(asinf)
FUNCTION1(asinhf)
FUNCTION1(atanf)
FUNCTION1(atanhf)
FUNCTION1(cosf)
FUNCTION1(coshf)
FUNCTION1(expf)
FUNCTION1(exp2f)
FUNCTION1(logf)
FUNCTION1(log2f)
FUNCTION1(log10f)
FUNCTION1(sinf)
FUNCTION1(sinhf)
FUNCTION1(sqrtf)
FUNCTION1(tanf)
FUNCTION1(tanhf)
FUNCTION2(atan2f)
FUNCTION2(powf)
FUNCTION2(fmodf)
FUNCTION2(fdimf)
FUNCTION2(nextafterf)
