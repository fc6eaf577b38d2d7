// Cooperative tensors of one SIMD group: matrices that its 32 lanes hold together. The runtime knows which element of the
// matrix an element of a lane is (runtime/matrix_unit.c): that differs between GPUs, and is chosen at the launch.
#pragma once
#include <metal_simulator/tensor.h>
#if defined(__HAVE_TENSOR__)
namespace metal {
extern "C" {
// A matrix is rows | columns << 8; operands and flags are those of interface.h.
__attribute__((const)) uint metal_tensor_place(uint matrix, uint flags, uint index);  // row << 16 | column, as stored
__attribute__((const)) uint metal_tensor_row(uint matrix,
                                             uint slot);  // of a lane's rows the slot-th; ~0 beyond the last
__attribute__((const)) uint metal_tensor_slot(uint matrix, uint index);  // the inverse, for the row of an element
__attribute__((noreturn, nomerge)) void metal_tensor_outside(uint index, uint capacity);
// 16 bytes of what a lane holds of an operand, from the runtime or to it.
void metal_tensor_give(uint operand, uint chunk, uint4 elements);
uint4 metal_tensor_take(uint operand, uint chunk);
}
struct execution_thread {};
template <int N> struct execution_simdgroups {};
typedef execution_simdgroups<1> execution_simdgroup;

// A stored matrix and its part in the product.
template <int Rows, int Columns, uint Flags>
struct __layout {
  static constexpr __constant uint matrix = Rows | Columns << 8, flags = Flags;
  static constexpr __constant int rows = Rows, columns = Columns;
  static constexpr __constant ushort capacity = Rows * Columns / 32;
};
// The rows of such a matrix: at most those of its 16 x 16 parts of which a lane has elements.
template <typename Matrix>
struct __rows_of {
  static constexpr __constant uint matrix = Matrix::matrix;
  static constexpr __constant ushort capacity = Matrix::rows / 8;
};

template <int Rank>
struct __coordinates {
  int __at[Rank];
  METAL_FUNC int operator[](size_t i) const { return __at[i]; }
};

template <typename Tensor>
struct __tensor_iterator {
  thread Tensor* __of;
  ushort __index;
  METAL_FUNC auto& operator*() const { return (*__of)[__index]; }
  METAL_FUNC thread __tensor_iterator& operator++() thread {
    ++__index;
    return *this;
  }
  METAL_FUNC bool operator!=(__tensor_iterator other) const { return __index != other.__index; }
  METAL_FUNC bool operator==(__tensor_iterator other) const { return __index == other.__index; }
};

template <typename T, typename Layout>
struct __elements_of_a_lane {
  T __elements[Layout::capacity];
  METAL_FUNC constexpr ushort get_capacity() const { return Layout::capacity; }
  METAL_FUNC thread T& operator[](ushort i) thread {
    if (i >= Layout::capacity) metal_tensor_outside(i, Layout::capacity);
    return __elements[i];
  }
  METAL_FUNC const thread T& operator[](ushort i) const thread {
    if (i >= Layout::capacity) metal_tensor_outside(i, Layout::capacity);
    return __elements[i];
  }
  template <typename From> METAL_FUNC void __set(const thread From& from) thread {
    for (int i = 0; i < Layout::capacity; i++) __elements[i] = T(from.__elements[i]);
  }
};
// By 16 bytes, so that the elements need not lie in memory.
template <typename T, int N>
METAL_FUNC void __give(uint operand, const thread T* elements) {
  constexpr int each = 16 / sizeof(T);
  static_assert(N % each == 0, "whole chunks");
  for (int chunk = 0; chunk < N / each; chunk++) {
    vec<T, each> part;
    for (int i = 0; i < each; i++) part[i] = elements[chunk * each + i];
    metal_tensor_give(operand, chunk, as_type<uint4>(part));
  }
}
template <int N>
METAL_FUNC void __take(uint operand, thread float* elements) {
  for (int chunk = 0; chunk < (N + 3) / 4; chunk++) {
    const float4 part = as_type<float4>(metal_tensor_take(operand, chunk));
    for (int i = 0; i < 4 && chunk * 4 + i < N; i++) elements[chunk * 4 + i] = part[i];
  }
}

template <typename T, typename Extents, typename Layout>
struct cooperative_tensor : __elements_of_a_lane<T, Layout> {
  typedef T element_type;
  typedef Layout layout;
  typedef __tensor_iterator<cooperative_tensor> iterator;
  METAL_FUNC bool is_valid_element(ushort i) const { return i < Layout::capacity; }
  METAL_FUNC __coordinates<2> get_multidimensional_index(ushort i) const {
    if (i >= Layout::capacity) metal_tensor_outside(i, Layout::capacity);
    const uint at = metal_tensor_place(Layout::matrix, Layout::flags, i);
    return {int(at & 0xFFFF), int(at >> 16)};
  }
  METAL_FUNC iterator begin() thread { return {this, 0}; }
  METAL_FUNC iterator end() thread { return {this, Layout::capacity}; }
  METAL_FUNC iterator get_iterator(ushort i) thread { return {this, i}; }
  template <typename Tensor> METAL_FUNC void load(const thread Tensor& from) thread {
    for (ushort i = 0; i < Layout::capacity; i++) {
      auto at = get_multidimensional_index(i);
      this->__elements[i] = T(from.__read(at[0], at[1]));
    }
  }
  template <typename Tensor> METAL_FUNC void store(const thread Tensor& to) const thread {
    static_assert(is_same<T, typename Tensor::value_type>::value, "a cooperative tensor is stored as its own type");
    for (ushort i = 0; i < Layout::capacity; i++) {
      auto at = get_multidimensional_index(i);
      if (to.__holds(at[0], at[1])) *to.__at(at[0], at[1]) = this->__elements[i];
    }
  }
};
// One element for each row of which the lane holds any.
template <typename T, typename Extents, typename Matrix>
struct cooperative_tensor<T, Extents, __rows_of<Matrix>> : __elements_of_a_lane<T, __rows_of<Matrix>> {
  typedef T element_type;
  typedef __rows_of<Matrix> layout;
  typedef __tensor_iterator<cooperative_tensor> iterator;
  METAL_FUNC bool is_valid_element(ushort i) const {
    return i < layout::capacity && metal_tensor_row(layout::matrix, i) != ~0u;
  }
  METAL_FUNC __coordinates<1> get_multidimensional_index(ushort i) const {
    return {int(metal_tensor_row(layout::matrix, i))};
  }
  METAL_FUNC iterator begin() thread { return {this, 0}; }
  METAL_FUNC iterator end() thread { return {this, layout::capacity}; }
  METAL_FUNC iterator get_iterator(ushort i) thread { return {this, i}; }
  template <typename Other> METAL_FUNC iterator map_iterator(__tensor_iterator<Other> it) thread {
    return {this, ushort(metal_tensor_slot(layout::matrix, it.__index))};
  }
};
template <typename T> struct __is_cooperative : false_type {};
template <typename T, typename E, typename L> struct __is_cooperative<cooperative_tensor<T, E, L>> : true_type {};
template <typename T> struct __element { typedef typename T::value_type type; };
template <typename T, typename E, typename L> struct __element<cooperative_tensor<T, E, L>> { typedef T type; };
template <typename T> using __element_of = typename __element<remove_const_t<remove_addrspace_t<T>>>::type;
}  // namespace metal
#endif
