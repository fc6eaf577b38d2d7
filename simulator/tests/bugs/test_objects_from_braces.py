"""What braces make of a type that is named, where it is chosen or cast to its own type."""

import numpy as np
import pytest

DEFINED = """
struct S { int y; };
struct G { int y; G(int z) : y(z) {} };
S made(int x) { return {x}; }
G grown(int x) { return G(x); }
"""
VALUES = {
    "object or call": "(x == 1 ? S{3} : made(7)).y",
    "call or object": "(x == 0 ? made(7) : S{3}).y",
    "object with a constructor": "(x == 1 ? G{3} : grown(7)).y",
    "object or cast": "(x == 1 ? G{3} : G(7)).y",
    "both": "(x == 1 ? S{3} : S{7}).y",
    "vector of bool": "2 + (x == 1 ? bool2{true, false} : bool2(false, false)).x",
    "cast": "int3(int3{1, 3, x}).y",
    "cast, fewer components": "3 + int3(int3{1}).y",
    "cast of a cast": "int3(int3(int3{1, 3, x})).y",
    "cast of another type": "int3(float3(float3{1, 3, 4})).y",
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_objects_from_braces(written, value):
    library = written(f"{DEFINED}\nkernel void f(device int* out) {{ int x = out[0]; out[0] = {value}; }}")
    assert library.check() == []
    out = np.ones(1, np.int32)
    library.kernel("f").launch([out], (1, 1, 1), (1, 1, 1))
    assert out[0] == 3
