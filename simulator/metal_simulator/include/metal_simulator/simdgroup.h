// SIMD-group and quad-group functions. Every call is a rendezvous of the lanes in the runtime (runtime/collectives.c).
#pragma once
namespace metal {
// Apple's compiler has no SIMD-group functions on these, and quad-group functions on long and ulong alone; without the
// deleted overloads they would convert.
template <typename T> struct __has_no_simd : __is_bfloat<T> {};
template <> struct __has_no_simd<long> : true_type {};
template <> struct __has_no_simd<ulong> : true_type {};
template <> struct __has_no_simd<bool> : true_type {};
template <typename T> using __no_simd = enable_if_t<__has_no_simd<T>::value, T>;
template <typename T>
struct __is_valid_simdgroup_type
    : bool_constant<is_arithmetic<typename __is_vector<T>::scalar>::value &&
                    !__has_no_simd<typename __is_vector<T>::scalar>::value> {};

// The functions by argument type; kernels call templates on top of them (below), so that one of their own wins.
namespace __overloads {
// Arithmetic travels as float, long or ulong, so that it is exact until the result is rounded back.
METAL_FUNC float __sum_of(float r, ulong bits) { return as_type<float>(uint(bits)); }
METAL_FUNC half __sum_of(half r, ulong bits) { return half(as_type<float>(uint(bits))); }
#define __METAL_INTEGER_SUM(T) METAL_FUNC T __sum_of(T r, ulong bits) { return T(bits); }
// clang-format off
__METAL_INTEGER_SUM(char) __METAL_INTEGER_SUM(uchar) __METAL_INTEGER_SUM(short) __METAL_INTEGER_SUM(ushort)
__METAL_INTEGER_SUM(int) __METAL_INTEGER_SUM(uint) __METAL_INTEGER_SUM(long) __METAL_INTEGER_SUM(ulong)
// clang-format on

// One overload per type.
#define __METAL_REDUCE(name, kind, T, type, bits)                                                 \
  METAL_FUNC T name(T x) { return __sum_of(x, metal_collective(kind | type << 8, bits, 0, 0)); }  \
  __METAL_EACH(name, T)
#define __METAL_REDUCE_INTEGER(space, f, kind)                               \
  __METAL_REDUCE(space##_##f, kind, char, __SIGNED, ulong(long(x)))          \
  __METAL_REDUCE(space##_##f, kind, uchar, __UNSIGNED, ulong(x))             \
  __METAL_REDUCE(space##_##f, kind, short, __SIGNED, ulong(long(x)))         \
  __METAL_REDUCE(space##_##f, kind, ushort, __UNSIGNED, ulong(x))            \
  __METAL_REDUCE(space##_##f, kind, int, __SIGNED, ulong(long(x)))           \
  __METAL_REDUCE(space##_##f, kind, uint, __UNSIGNED, ulong(x))              \
  __METAL_REDUCE_LONG_##space(f, kind)                                       \
  __METAL_NONE(space##_##f, T)
#define __METAL_REDUCE_LONG_simd(f, kind)
#define __METAL_REDUCE_LONG_quad(f, kind)                                    \
  __METAL_REDUCE(quad_##f, kind, long, __LONG, ulong(x))                     \
  __METAL_REDUCE(quad_##f, kind, ulong, __ULONG, x)
#define __METAL_REDUCE_ARITHMETIC(space, f, kind)                            \
  __METAL_REDUCE(space##_##f, kind, float, __FLOAT, as_type<uint>(x))        \
  __METAL_REDUCE(space##_##f, kind, half, __FLOAT, as_type<uint>(float(x)))  \
  __METAL_REDUCE_INTEGER(space, f, kind)

#define __METAL_NONE(name, ...) template <typename T> __no_simd<T> name(__VA_ARGS__) = delete;

#define __METAL_REDUCTIONS(space, kind)                                                   \
  __METAL_REDUCE_ARITHMETIC(space, sum, kind##SUM)                                        \
  __METAL_REDUCE_ARITHMETIC(space, product, kind##PRODUCT)                                \
  __METAL_REDUCE_ARITHMETIC(space, min, kind##MINIMUM)                                    \
  __METAL_REDUCE_ARITHMETIC(space, max, kind##MAXIMUM)                                    \
  __METAL_REDUCE_INTEGER(space, and, kind##AND)                                           \
  __METAL_REDUCE_INTEGER(space, or, kind##OR)                                             \
  __METAL_REDUCE_INTEGER(space, xor, kind##XOR)                                           \
  __METAL_REDUCE_ARITHMETIC(space, prefix_inclusive_sum, kind##PREFIX_INCLUSIVE_SUM)      \
  __METAL_REDUCE_ARITHMETIC(space, prefix_exclusive_sum, kind##PREFIX_EXCLUSIVE_SUM)      \
  __METAL_REDUCE_ARITHMETIC(space, prefix_inclusive_product, kind##PREFIX_INCLUSIVE_PRODUCT) \
  __METAL_REDUCE_ARITHMETIC(space, prefix_exclusive_product, kind##PREFIX_EXCLUSIVE_PRODUCT)
__METAL_REDUCTIONS(simd, __)
__METAL_REDUCTIONS(quad, __QUAD_)

// Shuffles move bits. Vectors of up to 8 bytes move in one rendezvous, larger ones in more.
template <typename T>
METAL_FUNC ulong __bits(T x, int part) {
  if constexpr (sizeof(T) == 1) return as_type<uchar>(x);
  else if constexpr (sizeof(T) == 2) return as_type<ushort>(x);
  else if constexpr (sizeof(T) == 4) return as_type<uint>(x);
  else if constexpr (sizeof(T) == 8) return as_type<ulong>(x);
  else if constexpr (sizeof(T) == 16) return as_type<ulong2>(x)[part];
  else return as_type<ulong4>(x)[part];
}
template <typename T>
METAL_FUNC T __move(uint kind, T x, T fill, uint parameter) {
  ulong low = metal_collective(kind, __bits(x, 0), __bits(fill, 0), parameter);
  if constexpr (sizeof(T) == 1) return as_type<T>(uchar(low));
  else if constexpr (sizeof(T) == 2) return as_type<T>(ushort(low));
  else if constexpr (sizeof(T) == 4) return as_type<T>(uint(low));
  else if constexpr (sizeof(T) == 8) return as_type<T>(low);
  else {
    ulong next = metal_collective(kind, __bits(x, 1), __bits(fill, 1), parameter);
    if constexpr (sizeof(T) == 16) return as_type<T>(ulong2{low, next});
    else {
      ulong third = metal_collective(kind, __bits(x, 2), __bits(fill, 2), parameter);
      return as_type<T>(ulong4{low, next, third, metal_collective(kind, __bits(x, 3), __bits(fill, 3), parameter)});
    }
  }
}
#define __METAL_MOVES_IN(space, kind, width, T)                                                                           \
  METAL_FUNC T space##_shuffle(T x, ushort lane) { return __move<T>(kind##SHUFFLE, x, x, lane); }                         \
  METAL_FUNC T space##_shuffle_xor(T x, ushort mask) { return __move<T>(kind##SHUFFLE_XOR, x, x, mask); }                 \
  METAL_FUNC T space##_shuffle_up(T x, ushort delta) { return __move<T>(kind##SHUFFLE_UP, x, x, delta); }                 \
  METAL_FUNC T space##_shuffle_down(T x, ushort delta) { return __move<T>(kind##SHUFFLE_DOWN, x, x, delta); }             \
  METAL_FUNC T space##_shuffle_rotate_up(T x, ushort delta) { return __move<T>(kind##ROTATE_UP, x, x, delta); }           \
  METAL_FUNC T space##_shuffle_rotate_down(T x, ushort delta) { return __move<T>(kind##ROTATE_DOWN, x, x, delta); }       \
  METAL_FUNC T space##_shuffle_and_fill_up(T x, T fill, ushort delta, ushort modulo = width) {                            \
    return __move<T>(kind##FILL_UP, x, fill, delta | uint(modulo) << 16);                                                 \
  }                                                                                                                       \
  METAL_FUNC T space##_shuffle_and_fill_down(T x, T fill, ushort delta, ushort modulo = width) {                          \
    return __move<T>(kind##FILL_DOWN, x, fill, delta | uint(modulo) << 16);                                               \
  }                                                                                                                       \
  METAL_FUNC T space##_broadcast(T x, ushort lane) { return __move<T>(kind##BROADCAST, x, x, lane); }                     \
  METAL_FUNC T space##_broadcast_first(T x) { return __move<T>(kind##BROADCAST_FIRST, x, x, 0); }
#define __METAL_MOVES_QUAD(T) __METAL_MOVES_IN(quad, __QUAD_, 4, T)
#define __METAL_MOVES(T) __METAL_MOVES_IN(simd, __, 32, T) __METAL_MOVES_QUAD(T)
#define __METAL_OF_EACH_WIDTH(macro, T) macro(T) macro(T##2) macro(T##3) macro(T##4)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, char)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, uchar)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, short)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, ushort)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, int)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, uint)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, half)
__METAL_OF_EACH_WIDTH(__METAL_MOVES, float)
__METAL_OF_EACH_WIDTH(__METAL_MOVES_QUAD, long)
__METAL_OF_EACH_WIDTH(__METAL_MOVES_QUAD, ulong)
#define __METAL_NO_MOVES(space)                                                                                           \
  __METAL_NONE(space##_shuffle, T, ushort) __METAL_NONE(space##_shuffle_xor, T, ushort)                                   \
  __METAL_NONE(space##_shuffle_up, T, ushort) __METAL_NONE(space##_shuffle_down, T, ushort)                               \
  __METAL_NONE(space##_shuffle_rotate_up, T, ushort) __METAL_NONE(space##_shuffle_rotate_down, T, ushort)                 \
  __METAL_NONE(space##_shuffle_and_fill_up, T, T, ushort, ushort = 0)                                                     \
  __METAL_NONE(space##_shuffle_and_fill_down, T, T, ushort, ushort = 0)                                                   \
  __METAL_NONE(space##_broadcast, T, ushort) __METAL_NONE(space##_broadcast_first, T)
__METAL_NO_MOVES(simd)
__METAL_NO_MOVES(quad)
}  // namespace __overloads

#define __METAL_TEMPLATE(name, parameters, ...)                                                                    \
  template <typename T> METAL_FUNC auto name parameters -> decltype(__overloads::name(__VA_ARGS__)) {             \
    return __overloads::name(__VA_ARGS__);                                                                        \
  }
#define __METAL_OF_ONE(name) __METAL_TEMPLATE(name, (T x), x)
#define __METAL_WITH_LANE(name) __METAL_TEMPLATE(name, (T x, ushort lane), x, lane)
#define __METAL_FILLING(name, width)                                                                              \
  __METAL_TEMPLATE(name, (T x, T fill, ushort delta, ushort modulo = width), x, fill, delta, modulo)
// Written out, as the strict check reads here which names there are.
// clang-format off
__METAL_OF_ONE(simd_sum) __METAL_OF_ONE(simd_product) __METAL_OF_ONE(simd_min) __METAL_OF_ONE(simd_max)
__METAL_OF_ONE(simd_and) __METAL_OF_ONE(simd_or) __METAL_OF_ONE(simd_xor) __METAL_OF_ONE(simd_prefix_inclusive_sum)
__METAL_OF_ONE(simd_prefix_exclusive_sum) __METAL_OF_ONE(simd_prefix_inclusive_product)
__METAL_OF_ONE(simd_prefix_exclusive_product) __METAL_OF_ONE(simd_broadcast_first) __METAL_WITH_LANE(simd_shuffle)
__METAL_WITH_LANE(simd_shuffle_xor) __METAL_WITH_LANE(simd_shuffle_up) __METAL_WITH_LANE(simd_shuffle_down)
__METAL_WITH_LANE(simd_shuffle_rotate_up) __METAL_WITH_LANE(simd_shuffle_rotate_down)
__METAL_WITH_LANE(simd_broadcast) __METAL_FILLING(simd_shuffle_and_fill_up, 32)
__METAL_FILLING(simd_shuffle_and_fill_down, 32)
__METAL_OF_ONE(quad_sum) __METAL_OF_ONE(quad_product) __METAL_OF_ONE(quad_min) __METAL_OF_ONE(quad_max)
__METAL_OF_ONE(quad_and) __METAL_OF_ONE(quad_or) __METAL_OF_ONE(quad_xor) __METAL_OF_ONE(quad_prefix_inclusive_sum)
__METAL_OF_ONE(quad_prefix_exclusive_sum) __METAL_OF_ONE(quad_prefix_inclusive_product)
__METAL_OF_ONE(quad_prefix_exclusive_product) __METAL_OF_ONE(quad_broadcast_first) __METAL_WITH_LANE(quad_shuffle)
__METAL_WITH_LANE(quad_shuffle_xor) __METAL_WITH_LANE(quad_shuffle_up) __METAL_WITH_LANE(quad_shuffle_down)
__METAL_WITH_LANE(quad_shuffle_rotate_up) __METAL_WITH_LANE(quad_shuffle_rotate_down)
__METAL_WITH_LANE(quad_broadcast) __METAL_FILLING(quad_shuffle_and_fill_up, 4)
__METAL_FILLING(quad_shuffle_and_fill_down, 4)
// clang-format on

struct simd_vote {
  using vote_t = ulong;
  vote_t __votes;
  explicit constexpr simd_vote(vote_t votes = 0) : __votes(votes) {}
  explicit constexpr operator vote_t() const { return __votes; }
  constexpr bool all() const { return (__votes & 0xFFFFFFFFul) == 0xFFFFFFFFul; }
  constexpr bool any() const { return (__votes & 0xFFFFFFFFul) != 0; }
};
struct quad_vote {
  using vote_t = uint;
  vote_t __votes;
  explicit constexpr quad_vote(vote_t votes = 0) : __votes(votes & 15) {}
  explicit constexpr operator vote_t() const { return __votes; }
  constexpr bool all() const { return __votes == 15; }
  constexpr bool any() const { return __votes != 0; }
};
METAL_FUNC quad_vote quad_ballot(bool b) { return quad_vote(uint(metal_collective(__QUAD_BALLOT, b, 0, 0))); }
METAL_FUNC quad_vote quad_active_threads_mask() { return quad_ballot(true); }
METAL_FUNC simd_vote simd_ballot(bool b) { return simd_vote(metal_collective(__BALLOT, b, 0, 0) & 0xFFFFFFFFul); }
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
}  // namespace metal
