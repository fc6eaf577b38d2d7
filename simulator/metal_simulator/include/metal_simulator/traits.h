// Type traits.
#pragma once
namespace metal {
template <typename T, T v>
struct integral_constant {
  static constexpr __constant T value = v;
  using value_type = T;
  using type = integral_constant<T, v>;
  constexpr operator T() const { return v; }
  constexpr T operator()() const { return v; }
};
template <bool b>
using bool_constant = integral_constant<bool, b>;
using true_type = bool_constant<true>;
using false_type = bool_constant<false>;

template <typename T> struct __unqualified { using type = T; };
#ifndef METAL_SIMULATOR_READING
template <typename T> struct __unqualified<__private T> { using type = T; };
#endif
template <typename T> struct __unqualified<__constant T> { using type = T; };
template <typename T> struct __unqualified<__local T> { using type = T; };
template <typename T> struct __unqualified<__global T> { using type = T; };
template <typename T> using remove_addrspace_t = typename __unqualified<T>::type;

using nullptr_t = decltype(nullptr);

template <typename T> struct remove_const { using type = T; };
template <typename T> struct remove_const<const T> { using type = T; };
template <typename T> struct remove_volatile { using type = T; };
template <typename T> struct remove_volatile<volatile T> { using type = T; };
template <typename T> struct remove_cv { using type = typename remove_volatile<typename remove_const<T>::type>::type; };
template <typename T> struct remove_reference { using type = T; };
template <typename T> struct remove_reference<T&> { using type = T; };
template <typename T> struct remove_reference<T&&> { using type = T; };
template <typename T> struct remove_pointer { using type = T; };
template <typename T> struct remove_pointer<T*> { using type = T; };
template <typename T> struct add_const { using type = const T; };
template <typename T> using remove_const_t = typename remove_const<T>::type;
template <typename T> using remove_volatile_t = typename remove_volatile<T>::type;
template <typename T> using remove_cv_t = typename remove_cv<T>::type;
template <typename T> using remove_reference_t = typename remove_reference<T>::type;
template <typename T> using remove_pointer_t = typename remove_pointer<T>::type;
template <typename T> using decay_t = remove_addrspace_t<remove_cv_t<remove_reference_t<T>>>;
template <typename T> using __value_t = remove_cv_t<remove_addrspace_t<remove_cv_t<remove_reference_t<T>>>>;

template <bool b, typename T = void> struct enable_if {};
template <typename T> struct enable_if<true, T> { using type = T; };
template <bool b, typename T = void> using enable_if_t = typename enable_if<b, T>::type;
template <bool b, typename T, typename F> struct conditional { using type = T; };
template <typename T, typename F> struct conditional<false, T, F> { using type = F; };
template <bool b, typename T, typename F> using conditional_t = typename conditional<b, T, F>::type;
template <typename... B> using _disjunction = bool_constant<(B::value || ...)>;
template <typename... B> using _conjunction = bool_constant<(B::value && ...)>;
template <typename B> using _negation = bool_constant<!B::value>;
template <typename T> struct type_identity { using type = T; };
// Classes, for clang 17 cannot mangle __is_same in a signature.
template <typename T> struct __is_bfloat : false_type {};
template <> struct __is_bfloat<bfloat> : true_type {};
template <typename T> using __float_of_bfloat = enable_if_t<__is_bfloat<T>::value, float>;

template <typename T> struct __is_vector : false_type {
  using scalar = T;
  static constexpr __constant int size = 1;
};
template <typename T, int N> struct __is_vector<__vec<T, N>> : true_type {
  using scalar = T;
  static constexpr __constant int size = N;
};
template <typename T> struct vec_elements : integral_constant<uint, __is_vector<T>::size> {};
template <typename T> struct is_vector : __is_vector<remove_cv_t<T>> {};
template <typename T> using make_scalar_t = typename __is_vector<T>::scalar;

template <typename T> struct __is_float : false_type {};
template <> struct __is_float<float> : true_type {};
template <> struct __is_float<half> : true_type {};
template <> struct __is_float<bfloat> : true_type {};
// Of a vector: what they are of its components, but for is_scalar.
template <typename T> using __component_t = make_scalar_t<remove_cv_t<T>>;
template <typename T> struct is_floating_point : __is_float<__component_t<T>> {};
template <typename T> struct is_integral : bool_constant<__is_integral(__component_t<T>)> {};
template <typename T> struct is_arithmetic : bool_constant<is_integral<T>::value || is_floating_point<T>::value> {};
template <typename T>
struct is_scalar : bool_constant<!is_vector<T>::value && (is_arithmetic<T>::value || __is_enum(T))> {};
template <typename T>
struct is_signed : bool_constant<is_floating_point<T>::value || __is_signed(__component_t<T>)> {};
template <typename T> struct is_unsigned : bool_constant<__is_unsigned(__component_t<T>)> {};
template <typename T> struct is_void : bool_constant<__is_void(T)> {};
template <typename T> struct is_enum : bool_constant<__is_enum(T)> {};
template <typename T> struct is_class : bool_constant<__is_class(T)> {};
template <typename T> struct is_const : bool_constant<__is_const(T)> {};
template <typename T> struct is_pointer : false_type {};
template <typename T> struct is_pointer<T*> : true_type {};
template <typename T> struct is_reference : bool_constant<__is_reference(T)> {};
template <typename T> struct is_trivially_copyable : bool_constant<__is_trivially_copyable(T)> {};
template <typename A, typename B> struct is_same : bool_constant<__is_same(A, B)> {};
template <typename A, typename B> struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};
template <typename A, typename B> struct is_base_of : bool_constant<__is_base_of(A, B)> {};

#define __METAL_TRAIT(name) template <typename T> constexpr __constant bool name##_v = name<T>::value;
__METAL_TRAIT(is_floating_point)
__METAL_TRAIT(is_integral)
__METAL_TRAIT(is_arithmetic)
__METAL_TRAIT(is_scalar)
__METAL_TRAIT(is_signed)
__METAL_TRAIT(is_unsigned)
__METAL_TRAIT(is_void)
__METAL_TRAIT(is_enum)
__METAL_TRAIT(is_class)
__METAL_TRAIT(is_const)
__METAL_TRAIT(is_pointer)
__METAL_TRAIT(is_reference)
__METAL_TRAIT(is_trivially_copyable)
template <typename A, typename B> constexpr __constant bool is_same_v = __is_same(A, B);
template <typename A, typename B> constexpr __constant bool is_convertible_v = __is_convertible_to(A, B);
template <typename A, typename B> constexpr __constant bool is_base_of_v = __is_base_of(A, B);

template <typename T> struct make_signed { using type = T; };
template <typename T> struct make_unsigned { using type = T; };
#define __METAL_SIGNS(S, U)                                       \
  template <> struct make_signed<U> { using type = S; };          \
  template <> struct make_unsigned<S> { using type = U; };
__METAL_SIGNS(char, uchar)
__METAL_SIGNS(short, ushort)
__METAL_SIGNS(int, uint)
__METAL_SIGNS(long, ulong)
template <typename T> using make_signed_t = typename make_signed<T>::type;
template <typename T> using make_unsigned_t = typename make_unsigned<T>::type;

// A promise that all threads have the same value; nothing here depends on it.
template <typename T> using uniform = T;
template <typename T> METAL_FUNC constexpr T make_uniform(T value) { return value; }

template <typename T> T declval();
template <typename R, typename... A> R __some_function(A...);
template <typename R, typename... A> using __function_pointer = decltype(&__some_function<R, A...>);
}  // namespace metal
