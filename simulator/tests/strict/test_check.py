"""The strict check rejects what Apple's compiler rejects, at the user's own line and column, and accepts the rest."""

import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).parent
HEADER_LINES = 2


def cases(name):
    """The cases of a file by title: the lines after each "=== title"."""
    parts = re.split(r"^=== (.*)\n", (HERE / "cases" / name).read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def rejected(library):
    """What the check says, but for names of the specification that no public kernel uses."""
    return [str(d) for d in library.check() if "no public kernel is known" not in d.message]


MISTAKES, LEGAL = cases("mistakes.txt"), cases("legal.txt")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("title", MISTAKES)
def test_mistakes_are_found(written, title):
    lines = MISTAKES[title].splitlines()
    (line, message) = next(
        (n, text.split("// expect: ")[1]) for n, text in enumerate(lines, 1) if "// expect: " in text
    )
    found = written(re.sub(" *// expect: .*", "", MISTAKES[title])).check()
    at = [d.message for d in found if d.line == line + HEADER_LINES and d.file.endswith("written.metal")]
    assert any(re.search(message, text) for text in at), [str(d) for d in found]


def test_non_ascii_source(written):
    found = written("// \u00e9t\u00e9\nconstant int x\u00e9 = 1;\n").check()
    assert [(d.line, d.column) for d in found if "non-ASCII" in d.message] == [(4, 15)]


def test_columns_are_the_users(written):
    text = "kernel void f(device float* out,   device  const half*   h) {\n    out[0] = float4(h[0]).x   + nothing;\n}"
    assert [(d.line, d.column) for d in written(text).check()] == [(4, 33)]


def test_every_instantiation_is_checked(written):
    text = "template <typename T> [[kernel]] void f(device T* x) {\n  x[0] = min(x[1], 1);\n}\n"
    text += 'template [[host_name("a")]] [[kernel]] decltype(f<int>) f<int>;\n'
    assert written(text).check() == []
    text += 'template [[host_name("b")]] [[kernel]] decltype(f<uint>) f<uint>;\n'
    assert [d.line for d in written(text).check()] == [4]


def test_mistakes_in_included_files(written, tmp_path):
    (tmp_path / "mistake.h").write_text("inline float g() {\n  return nothing;\n}\n")
    found = written('#include "mistake.h"\nkernel void f(device float* out) { *out = g(); }').check()
    assert [(pathlib.Path(d.file).name, d.line, d.column) for d in found] == [("mistake.h", 2, 10)]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("title", LEGAL)
def test_legal_metal_is_accepted(written, title):
    assert rejected(written(LEGAL[title])) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE.parent / "kernels").glob("*.metal")))
def test_teaching_kernels_are_accepted(library, name):
    assert rejected(library(name)) == []


RULES = cases("rules.txt")
EXPECTED = re.compile(r" *// (error|warning): (.*)")


@pytest.mark.sampled(8)
@pytest.mark.parametrize("title", RULES)
def test_rules(written, title):
    """Each line is found to be an error or a warning as its comment says, and nothing else is found."""
    lines = RULES[title].splitlines()
    expected = {
        n: EXPECTED.search(line).groups() for n, line in enumerate(lines, 1 + HEADER_LINES) if EXPECTED.search(line)
    }
    found = written(EXPECTED.sub("", RULES[title])).check()
    assert {d.line for d in found} == set(expected), [str(d) for d in found]
    for line, (severity, message) in expected.items():
        assert any(d.line == line and d.severity == severity and re.search(message, d.message) for d in found)


def test_names_without_evidence_are_warned_about(written):
    text = "[[stitchable]] float g(float x) { return x; }\nkernel void f(device float* x) {\n"
    text += "  packed_bfloat3 p(bfloat(1.0f));\n"
    found = written(text + "  x[0] = p[0] + quad_shuffle_and_fill_up(x[1], x[2], 1) + max(x[0], x[1]);\n}").check()
    assert [(d.line, d.severity) for d in found] == [(3, "warning"), (5, "warning"), (6, "warning")]
    names = ("[[stitchable]]", "packed_bfloat3", "quad_shuffle_and_fill_up")
    assert all(name in d.message for name, d in zip(names, found))


def test_names_of_the_specification_are_known(written):
    text = "kernel void f(device uint* x, uint i [[thread_execution_width]]) {\n  packed_uint3 p(1u); uint next = 2;\n"
    assert (
        written(text + "  x[i] = p[0] + extract_bits(i, 1u, next) + mulhi(popcount(i), simd_or(i));\n}").check() == []
    )


def test_own_names_are_not_warned_about(written):
    text = "inline float cross(float a) { return a; }\nstruct step { float x; };\n"
    text += "kernel void f(device float* x) {\n  struct step t{cross(x[0])};\n  x[0] = t.x;\n}"
    assert written(text).check() == []
