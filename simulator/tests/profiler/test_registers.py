"""Estimates of registers that can be worked out by hand. test_agx_registers.py has those of whole kernels."""

import pytest
from clangs import since
from metal_simulator.profiler import registers

loads_one = since(18, "loads the first two numbers of a position as one")
POSITION = """
kernel void f(device float* x [[buffer(0)]], constant int& count [[buffer(1)]],
              uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
              uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const float a = x[lane];
  const uint place = PLACE;
  for (int k = 0; k < count; k++) simdgroup_barrier(mem_flags::mem_device);
  x[lane] = a;
  x[place] = a;
}"""
# Eight values that are used in each turn of a loop.
WEIGHTS = """
#define UNROLL _Pragma("clang loop unroll(full)")
kernel void f(device const float* x [[buffer(0)]], device const T* y [[buffer(1)]], device float* out [[buffer(2)]],
              constant int& count [[buffer(3)]], uint lane [[thread_index_in_simdgroup]]) {
  T weights[8];
  UNROLL for (int k = 0; k < 8; k++) weights[k] = T(x[lane + 32 * k] * 2.0f);
  float sum = 0;
  for (int n = 0; n < count; n++) {
    const float factor = float(y[n]);
    UNROLL for (int k = 0; k < 8; k++) sum = fma(float(weights[k]), factor + sum, sum);
  }
  out[lane] = sum;
}"""
INVARIANT = """
#define UNROLL _Pragma("clang loop unroll(full)")
kernel void f(device int* out [[buffer(0)]], constant int& count [[buffer(1)]],
              uint lane [[thread_index_in_simdgroup]]) {
  int sum = 0;
  for (int n = 0; n < count; n++) {
    UNROLL for (int k = 1; k <= 8; k++) sum = (sum ^ n) * (int(lane * lane) ^ (k * 1000));
  }
  out[lane] = sum;
}"""


def needs(library, family) -> registers.Registers:
    return registers.of_family(library.kernel("f").budget().registers_by_family, family)


@pytest.mark.parametrize(("place", "more"), [
    ("groups.x", 0), ("uint(count)", 0), ("groups.y * uint(count)", 0),
    *(pytest.param(place, 1, marks=loads_one) for place in ("group.x", "group.y", "group.x * groups.x")),
    ("group.z", 1), ("simdgroup", 1), ("max(group.x, 3u)", 1),
])  # fmt: skip
@pytest.mark.parametrize("family", [7, 9])
def test_what_depends_on_the_position_takes_registers(written, place, more, family):
    """What is the same for the whole launch does not."""
    found, least = (needs(written(POSITION.replace("PLACE", text)), family).live for text in (place, "7"))
    assert found - least == more


@pytest.mark.parametrize(("type", "families"), [("half", (0.5, 0.5)), ("bfloat", (1, 0.5)), ("float", (1, 1))])
def test_bfloat_takes_32_bits_where_it_is_emulated(written, type, families):
    """Eight values, and up to two registers of what is widened just then."""
    text = WEIGHTS.replace("T(", f"{type}(").replace("T ", f"{type} ").replace("T*", f"{type}*")
    library = written(text)
    least = 8 * 0.5 + 3  # with sum, factor and counter
    for family, each in zip((7, 9), families):
        found = needs(library, family)
        assert 8 * (each - 0.5) <= found.live - least <= 8 * (each - 0.5) + 4
        assert 8 * (each - 0.5) <= found.hoisted - least <= 8 * (each - 0.5) + 4
    seven, eight, nine, ten = (needs(library, family) for family in (7, 8, 9, 10))
    assert seven == eight and nine == ten
    assert (seven.hoisted - nine.hoisted >= 4) == (type == "bfloat")


def test_what_leaves_a_loop_is_counted_in_the_upper_figure_only(written):
    """lane * lane ^ 1000, ... 8000: eight values outside, one at a time inside."""
    found = needs(written(INVARIANT), 7)
    assert found.hoisted - found.live >= 6
    assert found.live <= 6
