"""In templates a call, an operator or a constructor may be one of several: what each needs is written all the same."""

import numpy as np
import pytest

CASES = {
    "object that calls": (
        "struct Twice { template <typename T> T operator()(T x) { return x + x; } };\n"
        "template <typename T, typename F> kernel void f(device T* x) { x[0] = static_cast<T>(F()(x[1])); }\n"
        'template [[host_name("k")]] kernel decltype(f<float, Twice>) f<float, Twice>;',
        4,
    ),
    "number beside vectors": (
        "template <typename T> kernel void f(device T* x) {\n"
        "  vec<T, 2> a = {x[1], x[1]};\n  vec<T, 2> b = a - 0.5 * a;\n  x[0] = b.x + b.y;\n}\n"
        'template [[host_name("k")]] kernel decltype(f<half>) f<half>;',
        2,
    ),
    "literal beside short vectors": (
        "template <typename T> T g(T a) { return select(a + a, a, a == 0); }\n"
        "kernel void k(device float* x) { x[0] = g(short2(x[1], 0)).x; }",
        4,
    ),
    "braces for one of two functions": (
        "template <typename I> I at(I a, constant const int* s) { return a; }\n"
        "template <typename I> I at(uint3 a, constant const int* s) { return a.x + a.y + a.z; }\n"
        "template <typename T, int N, typename I = long> kernel void f(device T* x, constant const int* s) {\n"
        "  uint3 i = uint3(x[1]);\n  x[0] = at<I>({N * i.x, i.y, i.z}, s);\n}\n"
        'template [[host_name("k")]] kernel decltype(f<float, 3>) f<float, 3>;',
        10,
    ),
    "braces for an object": (
        "struct At { int a, b; At(int x, int y) : a(x), b(y) {} };\n"
        "template <typename T> T at(const thread T& x, const thread At& i) { return x * i.a + i.b; }\n"
        "template <typename T> kernel void f(device T* x) { T y = x[1]; int j = 5; x[0] = at(y, {1, j}); }\n"
        'template [[host_name("k")]] kernel decltype(f<float>) f<float>;',
        7,
    ),
    "braces for a type that the call says": (
        "struct Sum {\n"
        "  template <typename T> static T op(device const T& a, thread const T& b) { return a + b; }\n"
        "  template <typename T> static T op(thread const T& a, thread const T& b) { return a + b; } };\n"
        "template <typename F, typename T> T g(thread T* x) {\n"
        "  return F::template op<T>({x[0][0], x[0][1]}, {x[0][1], x[0][1]}); }\n"
        "template <typename T> kernel void f(device float* x) { T a = T(x[1], 3); x[0] = g<Sum, T>(&a).x; }\n"
        'template [[host_name("k")]] kernel decltype(f<half2>) f<half2>;',
        5,
    ),
    "number for another one's reference": (
        "template <int N> struct S { static int g(const thread short& a) { return a * N; } };\n"
        "template <int N> kernel void f(device float* x) { const int a = x[1]; x[0] = S<N>::g(a); }\n"
        'template [[host_name("k")]] kernel decltype(f<3>) f<3>;',
        6,
    ),
    "member made of another number": (
        "struct Size { uint v; Size(const thread uint& n) : v(n) {} };\n"
        "template <typename T> struct S { T size; S(ulong n) : size(n) {} };\n"
        "kernel void k(device float* x) { S<Size> s{ulong(x[1])}; x[0] = s.size.v; }",
        2,
    ),
    "operators of a class": (
        "struct Field { uint v; Field(uint x) : v(x) {}\n"
        "  Field operator+(const Field b) const { return Field(v + b.v); }\n"
        "  Field operator*(const thread Field& b) const { return Field(v * b.v); } };\n"
        "template <typename T> uint g(T a, T b) { return ((a + b) * (a + a)).v; }\n"
        "kernel void k(device float* x) { Field a = Field(uint(x[1])); x[0] = g(a, Field(1)); }",
        12,
    ),
    "operator of a class that gives a vector": (
        "struct S { int4 x; };\nint4 operator&&(S a, int4 b) { return a.x + b; }\n"
        "template <typename T> T same(T a) { return a; }\n"
        "template <typename T> T g(T a) { return T(same<int4>(S{a} && a)); }\n"
        "kernel void k(device float* x) { x[0] = g(int4(x[1])).x; }",
        4,
    ),
    "object beside a pointer": (
        "struct Pair { float a, b; };\n"
        "thread Pair& operator+=(thread Pair& a, Pair b) { a.a += b.a; return a; }\n"
        "template <int N> struct Int { constexpr operator int() const { return N; } };\n"
        "template <typename P, typename I> float g(P p, I i) { p += i; return *p; }\n"
        "kernel void k(device float* x) { x[0] = g(x, Int<1>{}) + g(x + 2, -1); }",
        4,
    ),
    "function of bfloats": (
        "struct Divide { bfloat operator()(bfloat a, bfloat b) { return bfloat(fast::divide(a, b)); } };\n"
        "kernel void k(device float* x) { x[0] = Divide()(bfloat(x[1]), bfloat(4.0f)); }",
        0.5,
    ),
    "shift by a vector of another type": ("kernel void k(device float* x) { x[0] = (int2(x[1]) << uint2(2u)).y; }", 8),
    "vector of bool, negated by bits": ("kernel void k(device float* x) { x[0] = any(~(int2(x[1]) < int2(3))); }", 0),
    "cast to a reference": (
        "kernel void k(device float4* x) { (device float2&)x[0] = float2(7); x[0].zw = float2(1); }",
        7,
    ),
    "objects that differ by constructors' address spaces": (
        "template <typename T> struct A { uint i; T x; constexpr A<T>() threadgroup = default; };\n"
        "template <typename T> struct B { T x; constexpr B<T>() = default; constexpr B<T>() threadgroup = default; };\n"
        "struct C { float x; C() thread = default; C() threadgroup = default; C() device = default;\n"
        "  C() constant = default; C(float y) { x = y; } };\n"
        "template <typename T> A<T> a(T x) { return {1u, x}; }\n"
        "template <typename T, int N> T sum(threadgroup A<T> s[N]) { return s[0].x + s[1].x; }\n"
        "kernel void k(device float* x) {\n"
        "  threadgroup A<float> s[2];\n  threadgroup B<float> b[1];\n  C c, d(x[1]);\n  c.x = d.x;\n  b[0].x = c.x;\n"
        "  s[0].x = a(b[0].x).x;\n  s[1].x = A<float>{1u, c.x}.x;\n  x[0] = sum<float, 2>(s);\n}",
        4,
    ),
    "what an object in constant memory gives": (
        "struct M { float4x4 m; };\n"
        "template <typename T, size_t N> struct Array { T e[N];\n"
        "  thread T& operator[](size_t i) thread { return e[i]; }\n"
        "  constexpr const constant T& operator[](size_t i) const constant { return e[i]; }\n"
        "  threadgroup T& operator[](size_t i) threadgroup { return e[i]; } };\n"
        "struct Row { float e[2]; threadgroup float& operator[](int i) threadgroup { return e[i]; } };\n"
        "constant Array<float2x2, 2> table = Array<float2x2, 2>({float2x2(1), float2x2(3)});\n"
        "kernel void k(device float* x) {\n"
        "  float2x2 m;\n  m = table[uint(x[1]) - 1];\n  threadgroup Array<float, 4> t;\n"
        "  threadgroup float* p = &t[0];\n  threadgroup Row r;\n  threadgroup float& e = r[1];\n  *p = m[1].y;\n"
        "  e = t[0];\n  x[0] = r[1];\n}",
        3,
    ),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", CASES)
def test_what_templates_leave_open(written, name):
    text, expected = CASES[name]
    x = np.array([-1, 2, 2, 2, 2, 2, 2, 2], np.float16 if "f<half>" in text else np.float32)
    library = written(text)
    assert [str(d) for d in library.check() if d.severity == "error"] == []
    kernel = library.kernel("k")
    kernel.launch([x, np.zeros(4, np.int32)][: len(kernel.parameters)], (1, 1, 1), (1, 1, 1))
    assert x[0] == expected
