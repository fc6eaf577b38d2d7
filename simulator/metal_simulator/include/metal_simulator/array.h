// array<T, N>.
#pragma once
namespace metal {
template <typename T, size_t N>
struct array {
  T __elements[N];
  constexpr size_t size() const { return N; }
  constexpr thread T& operator[](size_t i) thread { return __elements[i]; }
  constexpr const thread T& operator[](size_t i) const thread { return __elements[i]; }
  constexpr device T& operator[](size_t i) device { return __elements[i]; }
  constexpr const device T& operator[](size_t i) const device { return __elements[i]; }
  constexpr threadgroup T& operator[](size_t i) threadgroup { return __elements[i]; }
  constexpr const threadgroup T& operator[](size_t i) const threadgroup { return __elements[i]; }
  constexpr const constant T& operator[](size_t i) const constant { return __elements[i]; }
  constexpr thread T* begin() thread { return __elements; }
  constexpr thread T* end() thread { return __elements + N; }
  constexpr thread T* data() thread { return __elements; }
};
}  // namespace metal
