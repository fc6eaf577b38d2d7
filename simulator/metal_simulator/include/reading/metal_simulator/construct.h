// Conversions of vectors, for reading.
#pragma once
namespace metal {
template <typename T, typename... A> METAL_FUNC constexpr T __construct(A... a) { return T(a...); }
template <typename T, typename A> METAL_FUNC constexpr T __convert(A a) { return T(a); }
}  // namespace metal
template <typename T, typename U> METAL_FUNC constexpr T as_type(U u) { return __builtin_bit_cast(T, u); }
