"""Integer, common, relational and geometric functions, and those of parts of numbers, beside Python and NumPy."""

import re

import numpy as np
import pytest

BITS = {"char": 8, "uchar": 8, "short": 16, "ushort": 16, "int": 32, "uint": 32, "long": 64, "ulong": 64}
FLOATS = {"half": np.float16, "float": np.float32}


def evaluate(written, kind, calls, inputs, result=None, dtype=None):
    """Calls of a, b, c, vectors of `kind` with as many components as the inputs have columns: [call, row, component].

    In calls T is the scalar, V the vector type, R the vector of results.
    """
    count, n = inputs[0].shape
    names = {"T": kind, "V": f"{kind}{n}" if n > 1 else kind, "R": f"{result or kind}{n}" if n > 1 else result or kind}
    pick = (lambda c: f"[{c}]") if n > 1 else (lambda c: "")
    load = "".join(
        f"  V {name};\n" + "".join(f"  {name}{pick(c)} = {name}s[i * {n} + {c}];\n" for c in range(n)) for name in "abc"
    )
    body = "".join(
        f"  {{ R r; {call if ';' in call else f'r = {call};'}\n"
        + "".join(f"    out[{(k * count) * n} + i * {n} + {c}] = r{pick(c)};\n" for c in range(n)) + "  }\n"
        for k, call in enumerate(calls)
    )  # fmt: skip
    text = re.sub(r"\b[TVR]\b", lambda match: names[match.group()], load + body)
    out = np.zeros((len(calls), count, n), dtype or inputs[0].dtype)
    parameters = ", ".join(f"device const {kind}* {name}s" for name in "abc")
    library = written(
        f"kernel void f({parameters}, device {result or kind}* out, uint i [[thread_position_in_grid]]) {{\n{text}}}"
    )
    report = library.kernel("f", build="check").launch([*inputs, out], (1, 1, 1), (count, 1, 1), check=True)
    assert [str(finding) for finding in report.findings] == []
    return out


INTEGERS = {  # of n bits, s: signed
    "clz(a)": lambda a, b, c, n, s: n - (a % 2**n).bit_length(),
    "ctz(a)": lambda a, b, c, n, s: n if a == 0 else (a & -a).bit_length() - 1,
    "popcount(a)": lambda a, b, c, n, s: bin(a % 2**n).count("1"),
    "reverse_bits(a)": lambda a, b, c, n, s: int(f"{a % 2**n:0{n}b}"[::-1], 2),
    "rotate(a, b)": lambda a, b, c, n, s: (a % 2**n) << b % n | (a % 2**n) >> (n - b % n),
    "V(absdiff(a, b))": lambda a, b, c, n, s: abs(a - b),
    "abs(a)": lambda a, b, c, n, s: abs(a),
    "mulhi(a, b)": lambda a, b, c, n, s: a * b >> n,
    "madhi(a, b, c)": lambda a, b, c, n, s: (a * b >> n) + c,
    "hadd(a, b)": lambda a, b, c, n, s: (a + b) >> 1,
    "rhadd(a, b)": lambda a, b, c, n, s: (a + b + 1) >> 1,
    "addsat(a, b)": lambda a, b, c, n, s: fit(a + b, n, s),
    "subsat(a, b)": lambda a, b, c, n, s: fit(a - b, n, s),
    "madsat(a, b, c)": lambda a, b, c, n, s: fit(a * b + c, n, s),
    "min(a, b)": lambda a, b, c, n, s: min(a, b),
    "max(a, b)": lambda a, b, c, n, s: max(a, b),
    "min3(a, b, c)": lambda a, b, c, n, s: min(a, b, c),
    "max3(a, b, c)": lambda a, b, c, n, s: max(a, b, c),
    "median3(a, b, c)": lambda a, b, c, n, s: sorted((a, b, c))[1],
    "clamp(a, min(b, c), max(b, c))": lambda a, b, c, n, s: sorted((a, b, c))[1],
    "clamp(a, T(3), T(9))": lambda a, b, c, n, s: min(max(a, 3), 9),
    "min(a, T(7))": lambda a, b, c, n, s: min(a, 7),
    "max(T(7), a)": lambda a, b, c, n, s: max(a, 7),
}


def fit(value, n, s):
    low, high = (-(1 << (n - 1)), (1 << (n - 1)) - 1) if s else (0, (1 << n) - 1)
    return min(max(value, low), high)


def fields(bits):
    """extract_bits and insert_bits of nothing, of everything, of both ends."""
    table = {}
    for at, size in ((0, 0), (3, 0), (0, bits), (0, 1), (bits - 1, 1), (2, 5), (bits - 5, 5), (1, bits - 1)):
        mask = (1 << size) - 1

        def extract(a, b, c, n, s, at=at, size=size, mask=mask):
            field = a >> at & mask
            return field - (mask + 1) if s and size and field >> (size - 1) else field

        table[f"extract_bits(a, {at}, {size})"] = extract
        table[f"insert_bits(a, b, {at}, {size})"] = lambda a, b, c, n, s, at=at, mask=mask: (
            a & ~(mask << at) | (b & mask) << at
        )
    return table


def integers(kind, rows, n):
    """Random numbers of all sizes, and the extreme ones against each other."""
    dtype = np.dtype(f"{'u' if kind[0] == 'u' else 'i'}{BITS[kind] // 8}")
    limits, generator = np.iinfo(dtype), np.random.default_rng(n)
    values = generator.integers(limits.min, limits.max, (3, rows, n), dtype, endpoint=True)
    values >>= generator.integers(0, BITS[kind], values.shape).astype(dtype)
    special = np.array([limits.min, limits.max, 0, 1], dtype)
    values[:, :16] = np.stack([special.repeat(4), np.tile(special, 4), special[[1, 0, 3, 2]].repeat(4)])[:, :, None]
    return list(values)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind, n", [*((kind, 1) for kind in BITS), ("short", 3), ("uint", 2), ("ulong", 4)])
def test_integers(written, kind, n):
    bits, s = BITS[kind], kind[0] != "u"
    table = {**INTEGERS, **fields(bits)}
    if bits == 32:
        table["mul24(a >> 9, b >> 9)"] = lambda a, b, c, n, s: (a >> 9) * (b >> 9)  # which takes 24 bits
        table["mad24(a >> 9, b >> 9, c)"] = lambda a, b, c, n, s: (a >> 9) * (b >> 9) + c
    inputs = integers(kind, 32, n)
    out = evaluate(written, kind, list(table), inputs)
    for row, column in np.ndindex(*inputs[0].shape):
        a, b, c = (int(values[row, column]) for values in inputs)
        for (call, expected), got in zip(table.items(), out):
            wanted = expected(a, b, c, bits, s) % 2**bits
            assert int(got[row, column]) % 2**bits == wanted, (call, a, b, c)


RELATIONS = {
    "isnan(a)": lambda a, b: np.isnan(a),
    "isinf(a)": lambda a, b: np.isinf(a),
    "isfinite(a)": lambda a, b: np.isfinite(a),
    "signbit(a)": lambda a, b: np.signbit(a),
    "isordered(a, b)": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "isunordered(a, b)": lambda a, b: np.isnan(a) | np.isnan(b),
}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7, -1e-7, 1.5, -2.5, 6.2e-5, 2e-38, 65504]


@pytest.mark.parametrize("kind", ["half", "float", "bfloat"])
@pytest.mark.parametrize("n", [1, 4])
def test_relations(written, kind, n):
    stored = np.float32 if kind == "bfloat" else FLOATS[kind]
    a, b = (np.resize(np.array(SPECIAL[::step], np.float32), (32, n)) for step in (1, -1))
    tiny = {"half": 2.0**-14, "float": 2.0**-126, "bfloat": 2.0**-126}[kind]
    if kind == "bfloat":  # cut to 16 bits
        a, b = ((x.view(np.uint32) & 0xFFFF0000).view(np.float32) for x in (a, b))
        raw = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    else:
        a, b = raw = [x.astype(stored) for x in (a, b)]
    table = {**RELATIONS, "isnormal(a)": lambda a, b: np.isfinite(a) & (np.abs(a) >= tiny)}
    out = evaluate(written, kind, list(table), [*raw, raw[0]], "bool", np.bool_)
    for (call, expected), got in zip(table.items(), out):
        assert np.array_equal(got, expected(a, b)), call


def near(got, expected, kind):
    return np.allclose(
        got, expected, rtol=4e-3 if kind == "half" else 2e-6, atol=4e-3 if kind == "half" else 2e-6, equal_nan=True
    )


COMMON = {
    "mix(a, b, c)": lambda a, b, c: a + (b - a) * c,
    "mix(a, b, T(0.25))": lambda a, b, c: a + (b - a) / 4,
    "clamp(a, T(-1), T(1))": lambda a, b, c: np.clip(a, -1, 1),
    "saturate(a)": lambda a, b, c: np.clip(a, 0, 1),
    "sign(a)": lambda a, b, c: np.sign(a),
    "step(a, b)": lambda a, b, c: (b >= a) * 1.0,
    "step(T(0.5), b)": lambda a, b, c: (b >= 0.5) * 1.0,
    "smoothstep(V(-1), V(2), a)": lambda a, b, c: hermite((a + 1) / 3),
    "smoothstep(T(-1), T(2), a)": lambda a, b, c: hermite((a + 1) / 3),
    "fract(a)": lambda a, b, c: a - np.floor(a),
    "fmin3(a, b, c)": lambda a, b, c: np.minimum(a, np.minimum(b, c)),
    "fmax3(a, b, c)": lambda a, b, c: np.maximum(a, np.maximum(b, c)),
    "fmedian3(a, b, c)": lambda a, b, c: np.median([a, b, c], axis=0),
    "V w; r = sincos(a, w); r += 10 * w;": lambda a, b, c: np.sin(a) + 10 * np.cos(a),
    "V w; r = modf(a, w); r += 10 * w;": lambda a, b, c: np.modf(a)[0] + 10 * np.modf(a)[1],
}
GEOMETRIC = {  # of vectors of n components, each a row
    "R(dot(a, b))": lambda a, b, c: dot(a, b),
    "R(length(a))": lambda a, b, c: np.sqrt(dot(a, a)),
    "R(length_squared(a))": lambda a, b, c: dot(a, a),
    "R(distance(a, b))": lambda a, b, c: np.sqrt(dot(a - b, a - b)),
    "R(distance_squared(a, b))": lambda a, b, c: dot(a - b, a - b),
    "normalize(a)": lambda a, b, c: unit(a),
    "reflect(a, b)": lambda a, b, c: a - 2 * dot(unit(b), a) * unit(b),
    "refract(normalize(a), normalize(b), T(0.75))": lambda a, b, c: refracted(unit(a), unit(b), 0.75),
    "refract(normalize(a), normalize(b), T(1.5))": lambda a, b, c: refracted(unit(a), unit(b), 1.5),
    "faceforward(a, b, c)": lambda a, b, c: np.where(dot(c, b) < 0, a, -a),
}


def hermite(t):
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def dot(a, b):
    return (a * b).sum(1, keepdims=True)


def unit(a):
    return a / np.sqrt(dot(a, a))


def refracted(i, n, eta):
    k = 1 - eta**2 * (1 - dot(n, i) ** 2)
    return np.where(k < 0, 0, eta * i - (eta * dot(n, i) + np.sqrt(np.maximum(k, 0))) * n)


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_common_and_geometric(written, kind, n):
    table = {call: f for call, f in COMMON.items() if n > 1 or "V(" not in call}
    table.update(GEOMETRIC if n > 1 else {})
    if n == 3:
        table["cross(a, b)"] = lambda a, b, c: np.cross(a, b)
    if kind == "float":
        named = [call for call in table if re.match(r"(clamp|saturate|normalize|R\((length|distance)\()", call)]
        for space in ("fast", "precise"):
            table.update({re.sub(r"\b([a-z]+\()", rf"{space}::\1", call, count=1): table[call] for call in named})
    inputs = [np.random.default_rng(k).integers(-12, 13, (32, n)) / 8 + 1 / 32 for k in range(3)]
    inputs = [x.astype(FLOATS[kind]) for x in inputs]
    wide = [x.astype(np.float64) for x in inputs]
    for (call, expected), got in zip(table.items(), evaluate(written, kind, list(table), inputs)):
        wanted = np.broadcast_to(expected(*wide), got.shape)
        sure = np.ones(got.shape, bool)
        if "refract" in call:  # beside the angle where all is reflected
            eta = float(call.split("T(")[1].rstrip(")"))
            sure = np.abs(1 - eta**2 * (1 - dot(unit(wide[1]), unit(wide[0])) ** 2)) > 0.02
        assert near(np.where(sure, got, 0), np.where(sure, wanted, 0), kind), call


PARTS = {  # exact, also of infinities, zeros and subnormal numbers
    "sign(a)": lambda a, k: np.where(np.isnan(a), 0, np.where(a == 0, a, np.sign(a))),
    "fract(a)": lambda a, k: np.where(
        np.isinf(a),
        np.nan,
        np.minimum((a - np.floor(a)).astype(a.dtype), np.nextafter(a.dtype.type(1), a.dtype.type(0))),
    ),
    "saturate(a)": lambda a, k: np.fmin(np.fmax(a, 0), 1),
    "clamp(a, T(-1), T(1))": lambda a, k: np.fmin(np.fmax(a, -1), 1),
    "fmin(a, T(1))": lambda a, k: np.fmin(a, 1),
    "fmax(T(-1), a)": lambda a, k: np.fmax(a, -1),
    "T w; r = modf(a, w);": lambda a, k: np.modf(a)[0],
    "T w; modf(a, w); r = w;": lambda a, k: np.modf(a)[1],
    "ldexp(a, 3)": lambda a, k: np.ldexp(a, 3),
    "ldexp(a, -5)": lambda a, k: np.ldexp(a, -5),
    "nextafter(a, T(2))": lambda a, k: np.nextafter(a, k(2)),
    "nextafter(a, T(-INFINITY))": lambda a, k: np.nextafter(a, k(-np.inf)),
    "nextafter(a, a)": lambda a, k: a,
    "int e; r = frexp(a, e);": lambda a, k: np.frexp(a)[0],
    "int e; T m = frexp(a, e); r = isfinite(a) ? T(e) : T(0);": lambda a, k: np.where(
        np.isfinite(a), np.frexp(a)[1], 0
    ),
    "a != T(0) && isfinite(a) ? T(ilogb(a)) : T(0)": lambda a, k: np.where(
        np.isfinite(a) & (a != 0), np.frexp(a)[1] - 1, 0
    ),
    "copysign(a, T(-0.0))": lambda a, k: np.copysign(a, k(-0.0)),
    "rint(a)": lambda a, k: np.rint(a),
    "round(a)": lambda a, k: np.copysign(np.floor(np.abs(a).astype(np.float64) + 0.5), a),
    "trunc(a)": lambda a, k: np.trunc(a),
    "median3(a, T(NAN), T(5))": lambda a, k: None,
}


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_parts_of_numbers(written, kind):
    dtype = FLOATS[kind]
    a = np.array([*SPECIAL, 0.5, 2.5, 3.5, -0.5, 0.49999997, 1, 2, -2, -1e-3, 1 / 3, 1000.7, 4096], dtype)[:, None]
    for (call, expected), got in zip(PARTS.items(), evaluate(written, kind, list(PARTS), [a, a, a])):
        wanted = expected(a, dtype)
        if wanted is None:  # one of the numbers; the other one if it is NaN
            assert all(g == 5 if np.isnan(x) else g in (x, 5) for x, g in zip(a[:, 0], got[:, 0])), call
            continue
        wanted = np.asarray(wanted).astype(dtype)
        equal = (got == wanted) & ((np.signbit(got) == np.signbit(wanted)) | ("saturate" in call)) | np.isnan(
            got
        ) & np.isnan(wanted)
        assert equal.all(), (call, a[~equal], got[~equal], wanted[~equal])
