"""Braces with fewer components than a vector has, where its type depends on template parameters: the others are 0."""

import numpy
import pytest

DEFINED = """
template <typename V> V variable() { V v{1}; return v; }
template <typename V> V returned() { return {1}; }
template <typename V> V expression() { return V{1}; }
template <typename V> V constant_one() { constexpr V v{1}; return v; }
template <typename T, int N> struct Member { vec<T, N> v{1}; };
template <typename T, int N> struct Assigned { vec<T, N> v = {1}; };
template <typename T, int N> struct Constructed { vec<T, N> v; Constructed() : v{1} {} };
template <typename T, int N> struct Aggregate { vec<T, N> v; int n; };
template <typename T, int N> vec<T, N> same(vec<T, N> v) { return v; }
template <typename T, int N> vec<T, N> unless_given(vec<T, N> v = {1}) { return v; }
struct Pair { int a; half b; };
template <typename P> P pair(int a) { P p{a, 2}; return p; }
template <typename T> T number() { T t{1}; return t; }
"""
BODIES = {
    "a variable": "vec<T, N> v{1};",
    "a variable with =": "vec<T, N> v = {1};",
    "of what is computed": "T one = 1; vec<T, N> v{one};",
    "of a type parameter": "auto v = variable<vec<T, N>>();",
    "constexpr": "auto v = constant_one<vec<T, N>>();",
    "an expression": "auto v = vec<T, N>{1};",
    "an expression of a type parameter": "auto v = expression<vec<T, N>>();",
    "returned": "auto v = returned<vec<T, N>>();",
    "a member": "Member<T, N> m; auto v = m.v;",
    "a member with =": "Assigned<T, N> m; auto v = m.v;",
    "in front of a constructor's body": "Constructed<T, N> m; auto v = m.v;",
    "in an aggregate": "Aggregate<T, N> m{{1}, 2}; auto v = m.v;",
    "in an array": "vec<T, N> a[2] = {{0}, {1}}; auto v = a[1];",
    "an argument": "auto v = same<T, N>({1});",
    "a default argument": "auto v = unless_given<T, N>();",
    "not a vector": "vec<T, N> v(0); v[0] = T(pair<Pair>(N).b) - number<T>();",
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("vector", ["half, 3", "float, 2", "bfloat, 4", "int, 8"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_components_that_are_not_named_are_zero(written, body, vector):
    library = written(f"""{DEFINED}
template <typename T, int N> void g(device float* out) {{
  {body}
  for (short i = 0; i < N; i++) out[i] = float(v[i]);
}}
kernel void f(device float* out) {{ g<{vector}>(out); }}""")
    out = numpy.zeros(8, numpy.float32)
    library.kernel("f").launch([out], (1, 1, 1), (1, 1, 1))

    assert out.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
