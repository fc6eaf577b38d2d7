"""Words that are no names in Metal: each in each place is refused at its line, with the reason."""

import re

import pytest
from metal_simulator import Library
from metal_simulator.strict import words

KEYWORDS = set(
    "alignas alignof asm auto bool break case catch char char16_t char32_t class const const_cast constexpr continue "
    "decltype default delete do double dynamic_cast else enum explicit export extern false float for friend goto if "
    "inline int long mutable namespace new noexcept nullptr operator private protected public register "
    "reinterpret_cast return short signed sizeof static static_assert static_cast struct switch template this "
    "thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while "
    "kernel vertex fragment device constant thread threadgroup threadgroup_imageblock ray_data object_data half bfloat "
    "uchar ushort uint ulong size_t ptrdiff_t as_type metal restrict main".split()
)
OPERATORS = set("and or not xor compl bitand bitor and_eq or_eq xor_eq not_eq".split())
MACROS = set(
    "assert MAXFLOAT HUGE_VALF INFINITY NAN FP_ILOGB0 FP_ILOGBNAN CHAR_BIT FLT_MAX FLT_EPSILON HALF_MIN DBL_MAX "
    "INT_MAX LONG_MIN UINT_MAX ULONG_MAX M_PI_F M_SQRT1_2_F M_PI_H M_LN2_H M_PI M_E".split()
)
TAKEN = "llong ullong quad complex imaginary".split()

# A line each; W is the word, # a number of the line's own.
PLACES = {
    "variable": "void g#() { int W = 1; }",
    "unset variable": "void g#() { float W; }",
    "variable of the user's type": "struct T# { int x; }; void g#() { T# W; }",
    "variable of a template's type": "void g#() { vec<float, 2> W; }",
    "deduced variable": "void g#() { auto W = 1; }",
    "second variable": "void g#() { int a = 0, W = 1; }",
    "array": "void g#() { float W[3]; }",
    "pointer": "void g#(device int* q) { device int* W = q; }",
    "variable of a loop": "void g#() { for (int W = 0; ; ) break; }",
    "variable of a range": "void g#() { int a[2] = {1, 2}; for (int W : a) { } }",
    "structured binding": "void g#() { int z[2] = {1, 2}; auto [W, b] = z; }",
    "constant": "namespace n# { constant int W = 1; }",
    "function constant": "namespace n# { constant bool W [[function_constant(#)]]; }",
    "parameter": "void g#(int W) { }",
    "first parameter": "void g#(int W, int y) { }",
    "pointer parameter": "void g#(device int* W) { }",
    "reference parameter": "void g#(thread int& W) { }",
    "kernel's position": "kernel void g#(device int* x, uint W [[thread_position_in_grid]]) { }",
    "kernel's buffer": "kernel void g#(device int* W [[buffer(0)]]) { }",
    "member": "struct S# { int W; };",
    "array member": "struct S# { int W[2]; };",
    "method": "struct S# { int W() const { return 1; } };",
    "declared method": "struct S# { int W(int x) const; };",
    "static method": "struct S# { static int W(int x) { return x; } };",
    "function": "namespace n# { inline int W(int x) { return x; } }",
    "kernel": "namespace n# { kernel void W(device int* x) { } }",
    "struct": "namespace n# { struct W { int x; }; }",
    "class": "namespace n# { class W { int x; }; }",
    "union": "namespace n# { union W { int x; }; }",
    "enum": "namespace n# { enum W { a# }; }",
    "enum class": "namespace n# { enum class W { a# }; }",
    "enumerator": "namespace n# { enum E { W }; }",
    "second enumerator": "enum class E# { a, W = 3, b };",
    "type parameter": "template <typename W> void g#(int x) { }",
    "class parameter": "template <class W, int n> void g#(int x) { }",
    "value parameter": "template <int W> void g#(int x) { }",
    "value parameter with default": "template <typename T, int W = 3> void g#(int x) { }",
    "template parameter": "template <template <typename> class W> void g#(int x) { }",
    "variable template": "namespace n# { template <typename T> constant int W = 1; }",
    "namespace": "namespace n# { namespace W { constant int x = 1; } }",
    "alias": "namespace n# { using W = float3; }",
    "typedef": "namespace n# { typedef float3 W; }",
    "label": "void g#() { W: return; }",
    "argument of a macro": "VARIABLE(g#, W)",
    "member by a macro": "MEMBER(S#, W)",
    "pasted by a macro": "PASTED(g#, {start}, {end})",
}
HEADER = """#include <metal_stdlib>
using namespace metal;
#define VARIABLE(g, name) void g() { int name = 1; }
#define MEMBER(S, name) struct S { int name; };
#define PASTED(g, a, b) void g() { int a##b = 1; }
"""
# What says nothing of names: an unnamed parameter, an operator, a label of a switch, namespace metal once more.
UNNAMED = {place for place in PLACES if "parameter" in place or place in ("kernel's position", "function constant")}
EXCEPTIONS = {(word, place) for word in ("const", "volatile") for place in UNNAMED}
EXCEPTIONS |= {(word, "label") for word in ("default", "public", "private", "protected")}
EXCEPTIONS |= {("metal", "namespace"), ("operator", "value parameter"), ("class", "enum"), ("struct", "enum")}
TWO_WORDS = {(word, place) for word in ("short", "long", "signed", "unsigned") for place in UNNAMED}
ORDINARY = set("vertex fragment threadgroup_imageblock ray_data object_data uchar ushort uint ulong size_t ptrdiff_t "
               "bfloat as_type metal restrict main".split())  # to clang  # fmt: skip
GROUPS = [ORDINARY, MACROS, OPERATORS, *(set(sorted(KEYWORDS - ORDINARY)[n::4]) for n in range(4))]


def line_of(place, word, number):
    text = PLACES[place].replace("#", str(number)).replace("{start}", word[:1]).replace("{end}", word[1:])
    return re.sub(r"(?<=_)W\b|\bW\b", word, text)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("group", range(len(GROUPS)))
def test_words_are_refused_in_each_place(tmp_path, group):
    """Many cases make one file."""
    cases = [(word, place) for word in sorted(GROUPS[group]) for place in PLACES]
    path = tmp_path / "words.metal"
    path.write_text(HEADER + "\n".join(line_of(place, word, n) for n, (word, place) in enumerate(cases)) + "\n")
    found = {}
    for diagnostic in Library(path).check():
        if diagnostic.severity == "error":
            found.setdefault(diagnostic.line - HEADER.count("\n") - 1, []).append(diagnostic.message)
    accepted = [case for n, case in enumerate(cases) if words.reason(case[0]) not in found.get(n, ())]
    assert set(accepted) <= EXCEPTIONS | TWO_WORDS, sorted(set(accepted) - EXCEPTIONS - TWO_WORDS)


LEGAL_NAMES = """
struct S { float quad, complex, dot, vec; half3 half_of; float kernels() const { return quad; } };
namespace mine {
struct quad { float x; };
inline float complex(float x) { return x; }
constant int imaginary = 2;
enum llong { ullong };
enum class Kind { quad, complex };
using namespace metal;
inline float g(quad q) { return q.x + complex(q.x) + imaginary; }
}
template <typename quad> quad twice(quad x) { return x + x; }
inline float g(float complex, float imaginary) {
  float quad = complex, llong = imaginary, dot = 1, vec = 2, kFragment = 3, fragments = 4, device_ = 5, level = 6;
  float fragment_count = quad + llong + dot + vec + kFragment + fragments + device_ + level;
  return twice(fragment_count);
}
"""
LEGAL_WORDS = """
[[kernel]] void a(device float* x [[buffer(0)]], uint i [[thread_position_in_grid]]) { assert(i < 8); x[i] = MAXFLOAT; }
void kernel b(device float* x, constant float& y, threadgroup float* z [[threadgroup(0)]]) { x[0] = x[1] * INFINITY; }
struct V { float4 position [[position]]; float2 uv; };
vertex V v(uint i [[vertex_id]], device const float4* p [[buffer(0)]]) { return V{p[i], float2(0)}; }
fragment half4 f(V in [[stage_in]]) { return half4(in.uv.xyxy); }
[[vertex]] V v2(uint i [[vertex_id]], device const float4* p [[buffer(0)]]) { return V{p[i], float2(0)}; }
[[fragment]] half4 f2(V in [[stage_in]]) { return half4(in.uv.xyxy); }
namespace inner { fragment half4 f(V in [[stage_in]]) { return half4(in.uv.xyxy); } }
template <typename T> fragment vec<T, 4> f3(V in [[stage_in]]) { return vec<T, 4>(in.uv.xyxy); }
template fragment half4 f3<half>(V in [[stage_in]]);
typedef unsigned int uint;
typedef unsigned long size_t;
namespace metal { METAL_FUNC half exp(bfloat x, int) { return half(float(x)); } }
enum Sizes : uint { kOne = sizeof(unsigned int), kTwo = CHAR_BIT };
enum class Small : uchar { a, b };
struct Functor {
  device const float* p;
  float x;
  operator float() const { return x; }
  operator unsigned int() const thread { return uint(x); }
  thread Functor& operator=(thread const Functor& o) thread = default;
  float operator()(float a) const device { return a + x; }
  float operator[](int i) const constant { return x + i; }
  bool operator and(bool b) const { return x > 0 and b; }
  auto get() const -> float { return this->x; }
};
template <typename, unsigned int = 3> struct Unnamed {};
template <template <typename> class, typename T = unsigned int> struct Template {};
inline unsigned int c(unsigned int, int const, float device (*)[4], device float (&)[4]);
inline thread float& reference(thread float& x) { return x; }
struct Extension { __extension__ union { struct { half d; } s; uint bits; }; __extension__ enum { kFirst } first; };
static __inline__ auto spelled(__const int x, __volatile__ int y) -> int { __extension__ int z = x; return y + z; }
inline float d(bool a, bool b, float x, thread float* p) {
  float limits[] = {NAN, MAXFLOAT, x * INFINITY, x > FLT_MAX ? M_PI_F : -M_E_F};
  auto e = (unsigned int)x, f = static_cast<unsigned int>(x);
  for (uint i = 0; i < 3 and not a; i++) { switch (i) { case 1: case INT_MAX: continue; default: break; } }
  if (a and (b or x < INT_MIN)) return *p * NAN; else return as_type<float>(uint(e xor f)) + limits[sizeof(half) - 2];
}
"""


@pytest.mark.parametrize("text", [LEGAL_NAMES, LEGAL_WORDS], ids=["names", "words"])
def test_legal_names_are_accepted(written, text):
    found = [d for d in written(text).check() if "no public kernel is known" not in d.message]
    assert [str(d) for d in found] == []


GLOBAL = """struct W { int x; };
inline float W(float x) { return x; }
template <typename T> T W(T x) { return x; }
template <typename T> struct W { T x; };
constant int W = 1;
enum W { a };
enum { W };
enum E { b, W = 2 };
typedef float4 W;
using W = float4;
namespace W { constant int x = 1; }
extern "C" { float W(float x); }
constant bool W [[function_constant(0)]];
kernel void W(device float* x) { x[0] = 1; }
template <typename T> constant T W = 1;""".split("\n")


@pytest.mark.parametrize("first", range(0, len(GLOBAL), len(TAKEN)))
def test_names_taken_at_global_scope(written, first):
    lines = [re.sub(r"\bW\b", word, text) for word, text in zip(TAKEN, GLOBAL[first:])]
    found = {(d.line, d.message) for d in written("\n".join(lines)).check()}
    assert {(n, words.reason(word)) for n, word in enumerate(TAKEN, 3)} <= found


def test_places_of_words(written, tmp_path):
    (tmp_path / "names.h").write_text("struct Names {\n  float a,\n      fragment;\n};\n")
    text = '#include "names.h"\nkernel void f(device float* out,\n'
    text += "              device  uint* x, uint   thread [[thread_position_in_grid]]) {}\n"
    found = written(text + "constant constexpr half  NAN = 1;\n").check()
    places = [(d.file.rpartition("/")[2], d.line, d.column) for d in found if "cannot be a name" in d.message]
    assert places == [("names.h", 3, 7), ("written.metal", 5, 39), ("written.metal", 6, 26)]
