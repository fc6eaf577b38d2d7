"""describe_call: its text runs, and makes the same call."""

from __future__ import annotations

import pytest
import torch


class Recorder:
    """Stands for the kernel in the text that runs."""

    def __getattr__(self, name):
        def record(*arguments, **keywords):
            self.call = name, arguments, keywords

        return record


def described(tensor):
    return tensor.shape, tensor.stride(), tensor.storage_offset() % 16, tensor.dtype, tensor.requires_grad


def rerun(kernel, function, *arguments, **keywords):
    """The arguments and keywords of the call in the text."""
    text = kernel.selftest.describe_call(function, *arguments, **keywords)
    assert str(torch.__version__) in text
    attention = Recorder()
    exec(text, {"attention": attention})  # a text that this test has just made
    name, *call = attention.call
    assert name == function.__name__
    return call


def test_strides_offsets_dtypes_gradients_and_options(kernel):
    query = torch.randn(2, 4, 9, 40)[..., 3:35].half().transpose(1, 2).requires_grad_()
    key = torch.randn(2, 9, 2, 43)[..., 3:35].bfloat16()
    mask = torch.ones(9, 1, dtype=torch.bool).expand(9, 9)
    function = kernel.flash_attn_func
    arguments, keywords = rerun(
        kernel, function, query, key, key, 0.0, causal=True, window_size=(3, -1), attn_bias=mask
    )
    assert list(map(described, arguments[:3])) == list(map(described, (query, key, key)))
    assert arguments[3:] == (0.0,)
    assert described(keywords.pop("attn_bias")) == described(mask)
    assert keywords == {"causal": True, "window_size": (3, -1)}


def test_integers_are_told_as_they_are(kernel):
    query = torch.randn(7, 1, 8)
    bounds = torch.tensor([0, 3, 7], dtype=torch.int32)
    long = torch.arange(5000, dtype=torch.int32)
    arguments, keywords = rerun(
        kernel, kernel.flash_attn_varlen_func, query, query, query, bounds, bounds, block_table=long
    )
    assert arguments[3].equal(bounds) and arguments[3].dtype == torch.int32
    table = keywords["block_table"]
    assert table.shape == long.shape and table.dtype == torch.int32 and 0 <= table.min() and table.max() < 5000


def test_no_value_of_a_floating_tensor_is_told(kernel, capsys):
    query = torch.full((1, 2, 1, 8), 1234.5)
    text = kernel.selftest.describe_call(kernel.flash_attn_func, query, query, query)
    assert "1234" not in text and text in capsys.readouterr().err


def test_an_empty_tensor(kernel):
    empty = torch.empty(1, 0, 2, 8)
    [arguments, _] = rerun(kernel, kernel.flash_attn_func, empty, empty, empty)
    assert arguments[0].shape == empty.shape


def test_a_function_without_a_name_is_refused(kernel):
    with pytest.raises(TypeError, match="function must be a public function of this package, got int"):
        kernel.selftest.describe_call(3)
