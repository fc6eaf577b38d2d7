"""What is newer than the C++ of a version of Metal is refused at the user's line, when that version is asked for."""

import re

import pytest
from metal_simulator import CompileError

AFTER_14 = {
    "namespace a::b { constant int x = 1; }": "nested namespace",
    "template <typename T> float f1(T x) { if constexpr (sizeof(T) == 2) return 1; return 2; }": "if constexpr",
    "void f2() { int z[2] = {1, 2}; auto [a, b] = z; }": "structured bindings",
    "template <typename... T> int f3(T... x) { return (x + ...); }": "fold expression",
    "struct S4 { inline static constexpr constant int q = 1; };": "inline variables",
    "inline constant constexpr int v5 = 3;": "inline variables",
    "template <typename T> struct S6 { T x; S6(T y) : x(y) {} }; void f6() { S6 b(3); }": "argument deduction",
    "template <auto n> int f7() { return n; }": "'auto'",
    "void f8() { auto f = [](int x) constexpr { return x; }; }": "constexpr on lambda",
    "void f9(int x) { if (int y = x; y > 0) {} }": "if initialization",
    "void f10(int x) { switch (int z = x; z) { default: break; } }": "switch initialization",
    "static_assert(sizeof(int) == 4);": "no message",
    "[[nodiscard]] inline int f12() { return 1; }": r"\[\[nodiscard\]\]",
    "inline int f13([[maybe_unused]] int x) { return 1; }": r"\[\[maybe_unused\]\]",
    "void f14(int x) { switch (x) { case 1: x++; [[fallthrough]]; default: break; } }": r"\[\[fallthrough\]\]",
    "template <template <typename> typename T> void f15() {}": "using 'typename'",
    "struct S16 { int x; void f() { auto l = [*this] { return x; }; } };": "capture",
    "template <typename... T> struct S17 : T... { using T::operator()...; };": "using declaration",
    "enum class E18 { a [[deprecated]] };": "attributes on an enumerator",
    "namespace [[deprecated]] n19 {}": "attributes on a namespace",
    "[[using clang: always_inline]] inline void f20() {}": "scope specifier for attributes",
    "IF_CONSTEXPR": "if constexpr",
}
AFTER_17 = {
    "struct P { int a, b; }; void f30() { P d = {.a = 1, .b = 2}; }": "designated",
    "void f31() { int a[2] = {1, 2}; for (int i = 0; int x : a) i += x; }": "range-based for",
    "void f32() { auto f = []<typename T>(T x) { return x; }; }": "template parameter list for lambdas",
}
WITHIN_14 = """constexpr int sum(int n) { int r = 0; for (int i = 0; i < n; i++) r += i; return r; }
template <typename T> constexpr constant bool is_small = sizeof(T) < 4;
template <typename T, typename... R> struct Count { static constexpr constant int value = 1 + sizeof...(R); };
template <template <typename> class T> void f() {}
template <typename T> using pair = vec<T, 2>;
[[deprecated]] inline auto g(int x) { return x * 1'000 + 0b11; }
static_assert(sum(3) == 3 && is_small<half>, "a message");
constant float one = 0x1p0f;
enum class Kind : uint { a, b };
void h() { auto f = [](auto x) { return x; }; int a[2] = {1, 2}; for (int x : a) f(x); }
inline namespace now { constant int x = 1; }
"""
HEADER = "#define IF_CONSTEXPR template <typename T> int f21() { if constexpr (sizeof(T) == 2) return 1; return 2; }\n"


def newer(library, language):
    return [(d.line - 4, d.message) for d in library.check(language) if "newer than" in d.message]


def test_what_is_newer_is_refused_at_its_line(written):
    library = written(HEADER + "\n".join([*AFTER_14, *AFTER_17]))
    found = newer(library, "metal3.1")
    assert sorted({line for line, _ in found}) == list(range(len(AFTER_14) + len(AFTER_17)))
    for line, name in enumerate([*AFTER_14.values(), *AFTER_17.values()]):
        messages = [m for at, m in found if at == line and m.startswith("newer than C++14, the C++ of metal3.1: ")]
        assert any(re.search(name, m) for m in messages), (name, found)
    assert {line for line, _ in newer(library, "metal4.0")} == {len(AFTER_14) + n for n in range(len(AFTER_17))}
    assert newer(library, None) == []


def test_what_is_old_enough_is_accepted(written):
    found = [str(d) for d in written(WITHIN_14).check("metal3.1") if "lambda: needs" not in d.message]
    assert found == []


def test_included_files_are_judged(written, tmp_path):
    (tmp_path / "new.h").write_text("// a header\nnamespace a::b {}\n")
    found = written('#include "new.h"\n').check("metal3.1")
    assert [(d.file.rpartition("/")[2], d.line, d.column, d.severity) for d in found] == [("new.h", 2, 12, "error")]


def test_the_version_is_told_to_the_source(written):
    library = written(
        '#if __METAL_VERSION__ >= 400\nnamespace a::b {}\n#endif\nstatic_assert(__METAL_VERSION__ == 310, "");\n'
    )
    assert library.check("metal3.1") == []
    assert [d.line for d in library.check("metal4.0")] == [6]


def test_unknown_language(written):
    with pytest.raises(CompileError, match="no language 'metal2'; known are metal3.1, metal4.0"):
        written("").check("metal2")
