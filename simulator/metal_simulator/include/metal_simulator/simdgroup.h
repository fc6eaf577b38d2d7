// SIMD-group and quad-group functions. Every call is a rendezvous of the lanes in the runtime (runtime/collectives.c).
#pragma once
namespace metal {
// Kept equal to the enumerations of runtime/collectives.c.
enum __collective {
  __PRODUCT_8X8, __SIMD_BARRIER, __SUM, __PRODUCT, __MINIMUM, __MAXIMUM, __AND, __OR, __XOR, __PREFIX_INCLUSIVE_SUM,
  __PREFIX_EXCLUSIVE_SUM, __PREFIX_INCLUSIVE_PRODUCT, __PREFIX_EXCLUSIVE_PRODUCT, __SHUFFLE, __SHUFFLE_XOR, __SHUFFLE_UP,
  __SHUFFLE_DOWN, __ROTATE_UP, __ROTATE_DOWN, __FILL_UP, __FILL_DOWN, __BROADCAST, __BROADCAST_FIRST, __BALLOT, __QUAD_BALLOT,
  __QUAD_SUM, __QUAD_PRODUCT, __QUAD_MINIMUM, __QUAD_MAXIMUM, __QUAD_AND, __QUAD_OR, __QUAD_XOR, __QUAD_SHUFFLE,
  __QUAD_SHUFFLE_XOR, __QUAD_SHUFFLE_UP, __QUAD_SHUFFLE_DOWN
};

// Apple's compiler has no SIMD-group functions on these; without the deleted overloads they would convert. Templates, so
// that a kernel may add overloads of its own.
template <typename T> struct __has_no_simd : __is_bfloat<T> {};
template <> struct __has_no_simd<long> : true_type {};
template <> struct __has_no_simd<ulong> : true_type {};
template <> struct __has_no_simd<bool> : true_type {};
template <typename T> using __no_simd = enable_if_t<__has_no_simd<T>::value, T>;
template <typename T>
struct __is_valid_simdgroup_type
    : bool_constant<is_arithmetic<typename __is_vector<T>::scalar>::value && !__has_no_simd<typename __is_vector<T>::scalar>::value> {};

// The functions by argument type; kernels call templates on top of them (below), so that one of their own wins.
namespace __overloads {
// Arithmetic travels as float, long or ulong, so that it is exact until the result is rounded back.
METAL_FUNC float __sum_of(float r, ulong bits) { return as_type<float>(uint(bits)); }
METAL_FUNC half __sum_of(half r, ulong bits) { return half(as_type<float>(uint(bits))); }
#define __METAL_INTEGER_SUM(T) METAL_FUNC T __sum_of(T r, ulong bits) { return T(bits); }
__METAL_INTEGER_SUM(char) __METAL_INTEGER_SUM(uchar) __METAL_INTEGER_SUM(short) __METAL_INTEGER_SUM(ushort)
__METAL_INTEGER_SUM(int) __METAL_INTEGER_SUM(uint)

#define __METAL_REDUCE(name, kind, T, type, bits)                                                 \
  METAL_FUNC T name(T x) { return __sum_of(x, metal_collective(kind | type << 8, bits, 0, 0)); }  \
  __METAL_EACH(name, T)
#define __METAL_REDUCE_ARITHMETIC(name, kind)                                \
  __METAL_REDUCE(name, kind, float, 0, as_type<uint>(x))                     \
  __METAL_REDUCE(name, kind, half, 0, as_type<uint>(float(x)))               \
  __METAL_REDUCE_INTEGER(name, kind)                                         \
  __METAL_NO_BFLOAT(name)
#define __METAL_REDUCE_INTEGER(name, kind)                                   \
  __METAL_REDUCE(name, kind, char, 1, ulong(long(x)))                        \
  __METAL_REDUCE(name, kind, uchar, 2, ulong(x))                             \
  __METAL_REDUCE(name, kind, short, 1, ulong(long(x)))                       \
  __METAL_REDUCE(name, kind, ushort, 2, ulong(x))                            \
  __METAL_REDUCE(name, kind, int, 1, ulong(long(x)))                         \
  __METAL_REDUCE(name, kind, uint, 2, ulong(x))
#define __METAL_NO_BFLOAT(name) template <typename T> __no_simd<T> name(T) = delete;
__METAL_REDUCE_ARITHMETIC(simd_sum, __SUM)
__METAL_REDUCE_ARITHMETIC(simd_product, __PRODUCT)
__METAL_REDUCE_ARITHMETIC(simd_min, __MINIMUM)
__METAL_REDUCE_ARITHMETIC(simd_max, __MAXIMUM)
__METAL_REDUCE_INTEGER(simd_and, __AND)
__METAL_REDUCE_INTEGER(simd_or, __OR)
__METAL_REDUCE_INTEGER(simd_xor, __XOR)
__METAL_REDUCE_ARITHMETIC(simd_prefix_inclusive_sum, __PREFIX_INCLUSIVE_SUM)
__METAL_REDUCE_ARITHMETIC(simd_prefix_exclusive_sum, __PREFIX_EXCLUSIVE_SUM)
__METAL_REDUCE_ARITHMETIC(simd_prefix_inclusive_product, __PREFIX_INCLUSIVE_PRODUCT)
__METAL_REDUCE_ARITHMETIC(simd_prefix_exclusive_product, __PREFIX_EXCLUSIVE_PRODUCT)
__METAL_REDUCE_ARITHMETIC(quad_sum, __QUAD_SUM)
__METAL_REDUCE_ARITHMETIC(quad_product, __QUAD_PRODUCT)
__METAL_REDUCE_ARITHMETIC(quad_min, __QUAD_MINIMUM)
__METAL_REDUCE_ARITHMETIC(quad_max, __QUAD_MAXIMUM)
__METAL_REDUCE_INTEGER(quad_and, __QUAD_AND)
__METAL_REDUCE_INTEGER(quad_or, __QUAD_OR)
__METAL_REDUCE_INTEGER(quad_xor, __QUAD_XOR)

// Shuffles move bits. Vectors of up to 8 bytes move in one rendezvous, larger ones in two.
template <typename T>
METAL_FUNC ulong __bits(T x, int part) {
  if constexpr (sizeof(T) == 1) return as_type<uchar>(x);
  else if constexpr (sizeof(T) == 2) return as_type<ushort>(x);
  else if constexpr (sizeof(T) == 4) return as_type<uint>(x);
  else if constexpr (sizeof(T) == 8) return as_type<ulong>(x);
  else return as_type<ulong2>(x)[part];
}
template <typename T>
METAL_FUNC T __move(uint kind, T x, T fill, uint parameter) {
  ulong low = metal_collective(kind, __bits(x, 0), __bits(fill, 0), parameter);
  if constexpr (sizeof(T) == 1) return as_type<T>(uchar(low));
  else if constexpr (sizeof(T) == 2) return as_type<T>(ushort(low));
  else if constexpr (sizeof(T) == 4) return as_type<T>(uint(low));
  else if constexpr (sizeof(T) == 8) return as_type<T>(low);
  else return as_type<T>(ulong2{low, metal_collective(kind, __bits(x, 1), __bits(fill, 1), parameter)});
}
#define __METAL_MOVES(T)                                                                                             \
  METAL_FUNC T simd_shuffle(T x, ushort lane) { return __move<T>(__SHUFFLE, x, x, lane); }                           \
  METAL_FUNC T simd_shuffle_xor(T x, ushort mask) { return __move<T>(__SHUFFLE_XOR, x, x, mask); }                   \
  METAL_FUNC T simd_shuffle_up(T x, ushort delta) { return __move<T>(__SHUFFLE_UP, x, x, delta); }                   \
  METAL_FUNC T simd_shuffle_down(T x, ushort delta) { return __move<T>(__SHUFFLE_DOWN, x, x, delta); }               \
  METAL_FUNC T simd_shuffle_rotate_up(T x, ushort delta) { return __move<T>(__ROTATE_UP, x, x, delta); }             \
  METAL_FUNC T simd_shuffle_rotate_down(T x, ushort delta) { return __move<T>(__ROTATE_DOWN, x, x, delta); }         \
  METAL_FUNC T simd_shuffle_and_fill_up(T x, T fill, ushort delta, ushort modulo = 32) {                             \
    return __move<T>(__FILL_UP, x, fill, delta | uint(modulo) << 16);                                                \
  }                                                                                                                  \
  METAL_FUNC T simd_shuffle_and_fill_down(T x, T fill, ushort delta, ushort modulo = 32) {                           \
    return __move<T>(__FILL_DOWN, x, fill, delta | uint(modulo) << 16);                                              \
  }                                                                                                                  \
  METAL_FUNC T simd_broadcast(T x, ushort lane) { return __move<T>(__BROADCAST, x, x, lane); }                       \
  METAL_FUNC T simd_broadcast_first(T x) { return __move<T>(__BROADCAST_FIRST, x, x, 0); }                           \
  METAL_FUNC T quad_shuffle(T x, ushort lane) { return __move<T>(__QUAD_SHUFFLE, x, x, lane); }                      \
  METAL_FUNC T quad_shuffle_xor(T x, ushort mask) { return __move<T>(__QUAD_SHUFFLE_XOR, x, x, mask); }              \
  METAL_FUNC T quad_shuffle_up(T x, ushort delta) { return __move<T>(__QUAD_SHUFFLE_UP, x, x, delta); }              \
  METAL_FUNC T quad_shuffle_down(T x, ushort delta) { return __move<T>(__QUAD_SHUFFLE_DOWN, x, x, delta); }          \
  METAL_FUNC T quad_broadcast(T x, ushort lane) { return __move<T>(__QUAD_SHUFFLE, x, x, lane); }
#define __METAL_MOVES_ALL(T) __METAL_MOVES(T) __METAL_MOVES(T##2) __METAL_MOVES(T##3) __METAL_MOVES(T##4)
__METAL_MOVES_ALL(char)
__METAL_MOVES_ALL(uchar)
__METAL_MOVES_ALL(short)
__METAL_MOVES_ALL(ushort)
__METAL_MOVES_ALL(int)
__METAL_MOVES_ALL(uint)
__METAL_MOVES_ALL(half)
__METAL_MOVES_ALL(float)
#define __METAL_NO_MOVE(name) template <typename T> __no_simd<T> name(T, ushort) = delete;
__METAL_NO_MOVE(simd_shuffle) __METAL_NO_MOVE(simd_shuffle_xor) __METAL_NO_MOVE(simd_shuffle_up)
__METAL_NO_MOVE(simd_shuffle_down) __METAL_NO_MOVE(simd_broadcast)
__METAL_NO_BFLOAT(simd_broadcast_first)
}  // namespace __overloads

#define __METAL_TEMPLATE(name, parameters, ...)                                                                    \
  template <typename T> METAL_FUNC auto name parameters -> decltype(__overloads::name(__VA_ARGS__)) {             \
    return __overloads::name(__VA_ARGS__);                                                                        \
  }                                                                                                               \
  template <typename T> __no_simd<T> name parameters = delete;
#define __METAL_OF_ONE(name) __METAL_TEMPLATE(name, (T x), x)
#define __METAL_WITH_LANE(name) __METAL_TEMPLATE(name, (T x, ushort lane), x, lane)
#define __METAL_FILLING(name)                                                                                     \
  __METAL_TEMPLATE(name, (T x, T fill, ushort delta, ushort modulo = 32), x, fill, delta, modulo)
__METAL_OF_ONE(simd_sum) __METAL_OF_ONE(simd_product) __METAL_OF_ONE(simd_min) __METAL_OF_ONE(simd_max)
__METAL_OF_ONE(simd_and) __METAL_OF_ONE(simd_or) __METAL_OF_ONE(simd_xor) __METAL_OF_ONE(simd_broadcast_first)
__METAL_OF_ONE(simd_prefix_inclusive_sum) __METAL_OF_ONE(simd_prefix_exclusive_sum)
__METAL_OF_ONE(simd_prefix_inclusive_product) __METAL_OF_ONE(simd_prefix_exclusive_product)
__METAL_OF_ONE(quad_sum) __METAL_OF_ONE(quad_product) __METAL_OF_ONE(quad_min) __METAL_OF_ONE(quad_max)
__METAL_OF_ONE(quad_and) __METAL_OF_ONE(quad_or) __METAL_OF_ONE(quad_xor)
__METAL_WITH_LANE(simd_shuffle) __METAL_WITH_LANE(simd_shuffle_xor) __METAL_WITH_LANE(simd_shuffle_up)
__METAL_WITH_LANE(simd_shuffle_down) __METAL_WITH_LANE(simd_shuffle_rotate_up) __METAL_WITH_LANE(simd_shuffle_rotate_down)
__METAL_WITH_LANE(simd_broadcast) __METAL_WITH_LANE(quad_shuffle) __METAL_WITH_LANE(quad_shuffle_xor)
__METAL_WITH_LANE(quad_shuffle_up) __METAL_WITH_LANE(quad_shuffle_down) __METAL_WITH_LANE(quad_broadcast)
__METAL_FILLING(simd_shuffle_and_fill_up) __METAL_FILLING(simd_shuffle_and_fill_down)

struct simd_vote {
  using vote_t = ulong;
  vote_t __votes;
  explicit constexpr operator vote_t() const { return __votes; }
  constexpr bool all() const { return (__votes & 0xFFFFFFFFul) == 0xFFFFFFFFul; }
  constexpr bool any() const { return (__votes & 0xFFFFFFFFul) != 0; }
};
struct quad_vote {
  using vote_t = ulong;
  vote_t __votes;
  explicit constexpr operator vote_t() const { return __votes; }
  constexpr bool all() const { return (__votes & 15) == 15; }
  constexpr bool any() const { return (__votes & 15) != 0; }
};
METAL_FUNC quad_vote quad_ballot(bool b) { return quad_vote{metal_collective(__QUAD_BALLOT, b, 0, 0) & 15}; }
METAL_FUNC quad_vote quad_active_threads_mask() { return quad_ballot(true); }
METAL_FUNC simd_vote simd_ballot(bool b) {
  return simd_vote{metal_collective(__BALLOT, b, 0, 0) & 0xFFFFFFFFul};
}
METAL_FUNC simd_vote simd_active_threads_mask() { return simd_ballot(true); }
METAL_FUNC bool simd_all(bool b) {
  ulong r = metal_collective(__BALLOT, b, 0, 0);
  return uint(r) == uint(r >> 32);
}
METAL_FUNC bool simd_any(bool b) { return uint(metal_collective(__BALLOT, b, 0, 0)) != 0; }
METAL_FUNC bool quad_all(bool b) {
  ulong r = metal_collective(__QUAD_BALLOT, b, 0, 0);
  return uint(r) == uint(r >> 32);
}
METAL_FUNC bool quad_any(bool b) { return uint(metal_collective(__QUAD_BALLOT, b, 0, 0)) != 0; }
extern "C" uint metal_lane(void);
METAL_FUNC bool simd_is_first() { return metal_lane() == ctz(uint(metal_collective(__BALLOT, 1, 0, 0))); }
METAL_FUNC bool quad_is_first() { return metal_lane() % 4 == ctz(uint(metal_collective(__QUAD_BALLOT, 1, 0, 0))); }

// Quad-group functions that are made of shuffles.
template <typename T> METAL_FUNC T quad_broadcast_first(T x) { return quad_shuffle(x, ctz(uint(ulong(quad_ballot(true))))); }
template <typename T> METAL_FUNC T quad_shuffle_rotate_up(T x, ushort delta) { return quad_shuffle(x, (metal_lane() - delta) & 3); }
template <typename T> METAL_FUNC T quad_shuffle_rotate_down(T x, ushort delta) { return quad_shuffle(x, (metal_lane() + delta) & 3); }
template <typename T>
METAL_FUNC T quad_shuffle_and_fill_up(T x, T fill, ushort delta, ushort modulo = 4) {
  uint lane = metal_lane() % 4, at = lane % modulo, from = lane - at + (at + modulo - delta) % modulo;
  T moved = quad_shuffle(x, from), filled = quad_shuffle(fill, from);
  return at >= delta ? moved : filled;
}
template <typename T>
METAL_FUNC T quad_shuffle_and_fill_down(T x, T fill, ushort delta, ushort modulo = 4) {
  uint lane = metal_lane() % 4, at = lane % modulo, from = lane - at + (at + delta) % modulo;
  T moved = quad_shuffle(x, from), filled = quad_shuffle(fill, from);
  return at + delta < modulo ? moved : filled;
}
#define __METAL_QUAD_PREFIX(name, start, op)                                              \
  template <typename T> METAL_FUNC T quad_prefix_exclusive_##name(T x) {                  \
    T result = T(start);                                                                  \
    for (uint i = 0; i < 4; i++) {                                                        \
      T other = quad_shuffle(x, i);                                                       \
      if (i < metal_lane() % 4) result = T(result op other);                              \
    }                                                                                     \
    return result;                                                                        \
  }                                                                                       \
  template <typename T> METAL_FUNC T quad_prefix_inclusive_##name(T x) { return T(quad_prefix_exclusive_##name(x) op x); }
__METAL_QUAD_PREFIX(sum, 0, +)
__METAL_QUAD_PREFIX(product, 1, *)
}  // namespace metal
