"""Every counter at once, on kernels whose counts are worked out in the comments."""

import numpy
import pytest
from metal_simulator.profiler.counters import find

TILE = """
kernel void f(device const half* x [[buffer(0)]], device float* out [[buffer(1)]], constant float& scale [[buffer(2)]],
              uint group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float tile[32 * STRIDE];
  for (uint r = 0; r < 32; r++) tile[r * STRIDE + lane] = x[r * 32 + lane];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0;
  for (uint r = 0; r < 32; r++) sum = fma(tile[lane * STRIDE + r], scale, sum);
  threadgroup_barrier(mem_flags::mem_none);
  for (ushort step = 16; step > 0; step /= 2) sum += simd_shuffle_xor(sum, step);
  out[group * 32 + lane] = exp2(sum) + float(int(lane));
}"""


@pytest.mark.parametrize(("stride", "turns"), [(32, 32), (33, 1), (34, 2), (36, 4)])
def test_a_transposed_tile(written, stride, turns):
    """Columns of a tile whose rows are `stride` words apart: words of 32 lanes in 32 / turns banks."""
    library = written(TILE.replace("STRIDE", str(stride)))
    x, out, groups = numpy.zeros(1024, numpy.float16), numpy.zeros(96, numpy.float32), 3
    profile = library.kernel("f").profile([x, out, numpy.float32(1).tobytes()], (groups, 1, 1), (32, 1, 1))
    read, written_, tile = (find(profile.traffic, name) for name in ("x", "out", "threadgroup"))
    # 32 loads of 2 bytes a lane: half a line each, so every line twice; three threadgroups read the same 2048 bytes
    assert (read.instructions, read.read, read.lines) == (3 * 32, 3 * 2048, 3 * 32)
    assert (read.first_read, read.lines_read, read.written) == (2048, 16, 0)
    assert (written_.instructions, written_.written, written_.first_written, written_.lines_written) == (3, 384, 384, 3)
    # 32 stores and 32 loads of 4 bytes a lane; rows have no conflicts
    assert (tile.instructions, tile.read, tile.written) == (3 * 64, 3 * 4096, 3 * 4096)
    assert tile.conflicts == 3 * 32 * (turns - 1)
    assert profile.accesses[("device", "load", "2")] == 96 and profile.accesses[("threadgroup", "load", "4")] == 96
    classes = profile.classes
    assert classes["barrier"] == 2 * groups and classes["shuffle"] == 5 * groups
    assert classes["exponential"] == groups and classes["convert"] == groups
    assert "mma_half" not in classes and "unknown" not in classes and "divide" not in classes
    row = profile.rows[0]
    # stores and loads: 128 bytes take 2 clocks of 64, or a clock for each turn
    assert row.threadgroup_clocks == 32 * 2 + 32 * max(2, turns)
    assert row.device_clocks == 32 * 1 + 2 and row.device_lines == 16 + 1
    assert profile.threadgroup_bytes == 32 * stride * 4 and len(profile.rows) == 1


@pytest.mark.parametrize(
    ("type", "offset", "bytes", "lines"),
    [("half", 0, 2, 1), ("half2", 0, 4, 1), ("half4", 0, 8, 2), ("float4", 0, 16, 4), ("float", 1, 4, 2),
     ("half4", 1, 8, 3), ("float4", 4, 16, 5), ("uchar", 0, 1, 1), ("ulong", 0, 8, 2)],
)  # fmt: skip
def test_lines_by_width_and_place(written, type, offset, bytes, lines):
    """32 lanes read 32 * bytes in a row, from `offset` elements on."""
    library = written(f"""
kernel void f(device const {type}* x [[buffer(0)]], device {type}* out [[buffer(1)]],
              uint lane [[thread_index_in_simdgroup]]) {{ out[lane] = x[lane + {offset}]; }}""")
    x, out = numpy.zeros(2048, numpy.uint8), numpy.zeros(2048, numpy.uint8)
    profile = library.kernel("f").profile([x, out], (1, 1, 1), (32, 1, 1))
    read = find(profile.traffic, "x")
    assert (read.instructions, read.read, read.lines, read.first_read) == (1, 32 * bytes, lines, 32 * bytes)
    assert profile.accesses[("device", "load", str(bytes))] == 1


def test_divergent_loops_count_their_longest_lane(written):
    """Lane n runs n + 1 times: 32 turns of the SIMD group, 528 loads of lanes in 32 instructions."""
    library = written("""
kernel void f(device float* x [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
  float sum = 0;
  for (uint k = 0; k <= lane; k++) sum += exp2(x[k]);
  x[lane + 64] = sum;
}""")
    profile = library.kernel("f").profile([numpy.zeros(128, numpy.float32)], (1, 1, 1), (32, 1, 1))
    assert profile.classes["exponential"] == 32
    x = find(profile.traffic, "x")
    assert (x.instructions, x.read, x.first_read, x.lines) == (32 + 1, 528 * 4, 128, 32 + 1)


def test_atomics_and_reductions(written):
    library = written("""
kernel void f(device const int* x [[buffer(0)]], device atomic_int* total [[buffer(1)]],
              uint i [[thread_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const int sum = simd_sum(x[i]), least = simd_min(x[i]);
  if (lane == 0) {
    atomic_fetch_add_explicit(total, sum, memory_order_relaxed);
    atomic_fetch_min_explicit(total + 1, least, memory_order_relaxed);
  }
}""")
    x, total = numpy.ones(256, numpy.int32), numpy.zeros(2, numpy.int32)
    profile = library.kernel("f").profile([x, total], (2, 1, 1), (128, 1, 1))
    assert total.tolist() == [256, 0]
    assert (profile.classes["reduction"], profile.classes["atomic"]) == (2 * 8, 2 * 8)
    found = find(profile.traffic, "total")
    assert (found.read, found.written, found.first_read, found.first_written) == (64, 64, 8, 8)
    assert found.instructions == 2 * 16  # a read and a write each


@pytest.mark.parametrize("width", [1, 2, 4])
def test_registers_of_accumulators(written, width):
    """What lives through a loop: `width` float4 sums, an address, the counter and its test."""
    sums = ", ".join(f"s{k} = 0" for k in range(width))
    adds = " ".join(f"s{k} += x[n * {width} + {k}];" for k in range(width))
    stores = " ".join(f"x[{k}] = s{k};" for k in range(width))
    library = written(f"""
kernel void f(device float4* x [[buffer(0)]], constant uint& count [[buffer(1)]]) {{
  float4 {sums};
  for (uint n = 0; n < count; n++) {{ {adds} simdgroup_barrier(mem_flags::mem_device); }}
  {stores}
}}""")
    x = numpy.zeros((64, 4), numpy.float32)
    registers = library.kernel("f").profile([x, numpy.uint32(3).tobytes()], (1, 1, 1), (32, 1, 1)).registers
    assert 4 * width + 1 <= registers <= 4 * width + 4 + 2 + 4  # a loaded vector, an address, counters
