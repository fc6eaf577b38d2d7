"""Every error of the functions that flash-attn 2 has beside the two basic ones: its type and its message."""

from __future__ import annotations

import math
import re

import pytest
import torch

QKV, KV, VARLEN_QKV, VARLEN_KV = (
    f"flash_attn_{kind}packed_func" for kind in ("qkv", "kv", "varlen_qkv", "varlen_kv")
)  # fmt: skip
CACHE = "flash_attn_with_kvcache"
META = torch.device("meta")


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def good_arguments(function: str) -> dict:
    """A sound call: 4 query heads, head_dim 8; 2 key/value heads where they can be fewer; a cache of 3 rows of 32."""
    cu_seqlens = int32(0, 3, 8)
    return {
        QKV: {"qkv": torch.zeros(2, 5, 3, 4, 8)},
        KV: {"q": torch.zeros(2, 5, 4, 8), "kv": torch.zeros(2, 6, 2, 2, 8)},
        VARLEN_QKV: {"qkv": torch.zeros(8, 3, 4, 8), "cu_seqlens": cu_seqlens, "max_seqlen": 5},
        VARLEN_KV: {
            "q": torch.zeros(8, 4, 8),
            "kv": torch.zeros(8, 2, 2, 8),
            "cu_seqlens_q": cu_seqlens,
            "cu_seqlens_k": cu_seqlens,
            "max_seqlen_q": 5,
            "max_seqlen_k": 5,
        },
        CACHE: {"q": torch.zeros(2, 1, 4, 8), "k_cache": torch.zeros(3, 32, 2, 8), "v_cache": torch.zeros(3, 32, 2, 8)},
    }[function]


NEW = torch.zeros(2, 4, 2, 8)
APPEND = {"k": NEW, "v": NEW, "cache_seqlens": int32(3, 5)}
ANGLES = torch.zeros(32, 4)
ROTARY = {**APPEND, "rotary_cos": ANGLES, "rotary_sin": ANGLES}
PAGES = {"block_table": int32(0, 1, 2, 0).view(2, 2)}  # the rows of the cache as pages


def call(kernel, function: str, **changes):
    return getattr(kernel, function)(**{**good_arguments(function), **changes})


# Arguments that several functions share: changed arguments, error, its message
COMMON = [
    ({"softmax_scale": "1"}, TypeError, "softmax_scale must be a float or None, got str"),
    ({"softmax_scale": math.nan}, ValueError, "softmax_scale must be finite and -1e+08 to 1e+08, got nan"),
    ({"causal": 1}, TypeError, "causal must be a bool, got int"),
    ({"window_size": 4}, TypeError, "window_size must be a pair of ints (left, right), got int"),
    ({"window_size": (4,)}, ValueError, "window_size must be a pair of ints (left, right), got (4,)"),
    ({"window_size": (-2, 0)}, ValueError, "window_size must be -1 (unbounded) or more on both sides, got (-2, 0)"),
    ({"softcap": None}, TypeError, "softcap must be a float, got NoneType"),
    ({"softcap": -1.0}, ValueError, "softcap must be 0.0 (none) or 1e-08 to 1e+08, got -1.0"),
    ({"alibi_slopes": [1.0]}, TypeError, "alibi_slopes must be a tensor or None, got list"),
    ({"alibi_slopes": torch.ones(3, 4)}, ValueError, "alibi_slopes must have shape [heads] = (4,) or [batch, heads]"),
    ({"alibi_slopes": torch.ones(4, device=META)}, ValueError, "alibi_slopes must be on the device of the query, cpu,"),
    ({"alibi_slopes": torch.ones(4).requires_grad_()}, NotImplementedError, "the gradient of alibi_slopes is not"),
]
DROPOUT = [
    ({"dropout_p": "0"}, TypeError, "dropout_p must be a float, got str"),
    ({"dropout_p": 1.0}, ValueError, "dropout_p must be 0.0 or more and less than 1.0, got 1.0"),
    ({"dropout_p": math.nan}, ValueError, "dropout_p must be 0.0 or more and less than 1.0, got nan"),
    ({"deterministic": None}, TypeError, "deterministic must be a bool, got NoneType"),
    ({"return_attn_probs": 1}, TypeError, "return_attn_probs must be a bool, got int"),
]
SHARED = [(name, *error) for name in (QKV, KV, VARLEN_QKV, VARLEN_KV) for error in COMMON + DROPOUT]
SHARED += [(CACHE, *error) for error in COMMON]

PACKED = [
    (QKV, {"qkv": None}, TypeError, "qkv must be a tensor, got NoneType"),
    (QKV, {"qkv": torch.zeros(2, 5, 4, 8)}, ValueError, "qkv must have shape [batch, seqlen, 3, heads, head_dim], got"),
    (QKV, {"qkv": torch.zeros(2, 5, 2, 4, 8)}, ValueError, "qkv must have shape [batch, seqlen, 3, heads, head_dim]"),
    (QKV, {"qkv": torch.zeros(2, 5, 3, 4, 8).double()}, TypeError, "qkv[:, :, 0] must be one of torch.float32, torch."),
    (QKV, {"qkv": torch.zeros(2, 5, 3, 4, 577)}, ValueError, "qkv[:, :, 0] must have a head_dim of 1 to 576, got 577"),
    (QKV, {"qkv": torch.zeros(2, 5, 3, 4, 576)}, ValueError, "qkv[:, :, 2] must have a head_dim of 1 to 512, got 576"),
    (VARLEN_QKV, {"qkv": torch.zeros(8, 2, 4, 8)}, ValueError, "qkv must have shape [total, 3, heads, head_dim], got"),
    (VARLEN_QKV, {"qkv": torch.zeros(8, 3, 0, 8)}, ValueError, "qkv[:, 0] must have at least one head, got shape"),
    (VARLEN_QKV, {"cu_seqlens": None}, TypeError, "cu_seqlens must be a tensor, got NoneType"),
    (VARLEN_QKV, {"cu_seqlens": int32(0, 8)[None]}, ValueError, "cu_seqlens must have shape [batch + 1], got shape"),
    (VARLEN_QKV, {"max_seqlen": -1}, ValueError, "max_seqlen must be 0 to 2147483647, got -1"),
    (VARLEN_QKV, {"max_seqlen": 1.5}, TypeError, "max_seqlen must be of integer type, got float"),
    (KV, {"kv": torch.zeros(2, 6, 3, 2, 8)}, ValueError, "kv must have shape [batch, seqlen, 2, heads, head_dim], got"),
    (KV, {"kv": torch.zeros(1, 6, 2, 2, 8)}, ValueError, "kv[:, :, 0] must have the batch size of q, 2, got shape"),
    (
        KV,
        {"kv": torch.zeros(2, 6, 2, 3, 8)},
        ValueError,
        "heads of q, 4, must be a multiple of that of kv[:, :, 0], got 3",
    ),
    (KV, {"kv": torch.zeros(2, 6, 2, 2, 9)}, ValueError, "kv[:, :, 0] must have the head_dim of q, 8, got shape"),
    (
        KV,
        {"q": torch.zeros(2, 5, 8)},
        ValueError,
        "q must have 4 dimensions [batch, seqlen, heads, head_dim], got shape",
    ),
    (VARLEN_KV, {"kv": torch.zeros(8, 2, 2, 8).half()}, TypeError, "kv[:, 0] must have the dtype of q, torch.float32"),
    (VARLEN_KV, {"kv": torch.zeros(8, 2, 2, 8, device=META)}, ValueError, "kv[:, 0] must be on the device of q, cpu,"),
    (VARLEN_KV, {"cu_seqlens_k": int32(0, 8)}, ValueError, "cu_seqlens_k must be as long as cu_seqlens_q, 3, got 2"),
    (VARLEN_KV, {"max_seqlen_k": None}, TypeError, "max_seqlen_k must be of integer type, got NoneType"),
]

CACHES = [
    ({"q": torch.zeros(2, 4, 8)}, ValueError, "q must have 4 dimensions [batch, seqlen, heads, head_dim], got shape"),
    (
        {"q": torch.zeros(4, 1, 4, 8)},
        ValueError,
        "k_cache must have at least the batch size of q, 4, without cache_batch",
    ),
    ({"k_cache": None}, TypeError, "k_cache must be a tensor, got NoneType"),
    (
        {"v_cache": torch.zeros(3, 31, 2, 8)},
        ValueError,
        "v_cache must have the shape of k_cache up to head_dim, (3, 32, 2)",
    ),
    (
        {"k_cache": torch.zeros(3, 2, 8)},
        ValueError,
        "k_cache must have 4 dimensions [batch_cache, seqlen_cache, heads, ",
    ),
    ({"k_cache": torch.zeros(3, 32, 2, 8).half()}, TypeError, "k_cache must have the dtype of q, torch.float32, got"),
    (
        {"v_cache": torch.zeros(3, 32, 2, 8, device=META)},
        ValueError,
        "v_cache must be on the device of q, cpu, got meta",
    ),
    (
        {"k_cache": torch.zeros(3, 32, 3, 8), "v_cache": torch.zeros(3, 32, 3, 8)},
        ValueError,
        "the number of heads of q, 4, must be a multiple of that of k_cache, got 3",
    ),
    (
        {"v_cache": torch.zeros(3, 32, 8, 2).mT},
        ValueError,
        "v_cache must have a contiguous last dimension, got strides",
    ),
    # k, v
    ({**APPEND, "v": None}, ValueError, "k and v must be given together, got k alone"),
    ({**APPEND, "k": None}, ValueError, "k and v must be given together, got v alone"),
    ({**APPEND, "k": NEW.half()}, TypeError, "k must have the dtype of q, torch.float32, got torch.float16"),
    ({**APPEND, "v": NEW[:, :3]}, ValueError, "v must have the shape of k up to head_dim, (2, 4, 2), got shape"),
    ({**APPEND, "k": NEW[:1]}, ValueError, "k must have the batch size of q, 2, got shape (1, 4, 2, 8)"),
    (
        {**APPEND, "k": torch.zeros(2, 4, 4, 8), "v": torch.zeros(2, 4, 4, 8)},
        ValueError,
        "k must have the heads and head_dim of k_cache, (2, 8), got shape (2, 4, 4, 8)",
    ),
    (
        {**APPEND, "v": torch.zeros(2, 4, 2, 5)},
        ValueError,
        "v must have the heads and head_dim of v_cache, (2, 8), got",
    ),
    (
        {**APPEND, "k": torch.zeros(2, 33, 2, 8), "v": torch.zeros(2, 33, 2, 8)},
        ValueError,
        "k must fit into the cache, 32 tokens for each sequence, got shape (2, 33, 2, 8)",
    ),
    ({**APPEND, "cache_seqlens": None}, ValueError, "cache_seqlens must say where k and v are appended, got None"),
    # cache_seqlens, cache_batch_idx, cache_leftpad, block_table
    ({"cache_seqlens": 33}, ValueError, "cache_seqlens must be 0 to 32, got 33"),
    ({**APPEND, "cache_seqlens": 29}, ValueError, "cache_seqlens must be 0 to 28, got 29"),
    ({"cache_seqlens": -1}, ValueError, "cache_seqlens must be 0 to 32, got -1"),
    ({"cache_seqlens": 3.0}, TypeError, "cache_seqlens must be of integer type, got float"),
    (
        {"cache_seqlens": torch.tensor([3.0, 5.0])},
        TypeError,
        "cache_seqlens must be one of torch.int32, torch.int64, got",
    ),
    ({"cache_seqlens": int32(3)}, ValueError, "cache_seqlens must have shape [batch] = (2,), got shape (1,)"),
    ({"cache_seqlens": int32(3, 5).to(META)}, ValueError, "cache_seqlens must be on the device of the query, cpu, got"),
    ({"cache_batch_idx": [0, 1]}, TypeError, "cache_batch_idx must be a tensor or None, got list"),
    ({"cache_batch_idx": int32(0, 1, 2)}, ValueError, "cache_batch_idx must have shape [batch] = (2,), got shape (3,)"),
    ({"cache_leftpad": int32(0, 1).float()}, TypeError, "cache_leftpad must be one of torch.int32, torch.int64, got"),
    (
        {"cache_leftpad": int32(0, 1)[None]},
        ValueError,
        "cache_leftpad must have shape [batch] = (2,), got shape (1, 2)",
    ),
    ({**PAGES, "cache_batch_idx": int32(0, 1)}, ValueError, "cache_batch_idx must be None with block_table"),
    ({**PAGES, "cache_leftpad": int32(0, 1)}, NotImplementedError, "cache_leftpad is not implemented for paged caches"),
    (
        {"block_table": int32(0, 1)},
        ValueError,
        "block_table must have shape [batch, max_pages] with batch 2, got shape",
    ),
    (
        {"block_table": PAGES["block_table"].long()},
        TypeError,
        "block_table must be one of torch.int32, got torch.int64",
    ),
    (
        {**PAGES, "k_cache": torch.zeros(3, 20, 2, 8), "v_cache": torch.zeros(3, 20, 2, 8)},
        ValueError,
        "k_cache must have a page_size that is a multiple of 16 in its layout",
    ),
    # rotary_cos, rotary_sin, rotary_interleaved
    ({"rotary_cos": ANGLES, "rotary_sin": ANGLES}, ValueError, "rotary_cos and rotary_sin need new keys to rotate"),
    ({**ROTARY, "rotary_sin": None}, TypeError, "rotary_sin must be a tensor, got NoneType"),
    (
        {**ROTARY, "rotary_cos": ANGLES.double()},
        TypeError,
        "rotary_cos must be one of torch.float32, torch.float32, got",
    ),
    (
        {**ROTARY, "rotary_cos": ANGLES[:31]},
        ValueError,
        "rotary_cos must have shape [positions, rotary_dim / 2] with at",
    ),
    (
        {**ROTARY, "rotary_cos": torch.zeros(32, 5)},
        ValueError,
        "a rotary_dim of 2 to the head_dim, 8, got shape (32, 5)",
    ),
    ({**ROTARY, "rotary_sin": ANGLES[:, :3]}, ValueError, "rotary_sin must have the shape of rotary_cos, (32, 4), got"),
    ({**ROTARY, "rotary_sin": ANGLES.to(META)}, ValueError, "rotary_sin must be on the device of q, cpu, got meta"),
    ({**ROTARY, "rotary_interleaved": 1}, TypeError, "rotary_interleaved must be a bool, got int"),
    # num_splits, return_softmax_lse, sinks
    ({"num_splits": -1}, ValueError, "num_splits must be 0 to 128, got -1"),
    ({"num_splits": 129}, ValueError, "num_splits must be 0 to 128, got 129"),
    ({"num_splits": None}, TypeError, "num_splits must be of integer type, got NoneType"),
    ({"return_softmax_lse": None}, TypeError, "return_softmax_lse must be a bool, got NoneType"),
    ({"s_aux": torch.ones(2)}, ValueError, "s_aux must have shape [heads] = (4,), got shape (2,)"),
    (
        {"s_aux": torch.ones(4), "learnable_sink": torch.ones(4)},
        ValueError,
        "s_aux and learnable_sink are two names of one",
    ),
]
ERRORS = SHARED + PACKED + [(CACHE, *error) for error in CACHES]


@pytest.mark.parametrize("function, changes, error, message", ERRORS, ids=[f"{e[0]}-{e[3][:60]}" for e in ERRORS])
def test_error(kernel, function, changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(kernel, function, **changes)


@pytest.mark.parametrize("function", [QKV, KV, VARLEN_QKV, VARLEN_KV, CACHE])
def test_the_unchanged_call_is_sound(kernel, function):
    call(kernel, function)


@pytest.mark.parametrize("changes", [APPEND, ROTARY, PAGES, {**PAGES, **ROTARY}])
def test_the_unchanged_call_of_a_cache_is_sound(kernel, changes):
    if "rotary_cos" in changes:  # as long as two pages
        changes = {**changes, "rotary_cos": torch.zeros(64, 4), "rotary_sin": torch.zeros(64, 4)}
    call(kernel, CACHE, **changes)


def test_nothing_is_written_by_a_refused_call(kernel):
    caches = {"k_cache": torch.zeros(3, 32, 2, 8), "v_cache": torch.zeros(3, 32, 2, 8)}
    new = {"k": NEW + 1, "v": NEW + 1, "cache_seqlens": 3}
    with pytest.raises(ValueError, match="num_splits"):
        call(kernel, CACHE, **caches, **new, num_splits=-1)
    assert not caches["k_cache"].any() and not caches["v_cache"].any()


# changed arguments, message
WRONG_VALUES = [
    (
        {"cache_seqlens": int32(3, 33)},
        "cache_seqlens must be 0 to 32, what the cache can hold beside the new tokens, got 33",
    ),
    (
        {**APPEND, "cache_seqlens": int32(29, 0)},
        "cache_seqlens must be 0 to 28, what the cache can hold beside the new",
    ),
    ({"cache_seqlens": int32(-1, 3)}, "got -1 at index 0"),
    (
        {"cache_batch_idx": int32(0, 3)},
        "cache_batch_idx must hold numbers of the cache's 3 rows, from 0, got 3 at index 1",
    ),
    ({"cache_batch_idx": int32(-1, 0)}, "cache_batch_idx must hold numbers of the cache's 3 rows, from 0, got -1 at"),
    (
        {"cache_seqlens": int32(3, 5), "cache_leftpad": int32(3, 6)},
        "cache_leftpad must be 0 to the sequence's cache_seqlens, 5, got 6 at index 1",
    ),
    ({"cache_leftpad": int32(-1, 0)}, "cache_leftpad must be 0 to the sequence's cache_seqlens, 32, got -1 at index 0"),
    (
        {"block_table": PAGES["block_table"] + 1},
        "block_table must hold numbers of the 3 pages, from 0, got 3 for sequence",
    ),
]


@pytest.mark.parametrize("changes, message", WRONG_VALUES, ids=[case[1][:60] for case in WRONG_VALUES])
def test_value_checks(kernel, monkeypatch, changes, message):
    call(kernel, CACHE, **changes)  # not read by default
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        call(kernel, CACHE, **changes)


def test_value_checks_pass_sound_values(kernel, monkeypatch):
    monkeypatch.setattr(kernel.checks.tensors, "CHECK_VALUES", True)
    call(kernel, CACHE, **APPEND, cache_batch_idx=int32(2, 0), cache_leftpad=int32(3, 0))
    call(kernel, CACHE, cache_seqlens=int32(3, 30), block_table=int32(0, -1, 2, 9).view(2, 2))  # a page each is enough
