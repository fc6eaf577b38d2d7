"""Arithmetic on bfloat rounds after every operation, to nearest even: the bits are NumPy's, with every clang."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from clangs import since
from metal_simulator.toolchain.clang import find_clang

HERE = pathlib.Path(__file__).parent
SIMULATOR = HERE.parents[1]
VERSIONS = [str(version) for version in range(17, 23)] + ["ziglang"]
SIZE = 64
SHAPE = ((SIZE // 32, 1, 1), (32, 1, 1))


def rounded(x):
    """float32 that has a bfloat's value: to nearest, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def stored(x):
    """The 16 bits of bfloats."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Bfloat:
    """Arrays of bfloat: every operation is done in float32 and rounded."""

    __array_ufunc__ = None  # NumPy leaves mixed operations to this class

    def __init__(self, x):
        self.x = rounded(x)

    def _of(self, other):
        return other.x if isinstance(other, Bfloat) else rounded(other)

    def __add__(self, other):
        return Bfloat(self.x + self._of(other))

    def __sub__(self, other):
        return Bfloat(self.x - self._of(other))

    def __rsub__(self, other):
        return Bfloat(self._of(other) - self.x)

    def __mul__(self, other):
        return Bfloat(self.x * self._of(other))

    def __truediv__(self, other):
        return Bfloat(self.x / self._of(other))

    def __neg__(self):
        return Bfloat(-self.x)

    def __getitem__(self, index):
        return Bfloat(self.x[index])

    __radd__, __rmul__ = __add__, __mul__


@pytest.fixture
def operands():
    random = np.random.default_rng(0)
    x, y = (rounded(random.standard_normal(4 * SIZE)) for _ in "xy")
    y[: SIZE // 4] = x[: SIZE // 4]
    return Bfloat(x), Bfloat(y)


def launched(kernel, inputs, rows, dtype=np.uint16, shape=SHAPE):
    """The output of a kernel, the same in the plain and the checked build."""
    outputs = [np.zeros(rows * SIZE, dtype) for _ in range(2)]
    arrays = [stored(a.x) if isinstance(a, Bfloat) else a for a in inputs]
    kernel.launch([*arrays, outputs[0]], *shape)
    report = kernel.launch([*arrays, outputs[1]], *shape, check=True)
    assert report.findings == () and np.array_equal(*outputs)
    return outputs[0]


def equal_rows(out, expected, width=SIZE):
    rows = values(out).reshape(-1, width)
    assert len(rows) == len(expected)
    for n, (row, right) in enumerate(zip(rows, expected)):
        assert np.array_equal(row, np.ravel(right.x if isinstance(right, Bfloat) else rounded(right))), f"row {n}"


def test_check_accepts_bfloat(library):
    assert [str(d) for d in library("bfloat").check() if d.severity == "error"] == []


def test_check_finds_mistakes(written):
    text = """kernel void f(device bfloat* x, device half* h) {
  x[0] = x[1] * 2.0f;
  h[0] = h[1] * x[1];
  x[1] = (x[0] * x[1] + x[2]) * nothing;
  x[2] += x[1] * x[0] - (x[0] * 2 < 3);
}"""
    found = {(d.line, d.severity) for d in written(text).check()}
    assert found == {(4, "error"), (5, "error"), (6, "error")}
    assert [(d.column) for d in written(text).check() if "nothing" in d.message] == [33]


@since(18, "crashes on ++ of a bfloat")
def test_scalars(library, operands):
    a, b = (array[:SIZE] for array in operands)
    n = np.arange(SIZE, dtype=np.int32) * 7 - 100
    out = launched(library("bfloat").kernel("scalars"), [a, b, n], 21)
    f, one = np.float32, np.float32(1)
    c = a + b
    c = (c * c - 2) / f(3.5)
    high = c + 1 + 1
    equal_rows(out, [
        a + b, a - b, a * b, a / b, -a,
        a * b + a * 3 - b / a,
        a.x * f(1.5) + b.x,
        a * 3 + 1,
        n - a,
        Bfloat(n) * Bfloat(n + 1),
        np.where(a.x < b.x, a.x, b.x),
        np.where(a.x < 0.5, one, b.x),
        np.where((a.x == b.x) | (a.x >= 0), 1, (a.x > b.x) * one + (a.x <= 1)),
        Bfloat(np.trunc((a * 100).x)) + Bfloat(np.trunc(b.x) + np.trunc(a.x)),
        np.zeros(SIZE),
        c, high, high, high - 1 - 1,
        (a.x + (a * b).x) * b.x,
        np.trunc((a + 7).x),
    ])  # fmt: skip


def test_stored(library, operands):
    x = operands[0][:SIZE]
    kernel = library("bfloat").kernel("stored")
    out = launched(kernel, [x], 1, shape=((1, 1, 1), (SIZE, 1, 1)))
    expected = (x * x)[::-1] + Bfloat(0.1)
    equal_rows(out, [expected + Bfloat(-3) * Bfloat(np.float32(1) / 3)])


def test_function_constants(written, operands):
    x = operands[0][:SIZE]
    text = """constant bfloat factor [[function_constant(0)]];
constant bfloat2 pair [[function_constant(1)]];
kernel void f(device const bfloat* x, device bfloat* out, uint i [[thread_position_in_grid]]) {
  out[i] = x[i] * factor - pair.y;
}"""
    kernel = written(text).kernel("f", constants={"factor": 2.51, "pair": (1.0, 0.3)})
    equal_rows(launched(kernel, [x], 1), [x * 2.51 - 0.3])


def test_vectors(library, operands):
    a, b = (Bfloat(array.x.reshape(SIZE, 4)) for array in operands)
    out = launched(library("bfloat").kernel("vectors"), [a, b], 9 * 4)
    c = (a + b).x
    c[:, [0, 2]] = (Bfloat(c[:, [0, 2]]) * b[:, [1, 3]]).x
    c[:, 1] = (Bfloat(c[:, 1]) - a[:, 0]).x
    c[:, 3] = (Bfloat(c[:, 3]) / b[:, 0]).x
    product = a * b
    equal_rows(out, [
        product + a,
        a[:, ::-1] - b[:, :1],
        2 * -b / a,
        c[:, [1, 0, 2, 3]],
        np.stack([a.x[:, 0], np.ones(SIZE), b.x[:, 2] / 2, b.x[:, 3] / 2], 1),
        a.x * np.float32(1.25) + b.x,
        np.where(a.x < b.x, b.x, a.x),
        Bfloat(np.trunc((a * 10).x)) + Bfloat(a.x == a.x[:, :1]),
        product + product[:, 1:2],
    ], 4 * SIZE)  # fmt: skip


@pytest.mark.parametrize("kind", ["float", "half", "bfloat"])
def test_templates(library, operands, kind):
    x, y = (array[:SIZE] for array in operands)
    dtype = {"float": np.float32, "half": np.float16, "bfloat": np.uint16}[kind]
    out = launched(library("bfloat").kernel(f"generic_{kind}"), [x, y], 1, dtype)
    a, b = (x, y) if kind == "bfloat" else (x.x.astype(dtype), y.x.astype(dtype))
    z = a * a + b
    z = z + 3 * b if kind == "bfloat" else z + dtype(3) * b
    v, w = a * z - b, b * z - a
    if kind == "bfloat":
        equal_rows(out, [np.where(v.x > w.x, v.x, (w / 3).x)])
    else:  # a product and a sum may be one operation in float and half
        right = np.where(v > w, v, w / dtype(3)).astype(np.float64)
        assert np.allclose(out, right, rtol=0, atol=30 * np.finfo(dtype).eps * np.abs(right).max())


def test_functions(library, operands):
    a, b = (array[:SIZE] for array in operands)
    out = launched(library("bfloat").kernel("functions"), [a, b], 7)
    lanes = np.arange(SIZE) ^ 5
    product = (a * b).x.reshape(-1, 32)
    sums = np.repeat([np.float32(sum(row.astype(np.float64))) for row in product], 32)
    fused = np.float32(a.x.astype(np.float64) * b.x + a.x)
    rows = values(out).reshape(-1, SIZE)
    assert np.allclose(rows[2], sums, rtol=1e-2)  # in whatever order
    equal_rows(np.delete(out.reshape(-1, SIZE), 2, 0), [
        np.sqrt(np.abs(a.x)) + np.maximum(a.x, b.x),
        np.minimum(np.maximum(a.x, b.x), (b + 1).x),
        b[lanes] * a,
        fused - np.floor(b.x),
        np.ones(SIZE),
        Bfloat(4 * a.x) + Bfloat(2 * b.x),
    ])  # fmt: skip


def test_matrix_product(library, operands):
    a, b = (Bfloat(array.x[:SIZE].reshape(8, 8)) for array in operands)
    kernel = library("bfloat").kernel("product")
    out = launched(kernel, [a, b], 1, shape=((1, 1, 1), (32, 1, 1)))
    total = np.full((8, 8), 0.5, np.float32)
    for k in range(8):  # fused multiply-adds
        total = np.float32(a.x[:, k, None].astype(np.float64) * b.x[k] + total)
    expected = (Bfloat(total) * 3).x
    expected[:, ::2] = (Bfloat(expected[:, ::2]) + Bfloat(expected[:, 1::2])).x
    equal_rows(out, [expected])


def test_counts(library, operands):
    a, b = (stored(array.x[:SIZE]) for array in operands)
    kernel = library("bfloat").kernel("generic_bfloat")
    profile = kernel.profile([a, b, np.zeros(SIZE, np.uint16)], *SHAPE)
    assert profile.classes == {"simple": 10, "divide": 2, "wide_add": 6}  # one operation each, as for any type


@pytest.mark.nightly
@pytest.mark.parametrize("version", VERSIONS)
def test_every_clang(version):
    """The tests above, with the other clangs."""
    if not (importlib.util.find_spec(version) if version == "ziglang" else shutil.which(f"clang-{version}")):
        pytest.skip(f"{'the package ziglang' if version == 'ziglang' else f'clang-{version}'} is not installed")
    if version == str(find_clang().major):
        pytest.skip("the tests above have run with it")
    environment = {**os.environ, "PYTHONPATH": str(SIMULATOR), "METAL_SIMULATOR_CLANG": version}
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not every_clang", str(HERE / "test_bfloat.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
