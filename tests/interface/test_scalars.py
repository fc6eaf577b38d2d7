"""Numbers, flags and pairs as users have them: Python's, NumPy's and torch's; and messages that tell them apart."""

from __future__ import annotations

import decimal
import enum
import fractions
import math
import re

import numpy
import pytest
import torch
from cases import random_tensor

META = torch.device("meta")


def int32(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def arguments_of(function: str) -> dict:
    cu_seqlens, packed, dense = int32(0, 3, 8), random_tensor(0, 8, 2, 16), random_tensor(1, 2, 4, 2, 16)
    lengths = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 5, "max_seqlen_k": 5}
    return {
        "flash_attn_func": {"q": dense, "k": dense, "v": dense},
        "flash_attn_varlen_func": {"q": packed, "k": packed, "v": packed, **lengths},
        "flash_attention_varlen": {
            "out": torch.empty(8, 2, 16), "query": packed, "key": packed, "value": packed, **lengths
        },
        "flash_attn_qkvpacked_func": {"qkv": random_tensor(2, 2, 4, 3, 2, 16)},
        "flash_attn_with_kvcache": {
            "q": dense, "k_cache": random_tensor(3, 2, 16, 2, 16), "v_cache": random_tensor(4, 2, 16, 2, 16),
            "cache_seqlens": 5,
        },
        "pad_input": {"hidden_states": random_tensor(5, 8, 8), "indices": torch.arange(8), "batch": 2, "seqlen": 4},
    }[function]  # fmt: skip


def call(kernel, function: str, **changes):
    arguments = {**arguments_of(function), **changes}
    result = getattr(kernel, function)(**arguments)
    return arguments["out"] if result is None else result


DENSE, VARLEN, OUT, CACHE = (
    "flash_attn_func",
    "flash_attn_varlen_func",
    "flash_attention_varlen",
    "flash_attn_with_kvcache",
)
QKV, PAD = "flash_attn_qkvpacked_func", "pad_input"
FLAGS = [
    (DENSE, "causal"), (VARLEN, "causal"), (QKV, "causal"), (CACHE, "causal"), (OUT, "do_causal"),
    (DENSE, "deterministic"), (CACHE, "rotary_interleaved"),
]  # fmt: skip
FLOATS = [
    (DENSE, "softmax_scale", 0.5), (VARLEN, "softmax_scale", 0.5), (CACHE, "softmax_scale", 0.5), (OUT, "scale", 0.5),
    (DENSE, "softcap", 4.0), (VARLEN, "softcap", 4.0), (OUT, "softcapping", 4.0), (DENSE, "dropout_p", 0.0),
    (DENSE, "softmax_scale", 2), (DENSE, "softcap", 3),
]  # fmt: skip
INTEGERS = [
    (VARLEN, "max_seqlen_q", 5), (VARLEN, "max_seqlen_k", 5), (OUT, "max_seqlen_q", 5), (CACHE, "num_splits", 2),
    (CACHE, "cache_seqlens", 7), (PAD, "batch", 2), (PAD, "seqlen", 4),
]  # fmt: skip


@pytest.mark.parametrize("make", [numpy.bool_, numpy.array, torch.tensor])
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("function, name", FLAGS)
def test_flags(kernel, launcher, function, name, value, make):
    assert torch.equal(call(kernel, function, **{name: make(value)}), call(kernel, function, **{name: value}))


@pytest.mark.parametrize("name, function", [("return_attn_probs", DENSE), ("return_softmax_lse", CACHE)])
def test_flags_of_the_result(kernel, function, name):
    for make in (numpy.bool_, numpy.array, torch.tensor):
        assert isinstance(call(kernel, function, **{name: make(True)}), tuple)
        assert isinstance(call(kernel, function, **{name: make(False)}), torch.Tensor)


class Half(float):
    pass


@pytest.mark.parametrize(
    "make",
    [
        numpy.float64, numpy.float32, numpy.float16, numpy.array, torch.tensor, Half,
        lambda value: torch.tensor(value, dtype=torch.bfloat16), lambda value: numpy.array(value, dtype=numpy.float32),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function, name, value", FLOATS)
def test_floats(kernel, launcher, function, name, value, make):
    assert torch.equal(call(kernel, function, **{name: make(value)}), call(kernel, function, **{name: value}))


class Five(enum.IntEnum):
    five = 5


@pytest.mark.parametrize("make", [numpy.int64, numpy.int32, numpy.uint8, numpy.array, torch.tensor, int32])
@pytest.mark.parametrize("function, name, value", INTEGERS)
def test_integers(kernel, launcher, function, name, value, make):
    if make is int32:
        make = lambda value: torch.tensor(value, dtype=torch.int32)  # noqa: E731
    assert torch.equal(call(kernel, function, **{name: make(value)}), call(kernel, function, **{name: value}))
    if value == 5:
        call(kernel, function, **{name: Five.five})


@pytest.mark.parametrize(
    "make",
    [
        list, torch.tensor, numpy.array, torch.Size, lambda pair: torch.tensor(pair, dtype=torch.int32),
        lambda pair: tuple(map(numpy.int64, pair)), lambda pair: tuple(map(torch.tensor, pair)),
        lambda pair: [numpy.array(pair[0]), pair[1]], lambda pair: torch.tensor([pair, pair])[:, 0:2].T[:, 0],
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", [DENSE, VARLEN, OUT, QKV, CACHE])
@pytest.mark.parametrize("pair", [(1, 0), (-1, 2), (2, -1), (0, 0), (-1, -1), (2**40, 3)])
def test_pairs(kernel, function, pair, make):
    if pair[0] > 2**31 and make is not list:
        pair = (2**31 - 1, 3)
    if make is torch.Size and min(pair) < 0:
        pytest.skip("a torch.Size counts")
    assert torch.equal(call(kernel, function, window_size=make(pair)), call(kernel, function, window_size=pair))


def test_one_length_for_all_is_not_read(kernel, launcher):
    """A tensor without dimensions is as good as one for each sequence."""
    expected = call(kernel, CACHE, cache_seqlens=int32(7, 7), causal=True)
    for length in (torch.tensor(7), torch.tensor(7, dtype=torch.int32)):
        assert torch.equal(call(kernel, CACHE, cache_seqlens=length, causal=True), expected)
    q, caches = arguments_of(CACHE)["q"].to(META), arguments_of(CACHE)["k_cache"].to(META)
    call(kernel, CACHE, q=q, k_cache=caches, v_cache=caches, cache_seqlens=torch.tensor(7, device=META))


PAIR = "window_size must be a pair of ints (left, right), got"
ERRORS = [
    (DENSE, {"causal": 1}, TypeError, "causal must be a bool, got int"),
    (DENSE, {"causal": numpy.int64(1)}, TypeError, "causal must be a bool, got numpy.int64"),
    (DENSE, {"causal": numpy.array([True])}, TypeError, "causal must be a bool, got numpy.ndarray"),
    (DENSE, {"causal": torch.tensor(1)}, TypeError, "causal must be a bool, got a tensor of torch.int64 and shape ()"),
    (DENSE, {"causal": torch.tensor([True])}, TypeError, "got a tensor of torch.bool and shape (1,)"),
    (DENSE, {"causal": "yes"}, TypeError, "causal must be a bool, got str"),
    (DENSE, {"causal": torch.tensor(True, device=META)}, ValueError, "causal must be on the CPU, as reading it would"),
    (DENSE, {"deterministic": 0.0}, TypeError, "deterministic must be a bool, got float"),
    (DENSE, {"return_attn_probs": numpy.int8(1)}, TypeError, "return_attn_probs must be a bool, got numpy.int8"),
    (DENSE, {"softmax_scale": True}, TypeError, "softmax_scale must be a float or None, got bool"),
    (DENSE, {"softmax_scale": numpy.True_}, TypeError, "softmax_scale must be a float or None, got numpy.bool"),
    (DENSE, {"softmax_scale": "0.1"}, TypeError, "softmax_scale must be a float or None, got str"),
    (DENSE, {"softmax_scale": 1j}, TypeError, "softmax_scale must be a float or None, got complex"),
    (DENSE, {"softmax_scale": numpy.complex64(1)}, TypeError, "got numpy.complex64"),
    (DENSE, {"softmax_scale": decimal.Decimal("0.1")}, TypeError, "float or None, got decimal.Decimal"),
    (DENSE, {"softmax_scale": fractions.Fraction(1, 3)}, TypeError, "float or None, got fractions.Fraction"),
    (DENSE, {"softmax_scale": numpy.array([0.1])}, TypeError, "float or None, got numpy.ndarray"),
    (DENSE, {"softmax_scale": torch.tensor([0.1])}, TypeError, "got a tensor of torch.float32 and shape (1,)"),
    (DENSE, {"softmax_scale": numpy.float32("nan")}, ValueError, "softmax_scale must be finite and -1e+08 to 1e+08"),
    (DENSE, {"softmax_scale": torch.tensor(math.inf)}, ValueError, "must be finite and -1e+08 to 1e+08, got inf"),
    (DENSE, {"softmax_scale": 10**400}, ValueError, "softmax_scale must be finite and -1e+08 to 1e+08, got 1000"),
    (OUT, {"scale": torch.tensor(1.0, device=META)}, ValueError, "scale must be on the CPU, as reading it would wait"),
    (
        DENSE,
        {"softmax_scale": torch.tensor(1.0, requires_grad=True)},
        NotImplementedError,
        "the gradient of softmax_scale is not implemented: softmax_scale must not require grad",
    ),
    (DENSE, {"softcap": torch.tensor(1.0, requires_grad=True)}, NotImplementedError, "the gradient of softcap is not"),
    (DENSE, {"softcap": True}, TypeError, "softcap must be a float, got bool"),
    (DENSE, {"softcap": numpy.float32(-1)}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got -1.0"),
    (DENSE, {"dropout_p": False}, TypeError, "dropout_p must be a float, got bool"),
    (DENSE, {"dropout_p": numpy.float32(1)}, ValueError, "dropout_p must be 0.0 or more and less than 1.0, got 1.0"),
    (VARLEN, {"max_seqlen_q": True}, TypeError, "max_seqlen_q must be of integer type, got bool"),
    (VARLEN, {"max_seqlen_q": numpy.float64(5)}, TypeError, "max_seqlen_q must be of integer type, got numpy.float64"),
    (VARLEN, {"max_seqlen_k": "5"}, TypeError, "max_seqlen_k must be of integer type, got str"),
    (VARLEN, {"max_seqlen_k": numpy.int64(-1)}, ValueError, "max_seqlen_k must be 0 to 2147483647, got -1"),
    (CACHE, {"num_splits": True}, TypeError, "num_splits must be of integer type, got bool"),
    (CACHE, {"num_splits": numpy.int64(129)}, ValueError, "num_splits must be 0 to 128, got 129"),
    (CACHE, {"num_splits": torch.tensor(1, device=META)}, ValueError, "num_splits must be on the CPU, as reading it"),
    (CACHE, {"cache_seqlens": True}, TypeError, "cache_seqlens must be of integer type, got bool"),
    (CACHE, {"cache_seqlens": numpy.array([1, 2])}, TypeError, "must be of integer type, got numpy.ndarray"),
    (CACHE, {"cache_seqlens": torch.tensor(3.0)}, TypeError, "cache_seqlens must be one of torch.int32, torch.int64"),
    (PAD, {"batch": True}, TypeError, "batch must be of integer type, got bool"),
    (DENSE, {"window_size": (True, False)}, TypeError, "window_size must be of integer type, got bool"),
    (DENSE, {"window_size": (numpy.True_, 1)}, TypeError, "window_size must be of integer type, got numpy.bool"),
    (DENSE, {"window_size": torch.tensor([True, False])}, TypeError, "window_size must be of integer type, got bool"),
    (DENSE, {"window_size": torch.tensor([1.0, 0.0])}, TypeError, "window_size must be of integer type, got float"),
    (DENSE, {"window_size": numpy.array([1.0, 0.0])}, TypeError, "window_size must be of integer type, got float"),
    (DENSE, {"window_size": (1.0, 0)}, TypeError, "window_size must be of integer type, got float"),
    (DENSE, {"window_size": ("1", 0)}, TypeError, "window_size must be of integer type, got str"),
    (DENSE, {"window_size": "10"}, TypeError, f"{PAIR} str"),
    (DENSE, {"window_size": None}, TypeError, f"{PAIR} NoneType"),
    (DENSE, {"window_size": numpy.int64(3)}, TypeError, f"{PAIR} numpy.int64"),
    (DENSE, {"window_size": torch.tensor(3)}, TypeError, f"{PAIR} a tensor of torch.int64 and shape ()"),
    (DENSE, {"window_size": torch.tensor([[1, 0]])}, TypeError, f"{PAIR} a tensor of torch.int64 and shape (1, 2)"),
    (DENSE, {"window_size": torch.tensor([1, 0, 0])}, ValueError, f"{PAIR} (1, 0, 0)"),
    (DENSE, {"window_size": numpy.array([])}, ValueError, f"{PAIR} ()"),
    (DENSE, {"window_size": {1: 2, 3: 4}}, TypeError, f"{PAIR} dict"),
    (DENSE, {"window_size": torch.tensor([1, 0], device=META)}, ValueError, "window_size must be on the CPU, as"),
    (DENSE, {"window_size": torch.tensor([-2, 0])}, ValueError, "window_size must be -1 (unbounded) or more on both"),
    (DENSE, {"window_size": numpy.array([0, -2])}, ValueError, "window_size must be -1 (unbounded) or more on both"),
    (DENSE, {"q": numpy.zeros((2, 4, 2, 16), dtype=numpy.float32)}, TypeError, "q must be a tensor, got numpy.ndarray"),
    (VARLEN, {"cu_seqlens_q": numpy.array([0, 8])}, TypeError, "cu_seqlens_q must be a tensor, got numpy.ndarray"),
    (DENSE, {"alibi_slopes": numpy.ones(2)}, TypeError, "alibi_slopes must be a tensor or None, got numpy.ndarray"),
]  # fmt: skip


@pytest.mark.parametrize(
    "function, changes, error, message", ERRORS, ids=[f"{i}-{e[3][:50]}" for i, e in enumerate(ERRORS)]
)
def test_errors(kernel, function, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(kernel, function, **changes)


def test_learned_scalars_without_gradients(kernel):
    scale = torch.tensor(0.5, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(call(kernel, DENSE, softmax_scale=scale), call(kernel, DENSE, softmax_scale=0.5))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(kernel, dynamic):
    """Python's own numbers, and those that come of shapes."""
    torch._dynamo.reset()

    def run(q):
        length = q.shape[1]
        return kernel.flash_attn_func(
            q, q, q, softmax_scale=q.shape[-1] ** -0.5, causal=length > 2, window_size=[length // 2, 0], softcap=2
        )

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for length in (9, 12):
        q = random_tensor(length, 2, length, 2, 16)
        torch.testing.assert_close(compiled(q), run(q))
