"""An object made of an element of constant memory whose index depends on a template's parameters."""

import numpy as np
import pytest

DEFINED = """
struct S { int y; };
struct V { int y; V(const constant S& s) : y(s.y) {} };
constant S table[2] = {{3}, {5}};
"""
BODIES = {
    "parentheses": "S v(p[i]); return v.y;",
    "of an array": "S v(table[i]); return v.y;",
    "braces": "S v{p[i]}; return v.y;",
    "auto": "auto v(p[i]); return v.y;",
    "cast": "auto v = S(p[i]); return v.y;",
    "cast with braces": "auto v = S{p[i]}; return v.y;",
    "of another type, from where it is": "V v(p[i]); return v.y;",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_copies_of_elements_in_templates(written, body):
    library = written(f"""{DEFINED}
template <typename I> int g(I i, constant S* p) {{ {body} }}
kernel void f(device int* out, constant S* p) {{ out[0] = g(1, p); }}""")
    assert library.check() == []
    out = np.zeros(1, np.int32)
    library.kernel("f").launch([out, np.int32([2, 5])], (1, 1, 1), (1, 1, 1))
    assert out[0] == 5
