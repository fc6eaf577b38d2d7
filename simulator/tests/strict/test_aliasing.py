"""Memory accessed as a scalar of another type is refused: Apple's compiler may reorder such accesses."""

import pytest

HEADER = """struct Halves { half a[2]; };
struct Pair { uint x, y; };
struct Mixed { half h; uint u; };
struct Bytes { uchar b[4]; };
struct Wrapped { Halves inner[2]; };
union Both { half h[2]; uint u; };
using Word = uint;
template <int n, typename T> void copy(thread T* to, device const T* from) {
  constexpr int kBytes = n * sizeof(T);
  if (kBytes == 16) *(thread uint4*)to = *(device const uint4*)from;
  else *(thread ONE*)to = *(device const ONE*)from;
}
"""
# The body of a kernel each; of a thread (t) and of a threadgroup (g).
REFUSED = {
    "C cast": "*(thread uint*)t = x[0];",
    "read": "x[0] = *(thread uint*)t;",
    "element": "((thread uint*)t)[1] = x[0];",
    "behind the first": "*(thread uint*)&t[2] = x[0];",
    "sum": "*(thread uint*)(t + 2) = x[0];",
    "reinterpret_cast": "*reinterpret_cast<thread uint*>(t) = x[0];",
    "reference": "(thread uint&)t = x[0];",
    "reinterpret_cast to a reference": "reinterpret_cast<thread uint&>(t[0]) = x[0];",
    "reference variable": "thread uint& r = *(thread uint*)t; r = x[0];",
    "pointer variable": "thread uint* p = (thread uint*)t; p[0] = x[0];",
    "deduced pointer": "auto p = (thread uint*)t; p[0] = x[0];",
    "const pointer": "const thread uint* p = (const thread uint*)t; x[0] = p[0];",
    "alias": "*(thread Word*)t = x[0];",
    "behind void": "*static_cast<thread uint*>(static_cast<thread void*>(t)) = x[0];",
    "behind characters": "*(thread uint*)((thread uchar*)t + 4) = x[0];",
    "behind a variable": "thread void* p = t; *(thread uint*)p = x[0];",
    "long": "*(thread ulong*)t = x[0];",
    "float": "*(thread float*)t = x[0];",
    "short": "*(thread short*)t = x[0];",
    "bfloat": "*(thread bfloat*)t = bfloat(1.0f);",
    "bool": "x[0] = *(thread bool*)t;",
    "float as int": "float f = 1; x[0] = *(thread uint*)&f;",
    "int as float": "int i = 1; y[0] = *(thread float*)&i;",
    "struct": "Halves s; *(thread uint*)&s = x[0]; x[1] = s.a[0];",
    "struct of structs": "Wrapped s; *(thread uint*)&s = x[0]; x[1] = s.inner[1].a[0];",
    "member": "Halves s; *(thread uint*)s.a = x[0]; x[1] = s.a[0];",
    "to a struct": "*(thread Pair*)t = Pair{x[0], 1};",
    "to an array": "(*(thread uint(*)[2])t)[0] = x[0];",
    "two dimensions": "half m[2][4]; *(thread uint*)m[1] = x[0]; y[0] = m[1][0];",
    "threadgroup": "*(threadgroup uint*)g = x[0];",
    "threadgroup element": "x[0] = *(threadgroup uint*)&g[2];",
    "threadgroup pointer": "threadgroup half* p = g; *(threadgroup uint*)p = x[0];",
    "threadgroup reference": "(threadgroup uint&)g[0] = x[0];",
}
WARNED = ["ulong l = 1; x[0] = ((thread uint*)&l)[1];", "uint u[2]; u[0] = 1; x[0] = ((thread const ushort*)u)[1];"]
ACCEPTED = {
    "vectors": "*(thread uint2*)t = *(device const uint2*)x; *(thread vec<half, 2>*)t = half2(1);",
    "components": "half4 v = 1; *(thread uint*)&v = x[0]; y[0] = v.x;",
    "characters": "uchar c[4]; *(thread uint*)c = x[0]; x[1] = *(thread uchar*)t + *(thread char*)t + c[0];",
    "a struct of characters": "*(thread Bytes*)t = Bytes{{1, 2, 3, 4}};",
    "the type itself": "x[0] = ((thread half*)(thread void*)t)[0]; x[1] = ((thread half(*)[2])t)[1][0];",
    "signed and unsigned": "int i = 1; x[0] = *(thread uint*)&i; long l = 2; x[1] = *(thread ulong*)&l;",
    "a member of that type": "Mixed s; *(thread uint*)&s = x[0]; x[1] = s.u;",
    "first member": "Halves s; *(thread half*)&s = 1; y[0] = s.a[0];",
    "unions": "Both b; b.u = x[0]; y[0] = b.h[0]; *(thread uint*)&b = 1;",
    "as_type": "x[0] = as_type<uint>(half2(t[0], t[1]));",
    "device memory": "((device uint*)y)[0] = 0xff800000u; x[0] = *(device const ushort*)y;",
    "threadgroup arguments": "((threadgroup float*)z)[0] = 1; *(threadgroup float*)(z + 4) = 2;",
    "threadgroup vectors": "*(threadgroup uint2*)g = uint2(1); x[0] = ((threadgroup uchar*)g)[1];",
    "characters of a threadgroup": "threadgroup uchar c[16]; ((threadgroup float*)c)[1] = 1; y[0] = c[0];",
    "matrices": "simdgroup_float8x8 m; thread float2& e = (thread float2&)m.thread_elements(); e = 1;",
}


def findings(written, bodies, header=""):
    text = header + "\n".join(
        f"kernel void k{n}(device uint* x, device float* y, threadgroup half* z [[threadgroup(0)]]) {{ half t[4]; "
        f"threadgroup half g[4]; t[0] = g[0] = 1; {body} y[1] = t[0] + g[0]; }}"
        for n, body in enumerate(bodies)
    )
    return [d for d in written(text).check() if "no public kernel is known" not in d.message], 3 + header.count("\n")


def test_other_scalars_are_refused(written):
    found, first = findings(written, REFUSED.values(), HEADER.replace("ONE", "half"))
    lines = [d.line - first for d in found if "do not alias" in d.message and d.severity == "error"]
    assert lines == list(range(len(REFUSED))) and len(found) == len(lines), [str(d) for d in found]


def test_integers_of_another_size_deserve_a_warning(written):
    found, _ = findings(written, WARNED)
    assert [(d.line, d.severity, "do not alias" in d.message) for d in found] == [(n, "warning", True) for n in (3, 4)]


def test_what_aliases_is_accepted(written):
    found, _ = findings(written, ACCEPTED.values(), HEADER.replace("ONE", "half"))
    assert [str(d) for d in found] == []


@pytest.mark.parametrize("one, of", [("uint", "half"), ("vec<T, 2>", ""), ("T", ""), ("half", "float")])
def test_instantiations_are_judged(written, one, of):
    calls = (
        "copy<2>(t, (device const half*)y); copy<8>(t, (device const half*)y); float f[1]; copy<1>(f, y); t[1] = f[0];"
    )
    found, _ = findings(written, [calls], HEADER.replace("ONE", one))
    expected = [f"thread memory of type {of} is accessed as {one}: scalars of different types do not alias"] * bool(of)
    assert [d.message.partition(";")[0] for d in found] == expected
    assert [(d.line, d.column) for d in found] == [(13, 9)] * bool(of)


def test_templates_that_nobody_instantiates_are_not_judged(written):
    assert findings(written, [""], HEADER.replace("ONE", "uint"))[0] == []
