"""The library's mathematical functions, scalar and vector, beside NumPy; vectors and matrices of float."""

import numpy as np
import pytest

COUNT = 96
FLOATS = {"float": np.float32, "half": np.float16}


def evaluate(written, kind, expressions, inputs, result=None, width=1):
    """Each expression of x, y and z at every element, by one kernel: an array [expression, element].

    width: number of components of x, y and z; the last one of the result counts.
    """
    result = result or kind
    wide = f"{kind}{width}" if width > 1 else kind
    pick = f"[{width - 1}]" if width > 1 else ""
    body = "".join(f"  out[{k * COUNT} + i] = {result}(({text}){pick});\n" for k, text in enumerate(expressions))
    library = written(
        f"kernel void f(device const {kind}* a, device const {kind}* b, device const {kind}* c,\n"
        f"    device {result}* out, uint i [[thread_position_in_grid]]) {{\n"
        f"  {wide} x = {wide}(a[i]), y = {wide}(b[i]), z = {wide}(c[i]);\n{body}}}"
    )
    out = np.zeros((len(expressions), COUNT), FLOATS.get(result, np.int32))
    report = library.kernel("f", build="check").launch([*inputs, out], (3, 1, 1), (32, 1, 1), check=True)
    assert [str(finding) for finding in report.findings] == []
    return out


ONE = {  # on all numbers, on positive ones or on those of at most 1
    "all": {
        "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: 10.0**x,
        "asinh": np.arcsinh, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tan": np.tan, "floor": np.floor,
        "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint, "round": lambda x: np.trunc(x + np.copysign(0.5, x)),
        "fabs": np.abs, "abs": np.abs, "sign": np.sign, "fract": lambda x: x - np.floor(x),
        "saturate": lambda x: np.clip(x, 0, 1), "sinpi": lambda x: np.sin(np.pi * x),
        "cospi": lambda x: np.cos(np.pi * x),
    },
    "positive": {
        "log": np.log, "log2": np.log2, "log10": np.log10, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
        "acosh": lambda x: np.arccosh(1 + x),
    },
    "small": {"asin": np.arcsin, "acos": np.arccos, "atanh": np.arctanh},
}  # fmt: skip
MORE = {
    "pow(abs(x), y)": lambda x, y, z: np.abs(x) ** y,
    "powr(abs(x), y)": lambda x, y, z: np.abs(x) ** y,
    "atan2(x, y)": lambda x, y, z: np.arctan2(x, y),
    "fmod(x, y)": lambda x, y, z: np.fmod(x, y),
    "fmin(x, y)": lambda x, y, z: np.minimum(x, y),
    "max(x, y)": lambda x, y, z: np.maximum(x, y),
    "fdim(x, y)": lambda x, y, z: np.maximum(x - y, 0),
    "copysign(x, y)": lambda x, y, z: np.copysign(x, y),
    "step(x, y)": lambda x, y, z: np.where(y < x, 0, 1),
    "divide(x, y)": lambda x, y, z: x / y,
    "fma(x, y, z)": lambda x, y, z: x * y + z,
    "mix(x, y, z)": lambda x, y, z: x + (y - x) * z,
    "clamp(x, min(y, z), max(y, z))": lambda x, y, z: np.clip(x, np.minimum(y, z), np.maximum(y, z)),
    "min3(x, y, z)": lambda x, y, z: np.minimum(x, np.minimum(y, z)),
    "median3(x, y, z)": lambda x, y, z: np.median([x, y, z], axis=0),
}


def numbers(kind, seed, low=-3.0, high=3.0):
    return np.random.default_rng(seed).uniform(low, high, COUNT).astype(FLOATS[kind])


PLAIN_ONLY = {"sign", "step", "mix", "smoothstep"}  # not in namespaces fast and precise


@pytest.mark.parametrize("kind, width", [("float", 1), ("float", 3), ("half", 1), ("half", 4)])
def test_math(written, kind, width):
    inputs = [numbers(kind, 0), numbers(kind, 1, 0.1, 3.0), numbers(kind, 2, -0.9, 0.9)]
    x, y, z = (a.astype(np.float64) for a in inputs)
    cases = {f"{f}(x)": g(x) for f, g in ONE["all"].items()}
    cases.update({f"{f}({'1 + ' if f == 'acosh' else ''}y)": g(y) for f, g in ONE["positive"].items()})
    cases.update({f"{f}(z)": g(z) for f, g in ONE["small"].items()})
    cases.update({text: g(x, y, z) for text, g in MORE.items()})
    if kind == "float":
        plain = [text for text in cases if text.count("(") == 1 and text.partition("(")[0] not in PLAIN_ONLY]
        cases.update({f"{space}::{text}": cases[text] for space in ("fast", "precise") for text in plain})
    out = evaluate(written, kind, list(cases), inputs, width=width).astype(np.float64)
    step = 4e-6 if kind == "float" else 3e-3
    for text, got, expected in zip(cases, out, cases.values()):
        worst = np.max(np.abs(got - expected) / (1 + np.abs(expected)))
        assert worst < step, (text, worst)


def test_relational(written):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1.5, -2.5], np.float32)
    x, y = np.resize(special, COUNT), np.resize(special[::-1], COUNT)
    z = np.resize(np.float32([1, 0]), COUNT)
    cases = {
        "isnan(x)": np.isnan(x), "isinf(x)": np.isinf(x), "isfinite(x)": np.isfinite(x), "signbit(x)": np.signbit(x),
        "isnormal(x)": np.isfinite(x) & (np.abs(x) >= np.finfo(np.float32).tiny),
        "isordered(x, y)": ~(np.isnan(x) | np.isnan(y)), "isunordered(x, y)": np.isnan(x) | np.isnan(y),
        "select(x, y, z > 0) == (z > 0 ? y : x)": ~np.isnan(np.where(z > 0, y, x)),
        "any(float2(x, y) > 0)": (x > 0) | (y > 0), "all(float2(x, y) < 2)": (x < 2) & (y < 2),
        "any(isnan(float3(x, y, z)))": np.isnan(x) | np.isnan(y),
        "all(!isinf(float2(x, y)))": ~(np.isinf(x) | np.isinf(y)),
    }  # fmt: skip
    out = evaluate(written, "float", list(cases), [x, y, z], result="int")
    for text, row, expected in zip(cases, out, cases.values()):
        assert np.array_equal(row != 0, expected), text


def test_vectors_and_matrices(written):
    x, y, z = numbers("float", 6), numbers("float", 7), numbers("float", 8)
    cases = {
        "float4(x, y, z, 1).wzyx.x": np.ones(COUNT), "float4(x, float2(y, z), 1).zx.x": z, "float3(x, y, z).zzy.y": z,
        "float4(float2(x, y), z, 0).rgba.g": y, "dot(float3(x, y, z), float3(z, y, x))": 2 * x * z + y * y,
        "cross(float3(x, y, z), float3(1, 2, 3)).y": z - 3 * x, "length(float2(x, y))": np.hypot(x, y),
        "float3(packed_float3(x, y, z)).z": z, "packed_float4(x, y, z, 1)[1]": y, "float2(half2(1, 2)).y + x": x + 2,
        "(float2x3(float3(x, y, z), float3(1, 2, 3)) * float2(x, y)).y": y * x + 2 * y,
        "(float3(x, y, z) * float2x3(float3(x, y, z), float3(1, 2, 3))).y": x + 2 * y + 3 * z,
        "(float2x2(x, y, z, 1) * float2x2(1, 2, 3, 4))[1][0]": 3 * x + 4 * z,
        "determinant(float2x2(x, y, z, 1))": x - y * z,
        "transpose(float3x2(x, y, z, 1, 2, 3))[1][1]": np.ones(COUNT), "float4x4(x)[2][2] + float4x4(x)[1][2]": x,
        "(x < y ? float2(x, 1) : float2(y, 2)).y": np.where(x < y, 1, 2),
        "float(bool2(x < y, true).x) + y": (x < y) + y,
    }  # fmt: skip
    out = evaluate(written, "float", list(cases), [x, y, z])
    for text, row, expected in zip(cases, out, cases.values()):
        assert np.abs(row - expected).max() < 1e-5, text
