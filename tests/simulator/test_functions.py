"""The library's functions, scalar and vector, beside NumPy and Python's integers."""

import numpy as np
import pytest

COUNT = 96
SIZES = {"char": 8, "uchar": 8, "short": 16, "ushort": 16, "int": 32, "uint": 32, "long": 64, "ulong": 64}
FLOATS = {"float": np.float32, "half": np.float16}


def integer(kind):
    return np.dtype(f"{'u' if kind[0] == 'u' else 'i'}{SIZES[kind] // 8}")


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
    out = np.zeros((len(expressions), COUNT), FLOATS.get(result) or integer(result))
    report = library.kernel("f").launch([*inputs, out], (3, 1, 1), (32, 1, 1), check=True)
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


@pytest.mark.parametrize("kind, width", [("float", 1), ("float", 3), ("half", 1), ("half", 4)])
def test_math(written, kind, width):
    inputs = [numbers(kind, 0), numbers(kind, 1, 0.1, 3.0), numbers(kind, 2, -0.9, 0.9)]
    x, y, z = (a.astype(np.float64) for a in inputs)
    cases = {f"{f}(x)": g(x) for f, g in ONE["all"].items()}
    cases.update({f"{f}({'1 + ' if f == 'acosh' else ''}y)": g(y) for f, g in ONE["positive"].items()})
    cases.update({f"{f}(z)": g(z) for f, g in ONE["small"].items()})
    cases.update({text: g(x, y, z) for text, g in MORE.items()})
    if kind == "float":
        plain = [text for text in cases if text.count("(") == 1]
        cases.update({f"{space}::{text}": cases[text] for space in ("fast", "precise") for text in plain})
    out = evaluate(written, kind, list(cases), inputs, width=width).astype(np.float64)
    step = 4e-6 if kind == "float" else 3e-3
    for text, got, expected in zip(cases, out, cases.values()):
        worst = np.max(np.abs(got - expected) / (1 + np.abs(expected)))
        assert worst < step, (text, worst)


def wrapped(value, kind):
    bits, signed = SIZES[kind], kind[0] != "u"
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def saturated(value, kind):
    bits, signed = SIZES[kind], kind[0] != "u"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return min(max(value, low), high)


INTEGERS = {
    "popcount(x)": lambda x, y, z, n: bin(x % (1 << n)).count("1"),
    "clz(x)": lambda x, y, z, n: n - (x % (1 << n)).bit_length(),
    "ctz(x)": lambda x, y, z, n: n if x == 0 else ((x & -x).bit_length() - 1),
    "reverse_bits(x)": lambda x, y, z, n: int(f"{x % (1 << n):0{n}b}"[::-1], 2),
    "rotate(x, y)": lambda x, y, z, n: (x % (1 << n)) << (y % n) | (x % (1 << n)) >> (n - y % n),
    "mulhi(x, y)": lambda x, y, z, n: x * y >> n,
    "madhi(x, y, z)": lambda x, y, z, n: (x * y >> n) + z,
    "hadd(x, y)": lambda x, y, z, n: (x + y) >> 1,
    "rhadd(x, y)": lambda x, y, z, n: (x + y + 1) >> 1,
    "absdiff(x, y)": lambda x, y, z, n: abs(x - y),
    "min(x, y)": lambda x, y, z, n: min(x, y),
    "max3(x, y, z)": lambda x, y, z, n: max(x, y, z),
    "median3(x, y, z)": lambda x, y, z, n: sorted((x, y, z))[1],
    "clamp(x, min(y, z), max(y, z))": lambda x, y, z, n: min(max(x, min(y, z)), max(y, z)),
    "extract_bits(x, 2u, 5u)": lambda x, y, z, n: None,  # in the test: it depends on the sign
    "insert_bits(x, y, 2u, 5u)": lambda x, y, z, n: x & ~(31 << 2) | (y & 31) << 2,
    "abs(x)": lambda x, y, z, n: abs(x),
}
SATURATED = {
    "addsat(x, y)": lambda x, y, z: x + y,
    "subsat(x, y)": lambda x, y, z: x - y,
    "madsat(x, y, z)": lambda x, y, z: x * y + z,
}


@pytest.mark.parametrize("kind, width", [*((kind, 1) for kind in SIZES), ("int", 4), ("uchar", 2), ("ulong", 3)])
def test_integers(written, kind, width):
    bits = SIZES[kind]
    generator = np.random.default_rng(bits)
    dtype = integer(kind)
    limits = np.iinfo(dtype)
    inputs = [generator.integers(limits.min, limits.max, COUNT, dtype, endpoint=True) for _ in range(3)]
    for k, special in enumerate((0, limits.min, limits.max, 1)):
        inputs[0][k] = special
        inputs[1][-1 - k] = special
    texts = [*INTEGERS, *SATURATED]
    out = evaluate(written, kind, texts, inputs, width=width)
    for text, row in zip(texts, out):
        for x, y, z, got in zip(*(a.tolist() for a in inputs), row.tolist()):
            if text.startswith("extract"):
                field = x >> 2 & 31
                expected = field - 32 if kind[0] != "u" and field > 15 else field
            elif text in SATURATED:
                expected = saturated(SATURATED[text](x, y, z), kind)
            else:
                expected = wrapped(INTEGERS[text](x, y, z, bits), kind)
            assert got == expected, (text, x, y, z, got, expected)


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


def test_packing(written):
    x, y, z = numbers("float", 3, -1.2, 1.2), numbers("float", 4, -1.2, 1.2), numbers("float", 5, -1.2, 1.2)

    def field(v, bits, signed):
        most = (1 << (bits - signed)) - 1
        return np.rint(np.clip(v.astype(np.float64), -1.0 if signed else 0.0, 1) * most).astype(np.int64) & (
            (1 << bits) - 1
        )

    def joined(values, bits, signed):
        return sum(field(v, bits, signed) << (bits * k) for k, v in enumerate(values))

    cases = {
        "pack_float_to_unorm4x8(float4(x, y, z, x))": joined((x, y, z, x), 8, False),
        "pack_float_to_snorm4x8(float4(x, y, z, x))": joined((x, y, z, x), 8, True),
        "pack_float_to_unorm2x16(float2(x, y))": joined((x, y), 16, False),
        "pack_float_to_snorm2x16(float2(x, y))": joined((x, y), 16, True),
        "as_type<uint>(x)": x.view(np.uint32),
        "as_type<uint>(half2(x, y))": np.stack([x, y], 1).astype(np.float16).view(np.uint32)[:, 0],
    }  # fmt: skip
    out = evaluate(written, "float", list(cases), [x, y, z], result="uint")
    for text, row, expected in zip(cases, out, cases.values()):
        assert np.array_equal(row, expected), text
    there = {}
    for kind, n, bits in (("unorm", 4, 8), ("unorm", 2, 16), ("snorm", 4, 8), ("snorm", 2, 16)):
        packed = f"pack_float_to_{kind}{n}x{bits}(float{n}({', '.join('xyzx'[:n])}))"
        there[f"unpack_{kind}{n}x{bits}_to_float({packed}).y"] = np.clip(y, -1 if kind == "snorm" else 0, 1)
    back = evaluate(written, "float", list(there), [x, y, z])
    for text, row, expected in zip(there, back, there.values()):
        assert np.abs(row - expected).max() < (5e-3 if "x8" in text else 2e-5), text


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
