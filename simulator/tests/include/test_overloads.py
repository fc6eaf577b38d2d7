"""Overloads as Metal's headers have them: what they lack is refused, what they have is accepted, and computes."""

import numpy as np
import pytest

PARAMETERS = "float a, float2 a2, float3 a3, float4 a4, half h, half2 h2, half3 h3, half4 h4, bfloat b, bfloat2 b2, "
PARAMETERS += "int i, int2 i2, int3 i3, int4 i4, uint u, uint2 u2, uint4 u4, short s, short2 s2, long l, char2 c2, "
PARAMETERS += (
    "bool t, bool2 t2, bool3 t3, bool4 t4, thread int& e, thread int2& e2, thread half2& w2, thread float2& f2"
)
LEGAL = """
any(t) all(t2) any(t4) any(a4 < a4) all(a2 == a2 && a2 < a2) any(!(i2 < i2)) all((h2 < h2) | (h2 > h2))
any(isnan(a3)) any(bool2(i2)) any(i < 3) any(u2 != 3u) all(t ? a2 < a2 : a2 > a2) all(~(i2 < i2)) any(bool4(u4))
any((a2 < a2)) all(t2 && t2) select(a, a, t) select(a2, a2, t2) select(a4, a4, a4 < a4) select(h3, h3, t3)
select(i2, i2, i2 == 3) select(u4, 7u, u4 == 3u) select(t2, t2, t2) select(b2, b2, t2) select(a2, a2, t)
select(c2, c2, t2) select(l, l, t) select(s2, s2, t2) select(i, i, i) isordered(a, a) isordered(h, h)
isordered(b, b) isordered(a2, a2) isordered(h3, h3) isunordered(b2, b2) isunordered(a4, a4) sign(a) sign(h)
sign(a2) sign(h3) sign(h4) mix(a2, a2, a) step(h2, h2) smoothstep(a4, a4, a4) dot(h2, h2) cross(a3, a3)
"""
LEGAL_IN_BOTH = """
nextafter(a, a) nextafter(a2, a2) nextafter(a4, a4) nextafter(1, 2) nextafter(h, h) select(a, a, t)
select(a2, a2, t2) select(a3, a3, t3) select(a4, a4, a4 < a4) select(1, 2, true) select(a2, a2, t)
select(h, h, t) fract(i) fract(u) fract(h) fract(a) fract(a3) ilogb(i) ilogb(u) ilogb(h) ilogb(a2) ldexp(i, i)
ldexp(u, 2) ldexp(a, i) ldexp(a2, i2) ldexp(h, 2) frexp(a, e) frexp(a2, e2) frexp(i, e) modf(a2, f2)
sincos(a2, f2) length(a2) length(a3) distance(a4, a4) normalize(a3) exp(a) exp(h) exp(i) min(a, a)
clamp(a2, a2, a2) saturate(a) fma(a4, a4, a4) sqrt(i) length(float2(h2)) abs(i) fract(b)
"""
WRONG = """
any(i2) all(i4) any(u2) all(a4) any(h2) any(i4 & 1) any(s2) all(b2) any(a2 + a2) any(c2) all(int2(a2 < a2))
any(i2 < i2 ? i2 : i2) select(a2, a2, i2) select(a4, a4, u4) select(h2, h2, s2) select(i2, i2, u2)
select(a2, a2, a2) select(a4, a4, i4 + 1) select(b2, b2, s2) select(a2, a2, t3) isordered(i, i) isordered(u, u)
isordered(i2, i2) isordered(u4, u4) isunordered(i, i) isunordered(l, l) isunordered(s2, s2) isunordered(s, s)
isordered(t, t) sign(i) sign(u) sign(l) sign(s) sign(i2) sign(u4) sign(s2) sign(t)
"""
WRONG_IN_BOTH = """
nextafter(h2, h2) nextafter(i2, i2) select(h2, h2, t2) select(i2, i2, t2) select(a2, a2, i2) select(h4, h4, t4)
fract(h2) fract(h3) fract(i2) fract(b2) ilogb(h2) ilogb(i2) ldexp(h2, i2) ldexp(i2, i2) frexp(h2, e2)
modf(h2, w2) sincos(h2, w2) length(h2) length(h3) distance(h2, h2) distance(h4, h4) normalize(h2) normalize(h4)
length(i2) sign(a) mix(a, a, a) step(a, a) smoothstep(a, a, a) dot(a2, a2) cross(a3, a3) reflect(a2, a2)
refract(a2, a2, a) length_squared(a2) distance_squared(a2, a2) popcount(u) isnan(a)
"""


def calls(text, in_both=""):
    """The calls of a table, those of the second one in namespaces fast and precise."""

    def parts(table):
        depth, start = 0, 0
        for at, letter in enumerate(table + " "):
            depth += (letter == "(") - (letter == ")")
            if depth == 0 and letter.isspace():
                if start < at:
                    yield table[start:at]
                start = at + 1

    return list(parts(text)) + [f"{space}::{call}" for call in parts(in_both) for space in ("fast", "precise")]


def lines_with_errors(written, expressions):
    lines = [f"void g{n}({PARAMETERS}) {{ auto r = {text}; }}" for n, text in enumerate(expressions)]
    return {d.line - 3: str(d) for d in written("\n".join(lines)).check() if d.severity == "error"}


def test_legal_calls(written):
    expressions = calls(LEGAL, LEGAL_IN_BOTH)
    found = lines_with_errors(written, expressions)
    assert {expressions[n]: message for n, message in found.items()} == {}


def test_wrong_calls(written):
    expressions = calls(WRONG, WRONG_IN_BOTH)
    found = lines_with_errors(written, expressions)
    assert [text for n, text in enumerate(expressions) if n not in found] == []


def test_conditions_are_named_at_their_place(written):
    found = written(
        "template <typename T> bool f(T x) {\n  return any(x) || any(x < x);\n}\nbool g(int2 v) { return f(v); }\n"
    )
    assert [(d.line, d.message) for d in found.check()] == [(4, "no matching function for call to 'any'")]
    found = written("bool f(vec<int, 2> x) {\n  return any(x < x) || all(x);\n}\n").check()
    assert [(d.line, d.column) for d in found] == [(4, 24)]
    assert found[0].message == "no matching function for call to 'all'"


@pytest.mark.parametrize("space", ["fast", "precise"])
def test_values(written, space):
    text = f"""kernel void f(device float* x) {{
  x[0] = {space}::nextafter(1, 2); x[1] = {space}::nextafter(float2(1, 2), float2(0, 3)).y;
  x[2] = {space}::select(1, 2, true); x[3] = {space}::select(float3(1), float3(2), bool3(false, true, false)).y;
  x[4] = {space}::select(float2(x[8], 5), 6, float2(x[8], 5) < 5).y; x[5] = {space}::fract(half(1.75));
  x[6] = {space}::ilogb(9u) + {space}::ldexp(3, 2); x[7] = {space}::length(float2(3, 4));
}}"""
    x = np.zeros(9, np.float32)
    written(text).kernel("f").launch([x], (1, 1, 1), (1, 1, 1))
    step = np.nextafter(np.float32(1), np.float32(2))
    assert x.tolist() == [step, np.nextafter(np.float32(2), np.float32(3)), 2, 2, 5, 0.75, 15, 5, 0]
