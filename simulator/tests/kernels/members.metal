#include <metal_stdlib>
using namespace metal;

// Member functions that return references and pointers to members, called by each other.
template <typename T, int N>
struct Fragments {
  vec<T, 2> frag[N];

  thread vec<T, 2>& at(short i) { return frag[i]; }
  constexpr const thread vec<T, 2>& at(short i) const { return frag[i]; }
  METAL_FUNC thread T* elements() { return reinterpret_cast<thread T*>(frag); }
  void scale(T factor) {
    for (short i = 0; i < N; i++) at(i) *= factor;
  }
  T sum() const {
    T total = 0;
    for (short i = 0; i < N; i++) total += at(i).x + at(i).y;
    return total;
  }
};

kernel void members(device float* out, uint i [[thread_position_in_grid]]) {
  Fragments<float, 4> fragments;
  for (short k = 0; k < 8; k++) fragments.elements()[k] = k;
  fragments.at(1).y += i;
  fragments.scale(2);
  out[i] = fragments.sum();
}
