"""The sign of a bfloat, by its bits, where the same value is used as a number, too: clang for x86 loses it."""

import numpy as np
import pytest

VALUES = np.uint16([0x3F80, 0xBF80, 0xFF80, 0x8000])  # 1, -1, -infinity, -0
SIGNS = {
    "signbit": "signbit(v)",
    "shift": "as_type<ushort>(v) >> 15",
    "mask": "(as_type<ushort>(v) & 0x8000) != 0",
    "comparison": "as_type<short>(v) < 0",
    "of a vector": "signbit(bfloat2(v, 1.0bf)).x",
    "component": "as_type<ushort2>(bfloat2(v, 1.0bf)).x >> 15",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("build", ["run", "check", "count"])
@pytest.mark.parametrize("sign", SIGNS.values(), ids=SIGNS)
def test_signs_of_bfloats(written, sign, build):
    library = written(f"""
kernel void f(device const bfloat* x, device bool* out, device int* sign, uint i [[thread_position_in_grid]]) {{
  bfloat v = x[i];
  out[i] = isnan(v);
  bool is_negative = {sign};
  sign[i] = is_negative;
}}""")
    buffers = [VALUES, np.zeros(4, np.bool_), np.zeros(4, np.int32)]
    if build == "count":
        profile = library.kernel("f").profile(buffers, (1, 1, 1), (4, 1, 1))
        assert "unknown" not in profile.classes
    else:
        library.kernel("f", build=build).launch(buffers, (1, 1, 1), (4, 1, 1), check=build == "check")
    assert buffers[2].tolist() == [0, 1, 1, 1]


def test_bits_are_constants(written):
    library = written("""
static_assert(as_type<ushort>(-1.0bf) == 0xbf80, "");
kernel void f(device float* x) { x[0] = 1; }""")
    assert library.check() == []
