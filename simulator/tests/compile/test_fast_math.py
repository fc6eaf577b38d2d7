"""The fast-math build: as Metal allows by default, a kernel's infinities and NaN, signs of zeros and order of sums are
the compiler's to change. What is asked of the bits stays."""

import numpy as np
import pytest
from checked_launch import kernel
from metal_simulator import CompileError, LaunchError, Library
from metal_simulator.nvidia.compile import build
from metal_simulator.toolchain.clang import find_clang

X = np.array([1, -1, 0, -0.0, np.inf, -np.inf, np.nan, -np.nan] * 8, np.float32)
INDEX = np.arange(64)
NAN, INF = np.isnan(X), np.isinf(X)
# By what they rely on: expressions, and their values where infinities, NaN and the order of sums count.
RELYING = {
    "infinity returned": ("odd_or_infinity(i)", np.where(INDEX % 2, INDEX, -np.inf)),
    "infinity compared": ("x[i] == -INFINITY", X == -np.inf),
    "NaN compared": ("x[i] != x[i]", NAN),
    "isnan": ("isnan(x[i])", NAN),
    "isinf": ("isinf(x[i])", INF),
    "isfinite": ("isfinite(x[i])", ~NAN & ~INF),
    "order of a sum": ("(i / 64.0f + 1e8f) - 1e8f", 0 * INDEX),
}
HELPER = "float odd_or_infinity(uint i) { return i % 2 ? i : -INFINITY; }\n"
BITS = {
    "infinity": ("(as_type<uint>(x[i]) & 0x7fffffff) == 0x7f800000", INF),
    "NaN": ("(as_type<uint>(x[i]) & 0x7fffffff) > 0x7f800000", NAN),
    "sign": ("as_type<uint>(x[i]) >> 31", np.signbit(X)),
}


def values(tmp_path, expressions, **keywords):
    """The values of some expressions for X, a row for each. keywords: of Library."""
    path = tmp_path / "f.metal"
    rows = [f"out[{64 * k} + i] = {expression};" for k, (expression, _) in enumerate(expressions.values())]
    path.write_text("#include <metal_stdlib>\nusing namespace metal;\n" + HELPER + kernel("\n".join(rows)))
    f, out = Library(path, **keywords).kernel("f"), np.zeros((len(rows), 64), np.float32)
    f.launch([X, out], (1, 1, 1), (64, 1, 1))
    checked = np.zeros_like(out)
    f.launch([X, checked], (1, 1, 1), (64, 1, 1), check=True)
    assert np.array_equal(out, checked, equal_nan=True)
    return out


def wrong(rows, expressions):
    return {
        name
        for row, (name, (_, exact)) in zip(rows, expressions.items())
        if not np.array_equal(row, exact.astype(np.float32), equal_nan=True)
    }


def test_the_ordinary_build_keeps_infinities_and_nan(tmp_path):
    assert wrong(values(tmp_path, RELYING), RELYING) == set()
    assert wrong(values(tmp_path, RELYING, fast_math=False), RELYING) == set()


def test_the_fast_math_build_does_not(tmp_path):
    since = {"infinity returned": 19, "infinity compared": 18}  # the clang that makes use of it
    relied = {name for name in RELYING if find_clang().major >= since.get(name, 17)}
    assert wrong(values(tmp_path, RELYING, fast_math=True), RELYING) >= relied


def test_bits_are_safe(tmp_path):
    assert wrong(values(tmp_path, BITS, fast_math=True), BITS) == set()


def test_bits_are_stored_and_copied(written, tmp_path):
    """An infinity as a store of bits; and numbers that are only moved."""
    text = kernel(
        "((device uint*)out)[i] = i % 2 ? as_type<uint>(x[i]) : 0xff800000u;\n"
        "((device uint*)out)[64 + i] = ((device const uint*)x)[i];\n"
        "out[128 + i] = x[i];"
    )
    out = np.zeros((3, 64), np.float32)
    path = written(text).source.path
    Library(path, fast_math=True).kernel("f").launch([X, out], (1, 1, 1), (64, 1, 1))
    assert np.array_equal(out, [np.where(INDEX % 2, X, -np.inf), X, X], equal_nan=True)


def test_the_macro_tells(written):
    library = written("#ifdef __FAST_MATH__\nkernel void fast() {}\n#else\nkernel void ordinary() {}\n#endif")
    assert library.kernels == ("ordinary",)
    assert Library(library.source.path, fast_math=True).kernels == ("fast",)


def test_counters(written):
    library = written(kernel("out[i] = simd_max(x[i]) / 3 + sqrt(x[i]);"))
    buffers = [np.ones(64, np.float32), np.zeros(64, np.float32)]
    fast = Library(library.source.path, fast_math=True)
    profiles = [each.kernel("f").profile(buffers, (1, 1, 1), (64, 1, 1)) for each in (library, fast)]
    assert profiles[0].classes != profiles[1].classes  # a multiplication by the reciprocal
    assert np.allclose(buffers[1], 4 / 3)


def test_races_are_found(written):
    library = Library(written(kernel("out[i / 2] = x[i];")).source.path, fast_math=True)
    report = library.kernel("f", build="check").launch([X, X.copy()], (1, 1, 1), (64, 1, 1), check=True)
    assert {f.kind for f in report.findings} == {"race: two writes"}


def test_no_check_for_nan(written):
    library = Library(written(kernel("out[i] = x[i];")).source.path, fast_math=True)
    with pytest.raises(LaunchError, match="check_nan needs a build without fast math, which knows no NaN"):
        library.kernel("f").launch([X, X.copy()], (1, 1, 1), (64, 1, 1), check_nan=True)


def test_no_build_for_nvidia(written):
    library = Library(written(kernel("out[i] = x[i];")).source.path, fast_math=True)
    with pytest.raises(CompileError, match="no fast-math build for NVIDIA GPUs"):
        build(library, "f")
