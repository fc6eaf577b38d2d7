// Whether a GPU's cooperative tensors are what unit.h takes them for, asked of itself. One SIMD group; products of
// 16 x 32 x 16, as in unit.h. launching/unit_check.py runs it before any kernel that uses the matrix unit.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;

constant constexpr short kElements = 16;  // the most that a lane has of an operand
constant constexpr short kProduct = 16 * 32;

// row << 8 | column of each of a lane's elements; all ones for one that it lacks.
template <typename Tensor>
inline void write_places(device int* places, thread Tensor& tensor) {
  for (ushort i = 0; i < kElements; i++) {
    places[i] = -1;
    if (i < tensor.get_capacity()) {
      const auto at = tensor.get_multidimensional_index(i);
      places[i] = int(at[1]) << 8 | int(at[0]);
    }
  }
}

// c[16, 32] = a[16, 16] * b, through the layout that unit.h assumes: b is [16, 32], or with kTransposed [32, 16].
// kTransposesLeft: transpose(a) * b.
template <typename A, typename B, bool kTransposesLeft, bool kTransposed>
inline void multiply_assumed(device float* c, device const int* a, device const int* b, ushort lane) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, kTransposesLeft, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  const short row = (lane / 4 & 4) + lane / 2 % 4, column = ((lane / 4 & 2) + lane % 2) * 4;
#pragma clang loop unroll(full)
  for (short e = 0; e < 8; e++) left[e] = A(a[(row + e / 4 * 8) * 16 + column + e % 4]);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) {
    const short r = row + e % 8 / 4 * 8, w = column + e % 4, part = e / 8 * 16;
    right[e] = B(kTransposed ? b[(part + r) * 16 + w] : b[r * 32 + part + w]);
    sum[e] = 0;
  }
  unit.run(left, right, sum);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) c[(row + e % 8 / 4 * 8) * 32 + e / 8 * 16 + column + e % 4] = sum[e];
}

template <typename A, typename B>
inline void multiply_each_way(device float* products, device const int* a, device const int* b, ushort lane) {
  multiply_assumed<A, B, false, false>(products, a, b, lane);
  multiply_assumed<A, B, false, true>(products + kProduct, a, b, lane);
  multiply_assumed<A, B, true, false>(products + 2 * kProduct, a, b, lane);
}

// places: [left, left transposed, right, right transposed, destination][lane][16]
[[kernel]] void unit_check(device int* places [[buffer(0)]],
                           device int* capacities [[buffer(1)]],  // [5], of lane 0
                           device const int* a [[buffer(2)]],     // [16, 16]
                           device const int* b [[buffer(3)]],     // [16, 32] or [32, 16]
                           device float* products [[buffer(4)]],  // [half, bfloat, float * half, float * bfloat][3]
                           ushort lane [[thread_index_in_simdgroup]]) {
  constexpr auto plain = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, false, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  constexpr auto transposed = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, true, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  constexpr auto transposed_left = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, true, false, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<plain, execution_simdgroup> unit;
  mpp::tensor_ops::matmul2d<transposed, execution_simdgroup> other;
  mpp::tensor_ops::matmul2d<transposed_left, execution_simdgroup> third;
  auto left = unit.template get_left_input_cooperative_tensor<half, half, float>();
  auto down = third.template get_left_input_cooperative_tensor<half, half, float>();
  auto right = unit.template get_right_input_cooperative_tensor<half, half, float>();
  auto across = other.template get_right_input_cooperative_tensor<half, half, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  device int* own = places + lane * kElements;
  write_places(own, left);
  write_places(own + 32 * kElements, down);
  write_places(own + 64 * kElements, right);
  write_places(own + 96 * kElements, across);
  write_places(own + 128 * kElements, sum);
  if (lane == 0) {
    capacities[0] = left.get_capacity();
    capacities[1] = down.get_capacity();
    capacities[2] = right.get_capacity();
    capacities[3] = across.get_capacity();
    capacities[4] = sum.get_capacity();
  }
  multiply_each_way<half, half>(products, a, b, lane);
  multiply_each_way<bfloat, bfloat>(products + 3 * kProduct, a, b, lane);
  multiply_each_way<float, half>(products + 6 * kProduct, a, b, lane);
  multiply_each_way<float, bfloat>(products + 9 * kProduct, a, b, lane);
}
#endif
