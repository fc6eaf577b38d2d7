// array<T, N>, for reading.
#pragma once
namespace metal {
template <typename T, size_t N>
struct array {
  T __elements[N];
  constexpr size_t size() const { return N; }
  constexpr T& operator[](size_t i) { return __elements[i]; }
  constexpr const T& operator[](size_t i) const { return __elements[i]; }
  constexpr T* begin() { return __elements; }
  constexpr T* end() { return __elements + N; }
  constexpr T* data() { return __elements; }
};
}  // namespace metal
