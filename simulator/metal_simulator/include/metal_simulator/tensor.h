// Tensors of Metal 4 in memory: matrices that a kernel makes of a pointer, extents and strides.
#pragma once
#if defined(__HAVE_TENSOR__)
namespace metal {
constexpr __constant size_t dynamic_extent = ~0ul;

template <typename Index, size_t... Extents>
struct extents {
  Index __extents[sizeof...(Extents)];
  extents() = default;
  template <typename... T> constexpr extents(T... values) : __extents{Index(values)...} {}
  constexpr Index extent(int i) const { return __extents[i]; }
  static constexpr size_t rank() { return sizeof...(Extents); }
};
template <typename Index, int Rank> struct __dynamic;
template <typename Index> struct __dynamic<Index, 1> { typedef extents<Index, dynamic_extent> type; };
template <typename Index> struct __dynamic<Index, 2> { typedef extents<Index, dynamic_extent, dynamic_extent> type; };
template <typename Index, int Rank> using dextents = typename __dynamic<Index, Rank>::type;

struct tensor_inline {};
template <typename T, typename Extents, typename Kind> struct tensor;

// Dimension 0 is the one within a row. What lies outside of the extents reads as zero and is not written.
template <typename T, typename Extents>
struct tensor<T, Extents, tensor_inline> {
  static_assert(Extents::rank() == 2, "the simulator's tensors are matrices");
  typedef remove_addrspace_t<T> element_type;
  typedef remove_const_t<element_type> value_type;
  T* __data;
  long __column_step, __row_step;
  int __columns, __rows, __first_column, __first_row;
  tensor() = default;
  template <typename Stride>
  METAL_FUNC tensor(T* data, Extents e, array<Stride, 2> strides)
      : __data(data),
        __column_step(strides[0]),
        __row_step(strides[1]),
        __columns(e.extent(0)),
        __rows(e.extent(1)),
        __first_column(0),
        __first_row(0) {}
  METAL_FUNC tensor(T* data, Extents e)
      : __data(data),
        __column_step(1),
        __row_step(e.extent(0)),
        __columns(e.extent(0)),
        __rows(e.extent(1)),
        __first_column(0),
        __first_row(0) {}
  METAL_FUNC int get_extent(int i) const { return i ? __rows - __first_row : __columns - __first_column; }
  METAL_FUNC bool __holds(int column, int row) const {
    return uint(column + __first_column) < uint(__columns) && uint(row + __first_row) < uint(__rows);
  }
  METAL_FUNC T* __at(int column, int row) const {
    return __data + ((column + __first_column) * __column_step + (row + __first_row) * __row_step);
  }
  METAL_FUNC value_type __read(int column, int row) const {
    return __holds(column, row) ? value_type(*__at(column, row)) : value_type(0);
  }
  METAL_FUNC tensor slice(int column, int row) const {
    tensor part = *this;
    part.__first_column += column;
    part.__first_row += row;
    return part;
  }
  template <int Columns, int Rows> METAL_FUNC tensor slice(int column, int row) const {
    tensor part = slice(column, row);
    part.__columns = min(__columns, part.__first_column + Columns);
    part.__rows = min(__rows, part.__first_row + Rows);
    return part;
  }
};
template <typename T> struct __is_tensor : false_type {};
template <typename T, typename E, typename K> struct __is_tensor<tensor<T, E, K>> : true_type {};
}  // namespace metal
#endif
