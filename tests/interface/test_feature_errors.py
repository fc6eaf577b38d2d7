"""Every error of the optional features' arguments: its type and its message."""

from __future__ import annotations

import math
import re

import pytest
import torch

VARLEN, DENSE, OUT = "flash_attn_varlen_func", "flash_attn_func", "flash_attention_varlen"
META = torch.device("meta")


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def good_arguments(function: str, paged: bool = False) -> dict:
    """A sound call: two sequences of 3 and 5 tokens, 4 query heads on 2 key/value heads, head_dim 8; paged, the keys
    lie in 4 pages of 16, 2 for each sequence."""
    query, key, value = torch.zeros(8, 4, 8), torch.zeros(8, 2, 8), torch.zeros(8, 2, 8)
    if function == DENSE:
        return {"q": query[None], "k": key[None], "v": value[None]}
    cu_seqlens = int32(0, 3, 8)
    call = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 5, "max_seqlen_k": 5}
    if paged:
        key = value = torch.zeros(4, 16, 2, 8)
        call["block_table"] = torch.arange(4, dtype=torch.int32).view(2, 2)
    if function == OUT:
        return {"out": torch.zeros(8, 4, 8), "query": query, "key": key, "value": value, **call}
    return {"q": query, "k": key, "v": value, **call}


def call(kernel, function: str, paged: bool = False, **changes):
    return getattr(kernel, function)(**{**good_arguments(function, paged), **changes})


FLOATS = "torch.float32, torch.float16, torch.bfloat16"
PAGED_LAYOUT = "[num_pages, page_size, heads, head_dim]"

# function, changed arguments, error, its message
ERRORS = [
    # dropout_p, softcap, softcapping
    (VARLEN, {"dropout_p": None}, TypeError, "dropout_p must be a float, got NoneType"),
    (VARLEN, {"dropout_p": -0.1}, ValueError, "dropout_p must be 0.0 or more and less than 1.0, got -0.1"),
    (DENSE, {"dropout_p": 1.0}, ValueError, "dropout_p must be 0.0 or more and less than 1.0, got 1.0"),
    (VARLEN, {"softcap": "30"}, TypeError, "softcap must be a float, got str"),
    (VARLEN, {"softcap": -1.0}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got -1.0"),
    (DENSE, {"softcap": math.inf}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got inf"),
    (DENSE, {"softcap": math.nan}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got nan"),
    (VARLEN, {"softcap": 1e-9}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got 1e-09"),
    (OUT, {"softcapping": None}, TypeError, "softcapping must be a float, got NoneType"),
    (OUT, {"softcapping": 0.0}, ValueError, "softcapping must be 1e-08 to 1e+08 (1.0 = no softcap), got 0.0"),
    (OUT, {"softcapping": math.nan}, ValueError, "softcapping must be 1e-08 to 1e+08 (1.0 = no softcap), got nan"),
    # alibi_slopes
    (VARLEN, {"alibi_slopes": 1.0}, TypeError, "alibi_slopes must be a tensor or None, got float"),
    (OUT, {"alibi_slopes": torch.ones(4).half()}, TypeError, "alibi_slopes must be one of torch.float32, got"),
    (
        VARLEN,
        {"alibi_slopes": torch.ones(3, 4)},
        ValueError,
        "alibi_slopes must have shape [heads] = (4,) or [batch, heads] = (2, 4), got shape (3, 4)",
    ),
    (DENSE, {"alibi_slopes": torch.ones(2, 4)}, ValueError, "[batch, heads] = (1, 4), got shape (2, 4)"),
    (VARLEN, {"alibi_slopes": torch.ones(2)}, ValueError, "alibi_slopes must have shape [heads] = (4,) or"),
    (
        DENSE,
        {"alibi_slopes": torch.ones(4, device=META)},
        ValueError,
        "alibi_slopes must be on the device of the query, cpu, got meta",
    ),
    (
        VARLEN,
        {"alibi_slopes": torch.ones(4, requires_grad=True)},
        NotImplementedError,
        "the gradient of alibi_slopes is not implemented: alibi_slopes must not require grad",
    ),
    # sinks
    (VARLEN, {"s_aux": 1.0}, TypeError, "s_aux must be a tensor or None, got float"),
    (VARLEN, {"s_aux": int32(1, 2, 3, 4)}, TypeError, f"s_aux must be one of {FLOATS}, torch.float64, got torch.int32"),
    (OUT, {"s_aux": torch.ones(2)}, ValueError, "s_aux must have shape [heads] = (4,), got shape (2,)"),
    (DENSE, {"learnable_sink": torch.ones(2)}, ValueError, "learnable_sink must have shape [heads] = (4,), got"),
    (DENSE, {"s_aux": torch.ones(4, device=META)}, ValueError, "s_aux must be on the device of the query, cpu, got"),
    (
        VARLEN,
        {"s_aux": torch.ones(4), "learnable_sink": torch.ones(4)},
        ValueError,
        "s_aux and learnable_sink are two names of one argument: pass only one of them, got both",
    ),
    # seqused_k
    (VARLEN, {"seqused_k": [3, 5]}, TypeError, "seqused_k must be a tensor or None, got list"),
    (OUT, {"seqused_k": int32(3, 5).long()}, TypeError, "seqused_k must be one of torch.int32, got torch.int64"),
    (VARLEN, {"seqused_k": int32(3, 5, 0)}, ValueError, "seqused_k must have shape [batch] = (2,), got shape (3,)"),
    (VARLEN, {"seqused_k": int32(3, 5)[None]}, ValueError, "seqused_k must have shape [batch] = (2,), got shape (1,"),
    (
        VARLEN,
        {"seqused_k": int32(3, 5).to(META)},
        ValueError,
        "seqused_k must be on the device of the query, cpu, got meta",
    ),
    # block_table
    (DENSE, {"block_table": int32(0)[None]}, ValueError, "block_table must be None: keys and values of flash_attn"),
    (VARLEN, {"block_table": int32(0, 1)[:, None]}, ValueError, f"k must have 4 dimensions {PAGED_LAYOUT}, got shape"),
    (VARLEN, {"k": torch.zeros(4, 16, 2, 8)}, ValueError, "k must have 3 dimensions [total, heads, head_dim], got"),
    (VARLEN, {"cu_seqlens_k": None}, TypeError, "cu_seqlens_k must be a tensor, got NoneType"),
    (
        VARLEN,
        {"cu_seqlens_k": None, "seqused_k": int32(3, 5)},  # without pages, seqused_k only shortens
        TypeError,
        "cu_seqlens_k must be a tensor, got NoneType",
    ),
]  # fmt: skip

PAGED_ERRORS = [
    (VARLEN, {"block_table": torch.zeros(2, 1)}, TypeError, "block_table must be one of torch.int32, got"),
    (
        VARLEN,
        {"block_table": int32(0, 1)},
        ValueError,
        "block_table must have shape [batch, max_pages] with batch 2, got shape (2,)",
    ),
    (
        OUT,
        {"block_table": int32(0, 1, 2)[:, None]},
        ValueError,
        "block_table must have shape [batch, max_pages] with batch 2, got shape (3, 1)",
    ),
    (
        VARLEN,
        {"block_table": torch.zeros(2, 2, dtype=torch.int32, device=META)},
        ValueError,
        "block_table must be on the device of the query, cpu, got meta",
    ),
    (
        VARLEN,
        {"cu_seqlens_k": None},
        ValueError,
        "block_table needs the lengths of the sequences: cu_seqlens_k or seqused_k, got neither",
    ),
    (
        OUT,
        {"key": torch.zeros(4, 24, 2, 8)},
        ValueError,
        f"key must have a page_size that is a multiple of 16 in its layout {PAGED_LAYOUT}, got shape (4, 24, 2, 8)",
    ),
    (VARLEN, {"v": torch.zeros(4, 0, 2, 8)}, ValueError, "v must have a page_size that is a multiple of 16 in"),
    (VARLEN, {"v": torch.zeros(3, 16, 2, 8)}, ValueError, "v must have the shape of k up to head_dim, (4, 16, 2), got"),
    (VARLEN, {"k": torch.zeros(4, 16, 2, 4)}, ValueError, "k must have the head_dim of q, 8, got shape (4, 16, 2, 4)"),
    (
        VARLEN,
        {"k": torch.zeros(4, 16, 3, 8), "v": torch.zeros(4, 16, 3, 8)},
        ValueError,
        "the number of heads of q, 4, must be a multiple of that of k, got 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize("function, changes, error, message", ERRORS, ids=[f"{e[0]}-{e[3][:60]}" for e in ERRORS])
def test_error(kernel, function, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(kernel, function, **changes)


@pytest.mark.parametrize("function, changes, error, message", PAGED_ERRORS, ids=[e[3][:60] for e in PAGED_ERRORS])
def test_paged_error(kernel, function, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(kernel, function, paged=True, **changes)


SOUND = {
    "softcap": {"softcap": 1.0},
    "alibi_slopes": {"alibi_slopes": torch.ones(4)},
    "s_aux": {"s_aux": torch.ones(4, dtype=torch.float64)},
    "learnable_sink": {"learnable_sink": torch.ones(4).bfloat16()},
}


@pytest.mark.parametrize("function", [VARLEN, DENSE])
@pytest.mark.parametrize("changes", SOUND.values(), ids=SOUND)
def test_the_unchanged_call_is_sound(kernel, function, changes):
    call(kernel, function, **changes)


@pytest.mark.parametrize("function", [VARLEN, OUT])
@pytest.mark.parametrize("changes", [{}, {"seqused_k": int32(3, 5)}, {"seqused_k": int32(3, 5), "cu_seqlens_k": None}])
def test_the_unchanged_paged_call_is_sound(kernel, function, changes):
    call(kernel, function, paged=True, **changes)


def test_slopes_that_require_grad_without_gradients(kernel):
    with torch.no_grad():
        call(kernel, VARLEN, alibi_slopes=torch.ones(4, requires_grad=True))


PAGES = int32(0, 1, 2, 3).view(2, 2)

# paged, changed arguments, message
WRONG_VALUES = [
    (False, {"seqused_k": int32(3, 6)}, "seqused_k must be 0 to the sequence's 5 tokens, got 6 at index 1"),
    (False, {"seqused_k": int32(-1, 5)}, "seqused_k must be 0 to the sequence's 3 tokens, got -1 at index 0"),
    (False, {"seqused_k": int32(3, 5), "max_seqlen_k": 4}, "max_seqlen_k must be at least the longest sequence, 5,"),
    (True, {"seqused_k": int32(33, 0)}, "seqused_k must be 0 to the sequence's 32 tokens, got 33 at index 0"),
    (True, {"seqused_k": int32(3, 20), "max_seqlen_k": 8}, "max_seqlen_k must be at least the longest sequence, 20,"),
    (True, {"cu_seqlens_k": int32(0, 3, 36)}, "cu_seqlens_k must give no sequence more than the 32 tokens of its"),
    (True, {"cu_seqlens_k": int32(5, 3, 5)}, "cu_seqlens_k must never decrease, got 5 before 3 at index 0"),
    (True, {"block_table": PAGES - 1}, "block_table must hold numbers of the 4 pages, from 0, got -1 for sequence 0"),
    (True, {"block_table": PAGES + 2}, "block_table must hold numbers of the 4 pages, from 0, got 4 for sequence 1"),
]  # fmt: skip


@pytest.mark.parametrize("function", [VARLEN, OUT])
@pytest.mark.parametrize("paged, changes, message", WRONG_VALUES, ids=[case[2] for case in WRONG_VALUES])
def test_value_checks(kernel, monkeypatch, function, paged, changes, message):
    call(kernel, function, paged, **changes)  # not read by default
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(kernel, function, paged, **changes)


def test_value_checks_pass_sound_values(kernel, monkeypatch):
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    call(kernel, VARLEN, seqused_k=int32(0, 5))
    call(kernel, VARLEN, seqused_k=int32(3, 2), max_seqlen_k=3)
    call(kernel, VARLEN, paged=True)
    call(kernel, VARLEN, paged=True, cu_seqlens_k=int32(100, 103, 135), max_seqlen_k=32)  # lengths only
    call(kernel, VARLEN, paged=True, cu_seqlens_k=None, seqused_k=int32(32, 0), max_seqlen_k=32)
    unused = int32(0, -1, 3, 10**9).view(2, 2)  # the sequences need one page each
    call(kernel, VARLEN, paged=True, block_table=unused)
