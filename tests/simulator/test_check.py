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


MISTAKES, LEGAL = cases("mistakes.txt"), cases("legal.txt")


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
    found = written("// \u00e9t\u00e9\n").check()
    assert [(d.line, d.column) for d in found] == [(3, 4)] and "non-ASCII" in found[0].message


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


@pytest.mark.parametrize("title", LEGAL)
def test_legal_metal_is_accepted(written, title):
    assert [str(d) for d in written(LEGAL[title]).check()] == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (HERE / "kernels").glob("*.metal")))
def test_teaching_kernels_are_accepted(library, name):
    assert [str(d) for d in library(name).check()] == []
