"""docs/reference.md says what the docstrings say, and what calls show. Level: CPU implementation, and plans."""

from __future__ import annotations

import document
import torch


def test_the_document_is_up_to_date(kernel):
    """If not: make build && python tools/document.py"""
    assert document.DOCUMENT.read_text(encoding="ascii") == document.document(kernel)


def test_every_argument_is_explained(kernel):
    """By its name in the docstring of the function; what "everything else" stands for is explained elsewhere."""
    for name in kernel.__all__:
        function = getattr(kernel, name)
        docstring = function.__doc__
        if "Everything else" in docstring:
            docstring += kernel.flash_attn_varlen_func.__doc__
        arguments = set(function.__annotations__) - {"return"}
        assert {argument for argument in arguments if argument not in docstring} == set()


def test_marks_are_calls(kernel):
    """A mark is "no" for what raises NotImplementedError, when called or when the backward is asked for."""

    def refused():
        raise NotImplementedError

    leaf = torch.zeros(1, 2, 1, 8, requires_grad=True)
    call = lambda: kernel.flash_attn_func(leaf, leaf, leaf)  # noqa: E731
    assert not document.works(kernel, refused, backward=False, metal=False)
    assert document.works(kernel, call, backward=True, metal=False)
    assert document.works(kernel, call, backward=False, metal=True)
    assert document.works(kernel, call, backward=True, metal=True)
    only_forward = lambda: call() if not torch.is_grad_enabled() else refused()  # noqa: E731
    assert document.works(kernel, only_forward, backward=False, metal=True)
    assert not document.works(kernel, only_forward, backward=True, metal=True)
