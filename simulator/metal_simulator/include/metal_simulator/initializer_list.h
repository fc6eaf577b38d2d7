// initializer_list<T>: a class may speak of it, but clang makes none from braces in OpenCL.
#pragma once
namespace metal {
template <typename T>
class initializer_list {
 public:
  initializer_list() = delete;
  constexpr size_t size() const thread { return count; }
  constexpr thread const T* begin() const thread { return first; }
  constexpr thread const T* end() const thread { return first + count; }

 private:
  thread const T* first;
  size_t count;
};
}  // namespace metal
