"""Conversions, as_type, packing, packed vectors, swizzles; common, geometric, relational functions beside NumPy."""

import itertools
import re

import numpy as np
import pytest
import torch

COUNT = 64
SCALARS = {"bool": "?", "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
           "long": "i8", "ulong": "u8", "half": "f2", "float": "f4", "bfloat": "u2"}  # fmt: skip
FLOATING = ("half", "float", "bfloat")


def bfloat(values):
    """Bits of the nearest bfloat: of float64 or integers, rounded once."""
    return torch.from_numpy(np.asarray(values, np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def wide(bits):
    """The numbers that bfloats are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def run(written, parameters, lines, buffers, head=""):
    """A kernel with i for each of COUNT threads, and no findings."""
    text = f"{head}kernel void f({parameters}, uint i [[thread_position_in_grid]]) {{\n{lines}}}"
    report = written(text).kernel("f", build="check").launch(buffers, (2, 1, 1), (COUNT // 2, 1, 1), check=True)
    assert [str(finding) for finding in report.findings] == []


def inputs(kind):
    generator, dtype = np.random.default_rng(3), np.dtype(SCALARS[kind])
    if kind == "bool":
        return generator.integers(0, 2, COUNT).astype(bool)
    if kind in FLOATING:
        exact = [0.0, -0.0, 0.4, -0.6, 1.5, 2.5, -1.5, 127.99, -128.9, 65504, 1e-5, -3e-8, 1e30, -1e30, np.inf, np.nan]
        values = np.concatenate(
            [exact, generator.normal(size=COUNT - 16) * 2.0 ** generator.integers(-20, 18, COUNT - 16)]
        )
        return bfloat(values) if kind == "bfloat" else values.astype(dtype)
    limits = np.iinfo(dtype)
    values = generator.integers(limits.min, limits.max, COUNT, dtype, endpoint=True) >> generator.integers(
        0, 8 * dtype.itemsize, COUNT, dtype
    )
    return np.concatenate([np.array([0, 1, limits.max, limits.min], dtype), values[4:]])


def converted(values, source, target):
    """And where the result is defined: a number that a floating-point value is cut to must fit."""
    values, defined = wide(values) if source == "bfloat" else values, np.ones(COUNT, bool)
    if target == "bool":
        return values != 0, defined
    if target in FLOATING:
        if target == "bfloat":
            exact = values.astype(np.float64)
            return bfloat(exact), np.array([float(np.float32(v)) == v for v in exact]) | (source in FLOATING)
        return values.astype(SCALARS[target]), defined
    if source in FLOATING:
        limits = np.iinfo(SCALARS[target])
        cut = np.trunc(values.astype(np.float64))
        defined = (cut >= limits.min) & (cut <= limits.max - (limits.max > 2**53) * 2**11)
        return np.where(defined, cut, 0).astype(SCALARS[target]), defined
    return values.astype(SCALARS[target]), defined


def same(got, expected, kind):
    """Equal bits, or both NaN."""
    if kind == "bfloat":
        return (got == expected) | (np.isnan(wide(got)) & np.isnan(wide(expected)))
    if kind in FLOATING:
        bits = f"u{got.dtype.itemsize}"
        return (got.view(bits) == expected.view(bits)) | (np.isnan(got) & np.isnan(expected))
    return got == expected


SPELLINGS = ["T({0}s[i])", "(T){0}s[i]", "static_cast<T>({0}s[i])", "T3({0}3({0}s[i], {0}s[i], {0}s[i])).y",
             "static_cast<T4>({0}4({0}s[i])).w", "T2({0}s[i], {0}s[i]).y"]  # fmt: skip


def spellings(source, target):
    """Between half and bfloat the way is by float, or a constructor."""
    if {source, target} == {"half", "bfloat"}:
        return ["T(float({0}s[i]))", "T({0}s[i])"]
    return SPELLINGS


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", SCALARS)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_conversions(written, target):
    """From every type: scalars by constructor, cast, static_cast; vectors by constructor; no saturation."""
    sources = list(SCALARS)
    lines = "".join(
        f"  out[{COUNT * (len(SPELLINGS) * k + n)} + i] = {text.format(source)};\n"
        for k, source in enumerate(sources) for n, text in enumerate(spellings(source, target))
    )  # fmt: skip
    head = f"typedef {target} T;\n" + "".join(f"typedef {target}{n} T{n};\n" for n in (2, 3, 4))
    out = np.zeros((len(sources), len(SPELLINGS), COUNT), SCALARS[target])
    parameters = ", ".join(f"device const {source}* {source}s" for source in sources)
    run(written, f"{parameters}, device {target}* out", lines, [*map(inputs, sources), out], head)
    for source, rows in zip(sources, out):
        expected, defined = converted(inputs(source), source, target)
        for text, got in zip(spellings(source, target), rows):
            wrong = defined & ~same(got, np.asarray(expected, got.dtype), target)
            assert not wrong.any(), (source, text, inputs(source)[wrong], got[wrong], expected[wrong])


SIZES = {
    1: ["char", "uchar"],
    2: ["short", "ushort", "half", "bfloat", "char2", "uchar2"],
    4: ["int", "uint", "float", "short2", "ushort2", "half2", "bfloat2", "char4", "uchar4"],
    8: ["long", "ulong", "int2", "uint2", "float2", "short4", "ushort4", "half4", "bfloat4"],
    16: ["int4", "uint4", "float4", "long2", "ulong2", "int3", "float3"],
}


def test_as_type(written):
    """Every type to every other of its size, all bits kept; three components keep three."""
    pairs = [pair for kinds in SIZES.values() for pair in itertools.permutations(kinds, 2)]
    sizes = [size for size, kinds in SIZES.items() for _ in itertools.permutations(kinds, 2)]
    raw = np.random.default_rng(0).integers(0, 256, (COUNT, 16)).astype(np.uint8)
    lines = "".join(
        f"  AT({b}, out + {16 * COUNT * k}) = as_type<{b}>(AT(const {a}, x));\n" for k, (a, b) in enumerate(pairs)
    )
    head = "#define AT(T, p) (*(device T*)((p) + 16 * i))\n"
    out = np.zeros((len(pairs), COUNT, 16), np.uint8)
    run(written, "device const uchar* x, device uchar* out", lines, [raw, out], head)
    for (a, b), size, got in zip(pairs, sizes, out):
        kept = 12 if "3" in a + b else size
        assert np.array_equal(got[:, :kept], raw[:, :kept]), (a, b)


FIELDS = {"unorm4x8": (8, 8, 8, 8), "snorm4x8": (8, 8, 8, 8), "unorm2x16": (16, 16), "snorm2x16": (16, 16),
          "unorm10a2": (10, 10, 10, 2), "snorm10a2": (10, 10, 10, 2), "unorm565": (5, 6, 5),
          "srgb_unorm4x8": (8, 8, 8, 8)}  # fmt: skip


def to_srgb(x):
    return np.where(x < 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def from_srgb(x):
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("kind", ["float", "half"])
def test_packing(written, kind):
    """To the nearest, even in the middle, NaN as 0; the numbers of fields are nearest to those of the specification."""
    generator = np.random.default_rng(1)
    values = generator.uniform(-1.3, 1.3, (COUNT, 4)).astype(SCALARS[kind])
    values[:6] = [[np.nan, 1, 0, -1], [2, -2, np.inf, -np.inf], [0.5, -0.5, 0.25, 0.75], [-0.0, 0.5 / 31, 2.5 / 63, 2],
                  [0.5, 0.5, 0.5, 0.5], [1e-3, 2e-3, 3e-3, 1e-6]]  # fmt: skip
    packed = generator.integers(0, 2**32, COUNT, np.uint32)
    packed[:3] = [0, 2**32 - 1, 0x80808080]
    lines = ""
    for k, (name, widths) in enumerate(FIELDS.items()):
        n, back = len(widths), "unorm4x8_srgb" if "srgb" in name else name
        components = "".join("xyzw"[:n])
        lines += f"  to[{COUNT * k} + i] = pack_{kind}_to_{name}(v[i].{components});\n"
        lines += f"  from[{COUNT * k} + i].{components} = unpack_{back}_to_{kind}(p[i]);\n"
    to, back = np.zeros((len(FIELDS), COUNT), np.uint32), np.zeros((len(FIELDS), COUNT, 4), values.dtype)
    parameters = f"device const {kind}4* v, device const uint* p, device uint* to, device {kind}4* from"
    run(written, parameters, lines, [values, packed, to, back])
    for (name, widths), got, numbers in zip(FIELDS.items(), to, back):
        offset = 0
        for c, width in enumerate(widths):
            signed, curved = name[0] == "s" and "srgb" not in name, "srgb" in name and c < 3
            most = (1 << (width - signed)) - 1
            x = np.clip(
                np.nan_to_num(values[:, c].astype(np.float64), nan=0, posinf=9, neginf=-9), -1.0 if signed else 0, 1
            )
            exact = (to_srgb(x) if curved else x) * most
            field = (got >> offset & ((1 << width) - 1)).astype(np.int64)
            field -= (field > most) * (1 << width)
            sure = np.abs(np.abs(exact % 1) - 0.5) > 1e-4  # beside the middle; float32 products may fall on it
            sure |= exact == np.rint(exact * 2) / 2
            assert (np.abs(field - exact) < 0.5001).all() and (field == np.rint(exact))[sure].all(), (name, c)
            stored = (packed >> offset & ((1 << width) - 1)).astype(np.int64)
            stored -= signed * (stored > most) * (1 << width)
            expected = np.maximum(stored / most, -1)
            expected = from_srgb(expected) if curved else expected
            assert np.allclose(numbers[:, c], expected, rtol=2e-6 if kind == "float" else 1e-3, atol=1e-7), (name, c)
            offset += width


VECTORS = {  # with a = (1, 2, 3, 4) + i and b = 10 a; what the first components are then
    "T4 v(a.xy, b.zw); r = v": "[a0, a1, b2, b3]",
    "T4 v(a.x, b.yzw); r = v": "[a0, b1, b2, b3]",
    "T4 v(b.xyz, a.w); r = v": "[b0, b1, b2, a3]",
    "r = T4(a.x, b.xy, a.y)": "[a0, b0, b1, a1]",
    "r = T4(a.y)": "[a1] * 4",
    "r = a.wzyx": "[a3, a2, a1, a0]",
    "r = a.xxyy": "[a0, a0, a1, a1]",
    "r = a; r.yw = b.xz": "[a0, b0, a2, b2]",
    "r = a; r.wzyx = b": "[b3, b2, b1, b0]",
    "r = a; r.rgb = b.bgr": "[b2, b1, b0, a3]",
    "r = a; r.a = b.r": "[a0, a1, a2, b0]",
    "r = a; r.xy += b.yx": "[a0 + b1, a1 + b0, a2, a3]",
    "r = a; r[2] = b[3]": "[a0, a1, b3, a3]",
    "r = a; r.xyz = r.zxy": "[a2, a0, a1, a3]",
    "T3 v = a.yzw; r = T4(v, v.z)": "[a1, a2, a3, a3]",
    "r = a * T(2) + b": "[2 * a0 + b0, 2 * a1 + b1, 2 * a2 + b2, 2 * a3 + b3]",
    "r = -(a - b)": "[b0 - a0, b1 - a1, b2 - a2, b3 - a3]",
    "packed_T3 p = a.xyz; r = T4(p, p.y)": "[a0, a1, a2, a1]",
    "packed_T3 p(a.x, b.y, a.z); p.x = b.z; p[1] = a.w; r.xyz = p": "[b2, a3, a2]",
    "packed_T4 p = b; p += a; p *= T(2); r = p": "[2 * (a0 + b0), 2 * (a1 + b1), 2 * (a2 + b2), 2 * (a3 + b3)]",
    "packed_T2 p = a.xy, q = b.xy; r.xy = p + q; r.zw = p - T(1)": "[a0 + b0, a1 + b1, a0 - 1, a1 - 1]",
    "packed_T2 p = T2(a.y, b.y); T2 v = p; r = T4(v.yx, p.x, p.r)": "[b1, a1, a1, a1]",
    "r.xy = T2(sizeof(packed_T2), sizeof(packed_T3)) / T(sizeof(T))": "[2, 3]",
    "r.xy = T2(sizeof(packed_T4), alignof(packed_T4)) / T(sizeof(T))": "[4, 1]",
    "r = T4(sizeof(T2), sizeof(T3), sizeof(T4), alignof(T3)) / T(sizeof(T))": "[2, 4, 4, 4]",
    "own[i & 3] = packed_T3(a.xyz); own[i & 3].z = b.x; r.xyz = own[i & 3]": "[a0, a1, b0]",
    "r = select(a, b, bool4(true, false, a.x > b.x, a.x < b.x))": "[b0, a1, a2, b3]",
    "r = select(a, b, true)": "[b0, b1, b2, b3]",
    "r.x = select(a.x, b.x, false); r.y = select(a.y, b.y, a.x < b.x)": "[a0, b1]",
    "r = T4(not(bool4(a > b)))": "[1, 1, 1, 1]",
    "r.x = all(a < b) && !any(a > b) && all(bool2(true)) && any(bool3(a.xyz))": "[1]",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [kind for kind in SCALARS if kind not in ("bool", "bfloat")])
def test_vectors(written, kind):
    lines = "".join(f"  {{ T4 r = T4(0); {text}; out[{COUNT * k} + i] = r; }}\n" for k, text in enumerate(VECTORS))
    out = np.zeros((len(VECTORS), COUNT, 4), SCALARS[kind])
    room = np.zeros(out.nbytes + 32, np.uint8)  # a long4 lies at multiples of 32
    out = room[-room.ctypes.data % 32 :][: out.nbytes].view(out.dtype).reshape(out.shape)
    start = "  packed_T3 own[4];\n  T4 a = T4(T(i % 4)) + T4(1, 2, 3, 4), b = a * T(10);\n"
    run(written, f"device {kind}4* out", re.sub(r"\b(packed_)?T([234]?)\b", rf"\g<1>{kind}\2", start + lines), [out])
    base = np.arange(COUNT) % 4
    names = {f"a{c}": base + c + 1 for c in range(4)}
    names.update({f"b{c}": (base + c + 1) * 10 for c in range(4)})
    for (text, formula), got in zip(VECTORS.items(), out):
        for c, expected in enumerate(eval(formula, names)):
            expected = np.broadcast_to(expected, COUNT).astype(np.int64).astype(got.dtype)
            assert np.array_equal(got[:, c], expected), (text, c)
