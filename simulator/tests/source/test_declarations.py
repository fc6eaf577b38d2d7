"""The reader of declarations: no legal text makes it lose a kernel; what it cannot read is an error with its line."""

import re

import numpy as np
import pytest
from declared import ALONE, FORMS, LEGAL, UNREADABLE
from metal_simulator import CompileError
from metal_simulator.source.accounting import account, read_kernels
from metal_simulator.translate.rewrite import read_types

KERNELS = "kernel void first(device float* x) { x[0] = 1; }\n[[kernel]] void second(device float* x) { x[0] = 2; }\n"
P = "struct P { float x, y; };\n"
TEMPLATE = "template <typename T> kernel void t(device T* x) { x[0] = T(1); }\n"


def names(text):
    """Host names of the kernels of a text that needs no preprocessing."""
    return list(account(read_types(*read_kernels(f'# 1 "f.metal"\n{text}\n'))).kernels())


@pytest.mark.parametrize("name", [*LEGAL, *ALONE])
def test_what_stands_before_kernels(name):
    assert names(P + {**LEGAL, **ALONE}[name] + "\n" + KERNELS) == ["first", "second"]


def test_it_is_all_legal(written):
    """Everything in one file, as clang sees it, too."""
    library = written(P + "\n".join(LEGAL.values()) + "\n" + KERNELS)
    assert library.kernels == ("first", "second")
    x = np.zeros(1, np.float32)
    library.kernel("second").launch([x], (1, 1, 1), (1, 1, 1))
    assert x[0] == 2


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_kernels(name):
    text, expected = FORMS[name]
    assert names(P + TEMPLATE + text) == expected.split()


def test_forms_compile(written):
    """Those that ask most of what comes after the reading."""
    chosen = ["after its name", "noexcept", "extern C", "prototype", "prototype of a template", "inline namespace"]
    for name in [*chosen, *(name for name in FORMS if "instantiat" in name or "special" in name)]:
        text, expected = FORMS[name]
        library = written(P + TEMPLATE + text)
        assert library.kernels == tuple(expected.split())
        kernel = library.kernel(library.kernels[-1])
        buffers = [np.zeros(16, np.float32) for _ in kernel.parameters]
        kernel.launch(buffers, (1, 1, 1), (1, 1, 1))
        assert buffers[0][0] == (7 if "= 7" in text or "? " in text else 1), name


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_an_error(name):
    text, line = UNREADABLE[name]
    with pytest.raises(CompileError, match=rf"^f.metal:{line}:\d+: error: cannot tell what the word kernel declares"):
        names(text)


def test_the_error_reaches_the_user(written):
    library = written("constant int a = 3;\nkernel void f(device float* x) <% x[0] = 1; %>\nkernel void g() {}")
    for use in (lambda: library.kernels, lambda: library.kernel("g")):
        with pytest.raises(CompileError, match=r"written.metal:4:1: error: cannot tell what the word kernel declares"):
            use()
    found = [str(d) for d in library.check()]
    assert any(re.search(r"written.metal:4:1: error: cannot tell what the word kernel", text) for text in found), found


def test_lines_of_another_file(written):
    """#line may name anything; the simulator's own headers are known by their folder."""
    for file in ("<string>", "<built-in>", "other.metal", 'a\\"b'):
        assert written(f'#line 1 "{file}"\n{KERNELS}').kernels == ("first", "second")


def test_arguments_that_nobody_can_give(written):
    text = "kernel void f(device float* x, texture2d<float> t [[texture(0)]], float y) {}"
    message = r"written.metal:3: error: f cannot be run: nothing here gives 't' \[\[texture\]\]"
    with pytest.raises(CompileError, match=message):
        written(text).kernel("f")


def test_a_template_without_an_end():
    assert names("template <int N kernel void f() {}") == []
