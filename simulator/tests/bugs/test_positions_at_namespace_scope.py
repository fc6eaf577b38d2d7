"""A position declared at namespace scope has its value in every function."""

import numpy as np
from checked_launch import launch_clean

INPUTS = """uint3 id [[thread_position_in_grid]];
const uint lane [[thread_index_in_simdgroup]];
namespace n {
constant ushort2 group [[threadgroup_position_in_grid]];
uint place() { return id.x + group.y * 64; }
}
kernel void f(device uint* out) { out[n::place()] = id.x * 100 + lane + (id.y == 1 ? 10000 : 0); }
kernel void g(device uint* out, uint id [[thread_position_in_threadgroup]]) { out[id] = id + lane; }
"""


def test_positions_at_namespace_scope(written):
    library, out, i = written(INPUTS), np.zeros(128, np.uint32), np.arange(128)
    assert library.check() == []
    launch_clean(library, "f", [out], (1, 2, 1), (64, 1, 1))
    assert np.array_equal(out, i % 64 * 100 + i % 32 + i // 64 * 10000)
    launch_clean(library, "g", [out], threads=(64, 1, 1))
    assert np.array_equal(out[:64], i[:64] + i[:64] % 32)
