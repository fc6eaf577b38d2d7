"""A class may say of each address space that assignment is the default one: it copies from any to any."""

import numpy as np
import pytest

SPACES = ["thread", "device", "threadgroup"]
CODE = """
template <typename T, int N>
struct Matrix {
  vec<T, N> columns[2];
  Matrix() thread = default;
  Matrix() device = default;
  Matrix() threadgroup = default;
  Matrix(const thread Matrix& m) thread = default;
  Matrix(const device Matrix& m) thread = default;
%s
};
kernel void k(device Matrix<float, 3>* x, device const Matrix<float, 3>* y, constant Matrix<float, 3>& z) {
  threadgroup Matrix<float, 3> shared;
  Matrix<float, 3> own = x[0];
  own.columns[0].x = 5;
  shared = own;
  x[1] = shared;
  own = y[0];
  x[2] = own;
  shared = y[1];
  x[3] = y[2];
  own = shared;
  x[4] = own;
  x[5] = z;
  shared = z;
  x[6] = shared;
}
"""


def assignments(parameter: str) -> str:
    return "\n".join(
        f"  {to} Matrix& operator=(const {of} Matrix&{parameter}) {to} = default;"
        for to in SPACES
        for of in [*SPACES, "constant"]
    )


@pytest.mark.parametrize("parameter", ["", " m"])
def test_from_any_to_any(written, parameter):
    x, y, z = (np.arange(n * 8, dtype=np.float32) + 100 * i for i, n in enumerate((7, 3, 1)))
    expected = x.reshape(7, 2, 4).copy()
    expected[1] = expected[0]
    expected[1, 0, 0] = 5
    expected[[2, 4, 3]] = y.reshape(3, 2, 4)
    expected[5:] = z.reshape(2, 4)
    report = written(CODE % assignments(parameter)).kernel("k").launch([x, y, z], (1, 1, 1), (1, 1, 1), check=True)
    assert not report.findings
    np.testing.assert_array_equal(x.reshape(7, 2, 4)[..., :3], expected[..., :3])
