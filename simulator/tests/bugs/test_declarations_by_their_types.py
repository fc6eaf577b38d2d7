"""What a declaration is, its type says, and not how it is spelled."""

import numpy as np
import pytest
from checked_launch import launch_clean
from metal_simulator import CompileError

ALIASES = """typedef device float* Out;
using In = const device float*;
using Factor = constant float&;
template <typename T> using Pointer = device T*;
kernel void said(Out out [[buffer(1)]], In in [[buffer(0)]], Factor factor [[buffer(2)]],
                 uint i [[thread_position_in_grid]]) {
  out[i] = in[i] * factor;
}
kernel void counted(Out out, device const float* in, Factor factor, Pointer<float> more [[buffer(0)]],
                    uint i [[thread_position_in_grid]]) {
  out[i] = in[i] * factor + more[i];
}
"""


def test_parameters_behind_aliases(written):
    library, out, x = written(ALIASES), np.zeros(4, np.float32), np.arange(4, dtype=np.float32)
    assert library.check() == []
    launch_clean(library, "said", [x, out, np.float32([2])], threads=(4, 1, 1))
    assert np.array_equal(out, 2 * x)
    launch_clean(library, "counted", [x, out, x, np.float32([2])], threads=(4, 1, 1))
    assert np.array_equal(out, 3 * x)
    parameters = [(p["index"], p["constant"]) for p in library.kernel("counted").parameters[:4]]
    assert parameters == [(1, False), (2, True), (3, True), (0, False)]


POSITIONS = """struct S { uint id; uint lane() const { return id + 1; } };
uint3 id [[thread_position_in_grid]], group [[threadgroup_position_in_grid]];
uint lane [[thread_index_in_simdgroup]];
enum class E { id = 5 };
namespace n { uint index [[thread_index_in_threadgroup]]; }
template <int N> uint shifted() { return id.x + N; }
uint hidden() {
  uint y = id.x;
  { uint id = 3; y += id; }
  for (uint id = 0; id < 2; id++) y += id;
  return y;
}
kernel void f(device uint* out) {
  S s;
  s.id = 7;
  auto copied = lane;
  out[id.x] = s.id + s.lane() + uint(E::id) + shifted<2>() + hidden() + copied + n::index + group.x;
}
"""


def test_names_of_positions(written):
    library, out, i = written(POSITIONS), np.zeros(8, np.uint32), np.arange(8)
    assert library.check() == []
    launch_clean(library, "f", [out], (2, 1, 1), (4, 1, 1))
    assert np.array_equal(out, 7 + 8 + 5 + (i + 2) + (i + 3 + 1) + i % 4 + i % 4 + i // 4)


CONSTANTS = """constant bool x [[function_constant(0)]];
constant int n [[function_constant(1)]];
constant bool a = x && true, plain = true, b(!x), c{x};
constant int m = n + 1;
namespace q { constant int twice = m * 2; }
struct T { int n; };
constant T t = {4};
kernel void needs_none(device int* out) { out[0] = t.n + plain; }
kernel void needs_both(device int* out) { out[0] = a + b + c + q::twice; }
"""


def test_constants_computed_from_function_constants(written):
    library, out = written(CONSTANTS), np.zeros(1, np.int32)
    launch_clean(library, "needs_none", [out])
    assert out[0] == 5
    library.kernel("needs_both", {"x": True, "n": 3}).launch([out], (1, 1, 1), (1, 1, 1))
    assert out[0] == 10
    for given, missing in ({"x": True}, "n"), ({"n": 1}, "x"):
        with pytest.raises(CompileError, match=f"function constant {missing} has no value"):
            library.kernel("needs_both", given)


DEFINED = """namespace a { constant int x [[function_constant(0)]]; }
namespace b { constant int y [[function_constant(1)]]; constant bool known = is_function_constant_defined((y)); }
using namespace b;
template <typename T> T either(T other) { return is_function_constant_defined(a::x) ? T(a::x) : other; }
kernel void f(device int* out) {
  out[0] = either(7);
  out[1] = b::known ? y : 8;
  int x = is_function_constant_defined(::b::y);
  out[2] = x;
}
"""


def test_constants_that_are_asked_for(written):
    library = written(DEFINED)
    assert library.check() == []
    for constants, expected in [({}, [7, 8, 0]), ({"x": 3}, [3, 8, 0]), ({"y": 4}, [7, 4, 1])]:
        out = np.zeros(3, np.int32)
        library.kernel("f", constants).launch([out], (1, 1, 1), (1, 1, 1))
        assert out.tolist() == expected, constants
