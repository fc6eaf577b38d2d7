// matmul2d of Metal 4 for one SIMD group, floating point: operands are cooperative tensors or tensors in memory, the
// destination is a cooperative tensor. The last lane to arrive multiplies for all (runtime/matrix_unit.c).
#pragma once
#include <metal_simulator/cooperative_tensor.h>
#if defined(__HAVE_TENSOR__)
#if !defined(__ENVIRONMENT_OS_VERSION_MIN_REQUIRED__)
#error \
    "cooperative tensors differ with the deployment target: give Library a deployment_target (26.2 and newer are sound)"
#endif
namespace metal {
extern "C" {
// shape: m | n << 8 | k << 16
__attribute__((convergent, nomerge)) void metal_matrix_unit(uint shape, uint flags);
__attribute__((convergent, nomerge)) void metal_reduce_rows(uint matrix, uint operation, float identity);
}
}  // namespace metal

namespace mpp {
namespace tensor_ops {
struct matmul2d_descriptor {
  enum class mode { multiply, multiply_accumulate };
  int m, n, k;
  bool transpose_left, transpose_right, relaxed_precision;
  mode matmul_mode;
  constexpr matmul2d_descriptor(int m, int n, int k = static_cast<int>(metal::dynamic_extent),
                                bool transpose_left = false, bool transpose_right = false,
                                bool relaxed_precision = false, mode matmul_mode = mode::multiply)
      : m(m),
        n(n),
        k(k),
        transpose_left(transpose_left),
        transpose_right(transpose_right),
        relaxed_precision(relaxed_precision),
        matmul_mode(matmul_mode) {}
  // A template argument of class type is C++20: here it travels as a number.
  constexpr operator ulong() const {
    return ulong(m & 0xFFFF) | ulong(n & 0xFFFF) << 16 | ulong(k & 0xFFFF) << 32 | ulong(transpose_left) << 48 |
           ulong(transpose_right) << 49 | ulong(relaxed_precision) << 50 | ulong(matmul_mode) << 51;
  }
};

// How an operand's elements are encoded.
template <typename T> struct __encoded { static constexpr __constant bool known = false; };
template <> struct __encoded<half> { static constexpr __constant uint type = __METAL_UNIT_HALF, known = true; };
template <> struct __encoded<bfloat> { static constexpr __constant uint type = __METAL_UNIT_BFLOAT, known = true; };
template <> struct __encoded<float> { static constexpr __constant uint type = __METAL_UNIT_FLOAT, known = true; };

template <ulong Descriptor, typename Scope>
class matmul2d {
  static_assert(metal::is_same<Scope, metal::execution_simdgroup>::value,
                "matmul2d: the simulator has execution_simdgroup, one SIMD group, and no other scope");
  static constexpr __constant int M = Descriptor & 0xFFFF, N = Descriptor >> 16 & 0xFFFF, K = Descriptor >> 32 & 0xFFFF;
  static constexpr __constant bool LT = Descriptor >> 48 & 1, RT = Descriptor >> 49 & 1, Relaxed = Descriptor >> 50 & 1,
                                   Accumulates = Descriptor >> 51 & 1;
  static constexpr __constant bool AnyK = K == 0xFFFF;
  static_assert(M >= 16 && N >= 16 && M <= 64 && N <= 64 && M % 16 == 0 && N % 16 == 0 && (AnyK || K % 16 == 0),
                "matmul2d: m and n are multiples of 16 up to 64 here, k is a multiple of 16 or dynamic_extent");
  static constexpr __constant bool SmallShape =
      (M == 16 || M == 32) && (N == 16 || N == 32) && (K == 16 || K == 32) && (M == 32 || N == 32 || K == 32);
  // Operands in memory are multiplied by parts of the inner dimension.
  static constexpr __constant int Step = SmallShape ? K : M * N == 256 ? 32 : 16;
  typedef metal::__layout<LT ? Step : M, LT ? M : Step, __METAL_UNIT_LEFT | (LT ? __METAL_UNIT_TRANSPOSED : 0)> Left;
  typedef metal::__layout<RT ? N : Step, RT ? Step : N, __METAL_UNIT_RIGHT | (RT ? __METAL_UNIT_TRANSPOSED : 0)> Right;
  typedef metal::__layout<M, N, __METAL_UNIT_DESTINATION> Destination;
  typedef metal::extents<int, metal::dynamic_extent, metal::dynamic_extent> Extents2;
  typedef metal::extents<int, metal::dynamic_extent> Extents1;
  template <typename T, typename Layout> using Matrix = metal::cooperative_tensor<T, Extents2, Layout>;

  template <typename L, typename R, typename D> static constexpr bool check_types() {
    constexpr bool known = __encoded<L>::known && __encoded<R>::known;
    static_assert(known, "matmul2d: the simulator multiplies half, bfloat and float, no integers and no 8-bit types");
    constexpr bool mixed = (metal::is_same<L, half>::value && metal::is_same<R, bfloat>::value) ||
                           (metal::is_same<L, bfloat>::value && metal::is_same<R, half>::value);
    static_assert(!mixed, "matmul2d: bfloat is not multiplied with half; operands are of one 16-bit type, or float");
    static_assert(!known || metal::is_same<D, float>::value, "matmul2d: the destination of these operands is float");
    return true;
  }
  template <typename T> static constexpr bool check_shape() {
    static_assert(SmallShape, "matmul2d with cooperative inputs: m, n and k are 16 or 32, and not all of them 16");
    return true;
  }

  // Lane by lane, so that the simulator's checker and counters see every access; by other lanes than those that are likely
  // to have written an element. offset, end: of the inner dimension.
  template <typename Layout, bool ColumnsAreInner, typename T>
  static METAL_FUNC void hand_over(uint operand, const thread T& from, int offset, int end) {
    typedef metal::__element_of<T> Element;
    if constexpr (metal::__is_cooperative<T>::value) {
      static_assert(metal::is_same<typename T::layout, Layout>::value,
                    "matmul2d: a cooperative tensor of another shape, or of another operand");
      metal::__give<Element, Layout::capacity>(operand, from.__elements);
    } else {
      static_assert(metal::__is_tensor<T>::value, "matmul2d: an operand is a tensor or a cooperative tensor");
      Element elements[Layout::capacity];
      for (int i = 0; i < Layout::capacity; i++) {
        const int at = i * 32 + 31 - metal::metal_lane();
        int row = at / Layout::columns, column = at % Layout::columns;
        const int inner = (ColumnsAreInner ? column : row) + offset;
        if constexpr (ColumnsAreInner) column = inner;
        else row = inner;
        elements[i] = inner < end ? from.__read(column, row) : Element(0);
      }
      metal::__give<Element, Layout::capacity>(operand, elements);
    }
  }
  template <typename L, typename R> static constexpr uint flags() {
    typedef metal::__element_of<L> A;
    typedef metal::__element_of<R> B;
    return (LT ? __METAL_UNIT_LEFT_TRANSPOSED : 0) | (RT ? __METAL_UNIT_RIGHT_TRANSPOSED : 0) |
           (metal::__is_cooperative<L>::value ? 0 : __METAL_UNIT_LEFT_IN_MEMORY) |
           (metal::__is_cooperative<R>::value ? 0 : __METAL_UNIT_RIGHT_IN_MEMORY) |
           (Relaxed ? __METAL_UNIT_RELAXED : 0) |
           (__ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ < 260200 ? __METAL_UNIT_OLD_TARGET : 0) |
           uint(__encoded<A>::type) << __METAL_UNIT_LEFT_TYPE | uint(__encoded<B>::type) << __METAL_UNIT_RIGHT_TYPE;
  }

 public:
  template <typename L, typename R, typename D, typename Coordinate = int>
  METAL_FUNC auto get_left_input_cooperative_tensor() const {
    static_assert(check_types<L, R, D>() && check_shape<L>(), "");
    Matrix<L, Left> unset;  // NaN, until it is filled
    return unset;
  }
  // A product as the next one's left operand: element by element, which is right only where the two have one layout.
  template <typename L, typename R, typename D, typename T, typename Extents, typename Layout>
  METAL_FUNC auto get_left_input_cooperative_tensor(
      const thread metal::cooperative_tensor<T, Extents, Layout>& from) const {
    static_assert(Layout::matrix == Left::matrix, "matmul2d: a product of another shape than the left operand");
    auto made = get_left_input_cooperative_tensor<L, R, D>();
    made.__set(from);
    return made;
  }
  template <typename L, typename R, typename D, typename Coordinate = int>
  METAL_FUNC auto get_right_input_cooperative_tensor() const {
    static_assert(check_types<L, R, D>() && check_shape<L>(), "");
    Matrix<R, Right> unset;
    return unset;
  }
  template <typename L, typename R, typename D>
  METAL_FUNC auto get_destination_cooperative_tensor() const {
    static_assert(check_types<metal::__element_of<L>, metal::__element_of<R>, D>(), "");
    Matrix<D, Destination> unset;
    return unset;
  }
  template <typename L, typename R, typename D>
  METAL_FUNC auto get_row_reduction_destination_cooperative_tensor() const {
    metal::cooperative_tensor<D, Extents1, metal::__rows_of<Destination>> unset;
    return unset;
  }
  template <typename L, typename R, typename D>
  METAL_FUNC void run(const thread L& left, const thread R& right, thread D& destination) const {
    static_assert(
        metal::__is_cooperative<D>::value, "matmul2d: the simulator multiplies into cooperative tensors only");
    static_assert(metal::is_same<typename D::layout, Destination>::value,
                  "matmul2d: the destination is of another shape, or is an input");
    constexpr bool in_memory = metal::__is_tensor<L>::value && metal::__is_tensor<R>::value;
    static_assert(!AnyK || in_memory, "matmul2d: k is dynamic_extent only where both operands are in memory");
    const int end = AnyK ? operand_extent(left) : K;
    float sums[Destination::capacity];
    for (int i = 0; i < Destination::capacity; i++) sums[i] = Accumulates ? destination.__elements[i] : 0;
    for (int offset = 0; offset < end; offset += Step) {
      metal::__give<float, Destination::capacity>(__METAL_UNIT_DESTINATION, sums);
      hand_over<Left, !LT>(__METAL_UNIT_LEFT, left, offset, end);
      hand_over<Right, RT>(__METAL_UNIT_RIGHT, right, offset, end);
      metal::metal_matrix_unit(M | N << 8 | Step << 16, flags<L, R>());
      metal::__take<Destination::capacity>(__METAL_UNIT_DESTINATION, sums);
    }
    for (int i = 0; i < Destination::capacity; i++) destination.__elements[i] = sums[i];
  }

 private:
  template <typename T> static METAL_FUNC int operand_extent(const thread T& left) {
    if constexpr (AnyK) return left.get_extent(LT ? 1 : 0);
    else return K;
  }
};

enum class reduction_operation { sum, max, min };
// The identity is 0 unless it is given, also of max and min.
template <typename S, typename D>
METAL_FUNC void reduce_rows(thread S& source, thread D& reduced,
                            reduction_operation operation = reduction_operation::sum,
                            typename D::element_type identity = 0) {
  typedef typename S::layout Matrix;
  static_assert(
      metal::is_same<typename D::layout, metal::__rows_of<Matrix>>::value, "reduce_rows: rows of another matrix");
  metal::__give<float, Matrix::capacity>(__METAL_UNIT_DESTINATION, source.__elements);
  metal::metal_reduce_rows(Matrix::matrix, uint(operation), identity);
  metal::__take<D::layout::capacity>(__METAL_UNIT_LEFT, reduced.__elements);
}
}  // namespace tensor_ops
}  // namespace mpp
#endif
