// Products of cooperative tensors and of tensors in memory; language 4.0, deployment target 26.2.
#include <metal_stdlib>
#include <metal_tensor>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;
using namespace mpp::tensor_ops;

// c[M, N] += a * b by coordinates, whatever the layout. a is [M, K] or its transpose, b is [K, N] or its transpose.
template <typename A, typename B, int M, int N, int K, bool kLeft, bool kRight, bool kRelaxed>
[[kernel]] void by_coordinates(device const A* a [[buffer(0)]], device const B* b [[buffer(1)]],
                               device float* c [[buffer(2)]]) {
  constexpr auto description =
      matmul2d_descriptor(M, N, K, kLeft, kRight, kRelaxed, matmul2d_descriptor::mode::multiply_accumulate);
  matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  for (ushort i = 0; i < left.get_capacity(); i++) {
    auto at = left.get_multidimensional_index(i);
    left[i] = a[at[1] * (kLeft ? M : K) + at[0]];
  }
  for (ushort i = 0; i < right.get_capacity(); i++) {
    auto at = right.get_multidimensional_index(i);
    right[i] = b[at[1] * (kRight ? K : N) + at[0]];
  }
  for (ushort i = 0; i < sum.get_capacity(); i++) {
    auto at = sum.get_multidimensional_index(i);
    sum[i] = c[at[1] * N + at[0]];
  }
  unit.run(left, right, sum);
  for (ushort i = 0; i < sum.get_capacity(); i++) {
    auto at = sum.get_multidimensional_index(i);
    c[at[1] * N + at[0]] = sum[i];
  }
}
#define BY_COORDINATES(name, ...) \
  template [[host_name(name)]] [[kernel]] decltype(by_coordinates<__VA_ARGS__>) by_coordinates<__VA_ARGS__>;
BY_COORDINATES("half", half, half, 16, 32, 16, false, false, true)
BY_COORDINATES("bfloat_transposed", bfloat, bfloat, 16, 32, 16, false, true, true)
BY_COORDINATES("float_half", float, half, 16, 32, 16, true, false, true)
BY_COORDINATES("float_exact", float, float, 16, 32, 16, false, false, false)
BY_COORDINATES("tall", half, half, 32, 16, 16, true, true, true)
BY_COORDINATES("deep", half, float, 16, 16, 32, false, true, true)
BY_COORDINATES("wide", bfloat, float, 32, 32, 32, true, true, true)

// c[16, 32] = a[16, 16] * b[16, 32] through the layout of family 10, of rows r and r + 8 and four columns.
[[kernel]] void by_layout(device const half* a [[buffer(0)]], device const half* b [[buffer(1)]],
                          device float* c [[buffer(2)]], uint lane [[thread_index_in_simdgroup]]) {
  constexpr auto description = matmul2d_descriptor(16, 32, 16, false, false, true);
  matmul2d<description, execution_simdgroup> unit;
  auto left = unit.get_left_input_cooperative_tensor<half, half, float>();
  auto right = unit.get_right_input_cooperative_tensor<half, half, float>();
  auto sum = unit.get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  const short row = (short(lane) / 4 & 4) + short(lane) / 2 % 4, column = ((short(lane) / 4 & 2) + short(lane) % 2) * 4;
  for (short e = 0; e < 8; e++) left[e] = a[(row + e / 4 * 8) * 16 + column + e % 4];
  for (short e = 0; e < 16; e++) right[e] = b[(row + e % 8 / 4 * 8) * 32 + e / 8 * 16 + column + e % 4];
  unit.run(left, right, sum);
  for (short e = 0; e < 16; e++) c[(row + e % 8 / 4 * 8) * 32 + e / 8 * 16 + column + e % 4] = sum[e];
}

// c[16, 32] = a[16, depth] * b[32, depth]^T from memory, and the sum and the maximum of each of its rows.
[[kernel]] void in_memory(device half* a [[buffer(0)]], device half* b [[buffer(1)]], device float* c [[buffer(2)]],
                          device float* rows [[buffer(3)]], constant int& depth [[buffer(4)]],
                          constant int& rows_of_b [[buffer(5)]]) {
  typedef tensor<device half, dextents<int, 2>, tensor_inline> Matrix;
  Matrix left(a, dextents<int, 2>(depth, 16)), right(b, dextents<int, 2>(depth, rows_of_b));
  constexpr auto description = matmul2d_descriptor(16, 32, static_cast<int>(dynamic_extent), false, true);
  matmul2d<description, execution_simdgroup> unit;
  auto sum = unit.get_destination_cooperative_tensor<Matrix, Matrix, float>();
  auto total = unit.get_row_reduction_destination_cooperative_tensor<Matrix, Matrix, float>();
  auto most = unit.get_row_reduction_destination_cooperative_tensor<Matrix, Matrix, float>();
  unit.run(left, right, sum);
  reduce_rows(sum, total, reduction_operation::sum);
  reduce_rows(sum, most, reduction_operation::max, -INFINITY);
  for (auto it = sum.begin(); it != sum.end(); ++it) {
    auto at = sum.get_multidimensional_index(it.__index);
    c[at[1] * 32 + at[0]] = *it;
    if (at[0] == 0) {
      rows[at[1] * 2] = *total.map_iterator(it);
      rows[at[1] * 2 + 1] = *most.map_iterator(it);
    }
  }
}
