// Address spaces and vectors, as clang has them in "C++ for OpenCL". reading/ has the same for plain C++.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION __cl_clang_function_pointers : enable
typedef __bf16 bfloat;
namespace metal {
template <int N> struct __bool_vector;
// The vector that a function's template arguments are deduced from; the front end writes it there.
template <typename T, int N> using __vec = T __attribute__((ext_vector_type(N)));
template <typename T, int N> struct __vector_of { using type = __vec<T, N>; };
template <int N> struct __vector_of<bool, N> { using type = __bool_vector<N>; };
template <typename T, int N> using vec = typename __vector_of<T, N>::type;
// For bool as T of an alias of __vec, of which there is none.
template <typename T> struct __component_type { using type = T; };
template <> struct __component_type<bool> { using type = unsigned char; };
template <typename T> using __component = typename __component_type<T>::type;
}  // namespace metal
