"""Every error of the public functions: its type, and that it names the argument, what is allowed and what came."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import pytest
import torch

VARLEN, DENSE, OUT = "flash_attn_varlen_func", "flash_attn_func", "flash_attention_varlen"
META = torch.device("meta")


def good_arguments(function: str) -> dict:
    """A sound call: two sequences of 3 and 5 tokens, 4 query heads on 2 key/value heads, head_dim 8."""
    cu_seqlens = torch.tensor([0, 3, 8], dtype=torch.int32)
    query, key, value = torch.zeros(8, 4, 8), torch.zeros(8, 2, 8), torch.zeros(8, 2, 8)
    if function == DENSE:
        return {"q": query[None], "k": key[None], "v": value[None]}
    packing = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 5, "max_seqlen_k": 5}
    if function == OUT:
        return {"out": torch.zeros(8, 4, 8), "query": query, "key": key, "value": value, **packing}
    return {"q": query, "k": key, "v": value, **packing}


def call(kernel, function: str, **changes):
    return getattr(kernel, function)(**{**good_arguments(function), **changes})


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


RANK_3 = "must have 3 dimensions [total, heads, head_dim], got shape"
RANK_4 = "must have 4 dimensions [batch, seqlen, heads, head_dim], got shape"
WINDOWS = "must be -1 (unbounded) or more on both sides"
ALL_DTYPES = "must be one of torch.float32, torch.float16, torch.bfloat16, got"

# function, changed arguments, error, its message
ERRORS = [
    # query
    (VARLEN, {"q": [1.0]}, TypeError, "q must be a tensor, got list"),
    (VARLEN, {"q": torch.zeros(8, 32)}, ValueError, f"q {RANK_3} (8, 32)"),
    (DENSE, {"q": torch.zeros(8, 4, 8)}, ValueError, f"q {RANK_4} (8, 4, 8)"),
    (VARLEN, {"q": torch.zeros(8, 4, 8, dtype=torch.float64)}, TypeError, f"q {ALL_DTYPES} torch.float64"),
    (VARLEN, {"q": torch.zeros(8, 0, 8)}, ValueError, "q must have at least one head, got shape (8, 0, 8)"),
    (VARLEN, {"q": torch.zeros(8, 4, 0)}, ValueError, "q must have a head_dim of 1 to 576, got 0"),
    (DENSE, {"q": torch.zeros(1, 8, 4, 577)}, ValueError, "q must have a head_dim of 1 to 576, got 577"),
    (OUT, {"query": None}, TypeError, "query must be a tensor, got NoneType"),
    # key, value
    (VARLEN, {"k": None}, TypeError, "k must be a tensor, got NoneType"),
    (VARLEN, {"k": torch.zeros(1, 8, 2, 8)}, ValueError, f"k {RANK_3} (1, 8, 2, 8)"),
    (DENSE, {"v": torch.zeros(8, 2, 8)}, ValueError, f"v {RANK_4} (8, 2, 8)"),
    (VARLEN, {"k": torch.zeros(8, 2, 8).half()}, TypeError, "k must have the dtype of q, torch.float32, got"),
    (OUT, {"value": torch.zeros(8, 2, 8).half()}, TypeError, "value must have the dtype of query, torch.float32, got"),
    (VARLEN, {"v": torch.zeros(8, 2, 8, device=META)}, ValueError, "v must be on the device of q, cpu, got meta"),
    (DENSE, {"k": torch.zeros(2, 8, 2, 8)}, ValueError, "k must have the batch size of q, 1, got shape (2, 8, 2, 8)"),
    (VARLEN, {"k": torch.zeros(8, 2, 16)}, ValueError, "k must have the head_dim of q, 8, got shape (8, 2, 16)"),
    (VARLEN, {"v": torch.zeros(7, 2, 8)}, ValueError, "v must have the shape of k up to head_dim, (8, 2), got shape"),
    (VARLEN, {"v": torch.zeros(8, 4, 8)}, ValueError, "v must have the shape of k up to head_dim, (8, 2), got shape"),
    (VARLEN, {"v": torch.zeros(8, 2, 0)}, ValueError, "v must have a head_dim of 1 to 512, got 0"),
    (DENSE, {"v": torch.zeros(1, 8, 2, 513)}, ValueError, "v must have a head_dim of 1 to 512, got 513"),
    (
        VARLEN,
        {"k": torch.zeros(8, 3, 8), "v": torch.zeros(8, 3, 8)},
        ValueError,
        "the number of heads of q, 4, must be a multiple of that of k, got 3",
    ),
    (
        DENSE,
        {"k": torch.zeros(1, 8, 0, 8), "v": torch.zeros(1, 8, 0, 8)},
        ValueError,
        "the number of heads of q, 4, must be a multiple of that of k, got 0",
    ),
    # cu_seqlens, max_seqlen
    (VARLEN, {"cu_seqlens_q": [0, 3, 8]}, TypeError, "cu_seqlens_q must be a tensor, got list"),
    (VARLEN, {"cu_seqlens_k": int32()}, ValueError, "cu_seqlens_k must have shape [batch + 1], got shape (0,)"),
    (OUT, {"cu_seqlens_q": int32(0, 8)[None]}, ValueError, "cu_seqlens_q must have shape [batch + 1], got shape"),
    (
        VARLEN,
        {"cu_seqlens_q": torch.tensor([0.0, 8.0])},
        TypeError,
        "cu_seqlens_q must be torch.int32 or torch.int64, got torch.float32",
    ),
    (
        VARLEN,
        {"cu_seqlens_k": torch.tensor([0, 3, 8], device=META)},
        ValueError,
        "cu_seqlens_k must be on the device of q, cpu, got meta",
    ),
    (VARLEN, {"cu_seqlens_k": int32(0, 8)}, ValueError, "cu_seqlens_k must be as long as cu_seqlens_q, 3, got 2"),
    (VARLEN, {"max_seqlen_q": 5.0}, TypeError, "max_seqlen_q must be of integer type, got float"),
    (VARLEN, {"max_seqlen_k": -1}, ValueError, "max_seqlen_k must be 0 to 2147483647, got -1"),
    (OUT, {"max_seqlen_q": 2**31}, ValueError, "max_seqlen_q must be 0 to 2147483647, got 2147483648"),
    (
        VARLEN,
        {"max_seqlen_q": torch.tensor([5])},
        TypeError,
        "max_seqlen_q must be an int or a 0-dim integer tensor, got torch.int64 of shape (1,)",
    ),
    (
        VARLEN,
        {"max_seqlen_k": torch.tensor(5.0)},
        TypeError,
        "max_seqlen_k must be an int or a 0-dim integer tensor, got torch.float32 of shape ()",
    ),
    # softmax_scale, causal, window_size, flags
    (VARLEN, {"softmax_scale": "1"}, TypeError, "softmax_scale must be a float or None, got str"),
    (VARLEN, {"softmax_scale": math.nan}, ValueError, "softmax_scale must be finite and -1e+08 to 1e+08, got nan"),
    (DENSE, {"softmax_scale": math.inf}, ValueError, "softmax_scale must be finite and -1e+08 to 1e+08, got inf"),
    (OUT, {"scale": -1.1e8}, ValueError, "scale must be finite and -1e+08 to 1e+08, got -110000000.0"),
    (VARLEN, {"causal": None}, TypeError, "causal must be a bool, got NoneType"),
    (OUT, {"do_causal": 1}, TypeError, "do_causal must be a bool, got int"),
    (VARLEN, {"window_size": 4}, TypeError, "window_size must be a pair of ints (left, right), got int"),
    (DENSE, {"window_size": (4,)}, ValueError, "window_size must be a pair of ints (left, right), got (4,)"),
    (VARLEN, {"window_size": (4, None)}, TypeError, "window_size must be of integer type, got NoneType"),
    (VARLEN, {"window_size": (-2, 0)}, ValueError, f"window_size {WINDOWS}, got (-2, 0)"),
    (OUT, {"window_size": (0, -2)}, ValueError, f"window_size {WINDOWS}, got (0, -2)"),
    (VARLEN, {"deterministic": None}, TypeError, "deterministic must be a bool, got NoneType"),
    (DENSE, {"return_attn_probs": 1}, TypeError, "return_attn_probs must be a bool, got int"),
    # out
    (OUT, {"out": None}, TypeError, "out must be a tensor, got NoneType"),
    (OUT, {"out": torch.zeros(8, 8, 4)}, ValueError, "head_dim of value, (8, 4, 8), got shape (8, 8, 4)"),
    (OUT, {"value": torch.zeros(8, 2, 5)}, ValueError, "out must have the shape of query with the head_dim of value"),
    (OUT, {"out": torch.zeros(8, 4, 8).half()}, TypeError, "out must have the dtype of query, torch.float32, got"),
    (OUT, {"out": torch.zeros(8, 4, 8, device=META)}, ValueError, "out must be on the device of query, cpu, got meta"),
    (OUT, {"out": torch.zeros(1, 4, 8).expand(8, 4, 8)}, ValueError, "out must not overlap itself in memory"),
    (OUT, {"out": torch.zeros(46).as_strided((8, 4, 8), (2, 8, 1))}, ValueError, "out must not overlap itself"),
]  # fmt: skip


@pytest.mark.parametrize("function, changes, error, message", ERRORS, ids=[f"{e[0]}-{e[3][:60]}" for e in ERRORS])
def test_error(kernel, function, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(kernel, function, **changes)


@pytest.mark.parametrize("function", [VARLEN, DENSE, OUT])
def test_the_unchanged_call_is_sound(kernel, function):
    call(kernel, function)


@pytest.mark.parametrize("function", [VARLEN, DENSE, OUT])
def test_value_with_a_head_dim_of_its_own(kernel, function):
    good = good_arguments(function)
    name = "value" if function == OUT else "v"
    value = torch.zeros(*good[name].shape[:-1], 5)
    out = {"out": torch.zeros(8, 4, 5)} if function == OUT else {}
    call(kernel, function, **{name: value}, **out)


# cu_seqlens_k, max_seqlen_k, message
WRONG_VALUES = [
    (int32(-1, 3, 8), 5, "cu_seqlens_k must start at 0 or more, got -1"),
    (int32(0, 5, 3), 5, "cu_seqlens_k must never decrease, got 5 before 3 at index 1"),
    (int32(0, 3, 9), 6, "cu_seqlens_k must end within the tensor's 8 tokens, got 9"),
    (int32(0, 3, 8), 4, "max_seqlen_k must be at least the longest sequence, 5, got 4"),
    (int32(0, 3, 8), torch.tensor(4), "max_seqlen_k must be at least the longest sequence, 5, got 4"),
]


@pytest.mark.parametrize("function", [VARLEN, OUT])
@pytest.mark.parametrize("cu_seqlens_k, max_seqlen_k, message", WRONG_VALUES, ids=[case[2] for case in WRONG_VALUES])
def test_value_checks(kernel, monkeypatch, function, cu_seqlens_k, max_seqlen_k, message):
    call(kernel, function, cu_seqlens_k=cu_seqlens_k, max_seqlen_k=max_seqlen_k)  # not read by default
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(kernel, function, cu_seqlens_k=cu_seqlens_k, max_seqlen_k=max_seqlen_k)


def test_value_checks_pass_sound_values(kernel, monkeypatch):
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    call(kernel, VARLEN)
    call(kernel, VARLEN, cu_seqlens_q=int32(4), cu_seqlens_k=int32(4), max_seqlen_q=0, max_seqlen_k=0)


@pytest.mark.parametrize("setting", ["1", "0"])
def test_environment_variable_turns_value_checks_on(build, setting):
    load = f"kernels.get_local_kernel(pathlib.Path({str(build)!r}))"
    command = [sys.executable, "-c", f"import kernels, pathlib; print({load}.checks.tensors.CHECK_VALUES)"]
    environment = {**os.environ, "METAL_FLASH_SDPA_CHECK_VALUES": setting}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == str(setting == "1")
