"""Operators of components, as a.xy, in templates, where a class has operators of the same names."""

import numpy as np
import pytest

OPERATORS = """
struct C { int re, im; };
C operator+(C a, C b) { return {a.re + b.re, a.im + b.im}; }
C operator*(C a, C b) { return {a.re * b.re, a.im * b.im}; }
C operator-(C a) { return {-a.re, -a.im}; }
thread C& operator+=(thread C& a, C b) { a.re += b.re; return a; }
bool operator==(C a, C b) { return a.re == b.re; }
"""
BODIES = {
    "beside a number": ("a.xyz = a.zyx + 1;", [4, 3, 2]),
    "behind a number": ("a.xy = 2 * a.xy;", [2, 4, 3]),
    "beside components": ("a.xy = a.xy + (a.yx);", [3, 3, 3]),
    "one operand": ("a.xyz = -a.xyz;", [-1, -2, -3]),
    "assigned": ("a.xy += 1;", [2, 3, 3]),
    "compared": ("a.x = all(a.xz == a.xz) ? 7 : 8;", [7, 2, 3]),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BODIES)
def test_operators_beside_components(written, name):
    body, expected = BODIES[name]
    library = written(f"""{OPERATORS}
template <typename T> T g(T a) {{ {body} return a; }}
kernel void f(device int* out) {{ int3 v = g(int3(1, 2, 3)); for (int i = 0; i < 3; i++) out[i] = v[i]; }}""")
    assert library.check() == []
    out = np.zeros(3, np.int32)
    library.kernel("f").launch([out], (1, 1, 1), (1, 1, 1))
    assert out.tolist() == expected


def test_what_is_wrong_there_is_refused(written):
    library = written(f"""{OPERATORS}
template <typename T> T g(T a) {{ return a.xy + C{{1, 2}}; }}
kernel void f(device int* out) {{ out[0] = g(int2(1, 2)).x; }}""")
    assert [(d.line, d.severity) for d in library.check()] == [(11, "error")]
