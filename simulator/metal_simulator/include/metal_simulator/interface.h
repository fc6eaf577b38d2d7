// What compiled kernels share with the runtimes (runtime/ and nvidia/). C, and C++ for OpenCL.
#pragma once

// Each collective, F(name, what it is called in messages), in the order of their numbers. An operation is the number of a
// collective and, from bit 8 on, of a type.
#define __METAL_COLLECTIVES(F)                       \
  F(PRODUCT_8X8, "simdgroup_multiply_accumulate")    \
  F(SIMD_BARRIER, "simdgroup_barrier")               \
  F(MATRIX_STORE, "simdgroup_store")                 \
  F(MATRIX_UNIT, "matmul2d")                         \
  F(ROW_REDUCTION, "reduce_rows")                    \
  __METAL_LANE_FUNCTIONS(F, , "simd_")               \
  __METAL_LANE_FUNCTIONS(F, QUAD_, "quad_")
#define __METAL_LANE_FUNCTIONS(F, QUAD, SPACE)                          \
  F(QUAD##SUM, SPACE "sum")                                             \
  F(QUAD##PRODUCT, SPACE "product")                                     \
  F(QUAD##MINIMUM, SPACE "min")                                         \
  F(QUAD##MAXIMUM, SPACE "max")                                         \
  F(QUAD##AND, SPACE "and")                                             \
  F(QUAD##OR, SPACE "or")                                               \
  F(QUAD##XOR, SPACE "xor")                                             \
  F(QUAD##PREFIX_INCLUSIVE_SUM, SPACE "prefix_inclusive_sum")           \
  F(QUAD##PREFIX_EXCLUSIVE_SUM, SPACE "prefix_exclusive_sum")           \
  F(QUAD##PREFIX_INCLUSIVE_PRODUCT, SPACE "prefix_inclusive_product")   \
  F(QUAD##PREFIX_EXCLUSIVE_PRODUCT, SPACE "prefix_exclusive_product")   \
  F(QUAD##SHUFFLE, SPACE "shuffle")                                     \
  F(QUAD##SHUFFLE_XOR, SPACE "shuffle_xor")                             \
  F(QUAD##SHUFFLE_UP, SPACE "shuffle_up")                               \
  F(QUAD##SHUFFLE_DOWN, SPACE "shuffle_down")                           \
  F(QUAD##ROTATE_UP, SPACE "shuffle_rotate_up")                         \
  F(QUAD##ROTATE_DOWN, SPACE "shuffle_rotate_down")                     \
  F(QUAD##FILL_UP, SPACE "shuffle_and_fill_up")                         \
  F(QUAD##FILL_DOWN, SPACE "shuffle_and_fill_down")                     \
  F(QUAD##BROADCAST, SPACE "broadcast")                                 \
  F(QUAD##BROADCAST_FIRST, SPACE "broadcast_first")                     \
  F(QUAD##BALLOT, SPACE "ballot")
#define __METAL_LANE_TYPES(F) F(FLOAT) F(SIGNED) F(UNSIGNED) F(LONG) F(ULONG)

// Atomic operations, F(name).
#define __METAL_ATOMICS(F) \
  F(LOAD) F(STORE) F(EXCHANGE) F(ADD) F(SUBTRACT) F(LEAST) F(MOST) F(BIT_AND) F(BIT_OR) F(BIT_XOR)

// memory_order, O(name, its name in Metal), in the order of their numbers.
#define __METAL_MEMORY_ORDERS(O) \
  O(RELAXED, relaxed) O(ACQUIRE, acquire) O(RELEASE, release) O(ACQ_REL, acq_rel) O(SEQ_CST, seq_cst)

// Products of cooperative tensors. Operands of a product, and what is said of one of them:
#define __METAL_UNIT_LEFT 0u
#define __METAL_UNIT_RIGHT 1u
#define __METAL_UNIT_DESTINATION 2u
#define __METAL_UNIT_TRANSPOSED 4u
// What is said of a product: of its operands, whether fp32 may be cut, whether the deployment target is below macOS 26.2,
// and from these bits on the types of its operands.
#define __METAL_UNIT_LEFT_TRANSPOSED 1u
#define __METAL_UNIT_RIGHT_TRANSPOSED 2u
#define __METAL_UNIT_LEFT_IN_MEMORY 4u
#define __METAL_UNIT_RIGHT_IN_MEMORY 8u
#define __METAL_UNIT_RELAXED 16u
#define __METAL_UNIT_OLD_TARGET 32u
#define __METAL_UNIT_LEFT_TYPE 8
#define __METAL_UNIT_RIGHT_TYPE 10
#define __METAL_UNIT_HALF 0u
#define __METAL_UNIT_BFLOAT 1u
#define __METAL_UNIT_FLOAT 2u

// Bits of mem_flags.
#define __METAL_MEM_DEVICE 1
#define __METAL_MEM_THREADGROUP 2

// The fields of what a kernel's entry point reads. buffers and threadgroup_arguments: addresses of tables of addresses, by
// index; shape: address of the threadgroup's position, the threadgroups of the grid, the threads of a threadgroup (3 each),
// and its SIMD groups. U32, U64: unsigned integers.
#define __METAL_CONTEXT(U32, U64)                  \
  U64 buffers, threadgroup_arguments, shape;       \
  U32 thread_index, lane, simdgroup, unused;       \
  U32 position[3], position_in_grid[3];
