// Functions of vectors of bool, for reading.
#pragma once
namespace metal {
template <int N> bool any(vec<bool, N> v);
template <int N> bool all(vec<bool, N> v);
bool any(bool b);
bool all(bool b);
using bool2 = vec<bool, 2>;
using bool3 = vec<bool, 3>;
using bool4 = vec<bool, 4>;
}  // namespace metal
using metal::bool2;
using metal::bool3;
using metal::bool4;
