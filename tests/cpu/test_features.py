"""Optional features on the CPU implementation: numbers, gradients, memory, values that lie."""

from __future__ import annotations

import pytest
import torch
from cases import call_of, dense, max_lengths, packed, random_tensor
from chunks import LargestTensor, call_directly, chunk_sizes
from reference import assert_gradients, assert_lse, assert_output, attention, gradients

LENGTHS = [(40, 40), (7, 33), (33, 7), (1, 50), (0, 5), (5, 0), (64, 64)]
BATCH, HEADS, HEADS_KV, PAGE_SIZE = len(LENGTHS), 4, 2, 16
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0])
SINKS = torch.tensor([0.7, -1.5, 3.0, -torch.inf])

# By name: arguments of the reference.
FEATURES = {
    "softcap": {"softcap": 5.0},
    "softcap of one": {"softcap": 1.0},
    "alibi": {"alibi_slopes": SLOPES},
    "alibi of each sequence": {"alibi_slopes": random_tensor(9, BATCH, HEADS).abs()},
    "sinks": {"sinks": SINKS},
    "seqused_k": {"seqused_k": torch.tensor([40, 20, 0, 49, 3, 0, 1], dtype=torch.int32)},
    "all": {
        "softcap": 30.0,
        "alibi_slopes": SLOPES,
        "sinks": SINKS,
        "seqused_k": torch.tensor([17, 33, 7, 1, 5, 0, 64], dtype=torch.int32),
    },
}
WINDOWS = [(-1, -1), (-1, 0), (5, 0), (4, 4)]


def arguments_of(features: dict) -> dict:
    """The reference's arguments as the public functions'."""
    return {"s_aux" if name == "sinks" else name: value for name, value in features.items()}


def paged(key, value, cu_k, spare_pages=3, seed=5):
    """The packed keys and values in pages of a shuffled cache, NaN where there is none, and the block table."""
    lengths = cu_k.diff().tolist()
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    order = torch.randperm(sum(counts) + spare_pages, generator=torch.Generator().manual_seed(seed)).tolist()
    table = torch.full((len(lengths), max(counts) + 1), -1, dtype=torch.int32)
    caches = [torch.full((len(order), PAGE_SIZE, *tensor.shape[1:]), torch.nan) for tensor in (key, value)]
    for b, (begin, length) in enumerate(zip(cu_k.tolist(), lengths)):
        for page in range(counts[b]):
            table[b, page] = order.pop()
            rows = slice(begin + page * PAGE_SIZE, begin + min(length, (page + 1) * PAGE_SIZE))
            for cache, tensor in zip(caches, (key, value)):
                cache[table[b, page], : rows.stop - rows.start] = tensor[rows]
    return (*(cache.to(key.dtype) for cache in caches), table)


def batch_of(dtype=torch.float32, value_head_dim=24):
    query, key, _, cu_q, cu_k = packed(LENGTHS, HEADS, HEADS_KV, 16, dtype)
    value = random_tensor(3, key.shape[0], HEADS_KV, value_head_dim, dtype=dtype)
    return query, key, value, cu_q, cu_k


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("scores, rows", [(2**20, 64), (700, 4)])
def test_packed(kernel, monkeypatch, scores, rows, features, window):
    chunk_sizes(kernel, monkeypatch, scores, rows)
    batch = batch_of()
    longest = max_lengths(*batch[3:])
    expected, expected_lse = attention(*batch, window=window, **features)
    arguments = {"window_size": window, **arguments_of(features)}
    output, lse, _ = kernel.flash_attn_varlen_func(*batch, *longest, return_attn_probs=True, **arguments)
    assert_output(output, expected, batch[2])
    assert_lse(lse, expected_lse)
    assert_output(kernel.flash_attn_varlen_func(*batch, *longest, **arguments), expected, batch[2])
    arguments["softcapping"] = arguments.pop("softcap", 1.0)
    if features.get("softcap") != 1.0:  # no softcap to this function
        out = torch.full_like(expected, torch.nan, dtype=torch.float32)
        kernel.flash_attention_varlen(out, *batch, *longest, **arguments)
        assert_output(out, expected, batch[2])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("features", [{}, FEATURES["all"]], ids=["none", "all"])
def test_paged(kernel, monkeypatch, features, dtype, window):
    """The same bits as from packed keys: by cu_seqlens_k or seqused_k, in one chunk or many."""
    query, key, value, cu_q, cu_k = batch_of(dtype)
    longest = max_lengths(cu_q, cu_k)
    features = dict(features)
    used = features.pop("seqused_k", None)
    expected, expected_lse = attention(query, key, value, cu_q, cu_k, window=window, seqused_k=used, **features)
    key_cache, value_cache, table = paged(key, value, cu_k)
    arguments = {"window_size": window, "block_table": table, "return_attn_probs": True, **arguments_of(features)}
    lengths = cu_k.diff().int() if used is None else torch.minimum(cu_k.diff(), used).int()
    ways = [(None, lengths), (cu_k - 9, lengths)] + ([(cu_k + 7, None)] if used is None else [])
    for scores in (2**20, 700):
        chunk_sizes(kernel, monkeypatch, scores, 4)
        for cu_seqlens_k, seqused_k in ways:
            output, lse, _ = kernel.flash_attn_varlen_func(
                query, key_cache, value_cache, cu_q, cu_seqlens_k, *longest, seqused_k=seqused_k, **arguments
            )
            assert_output(output, expected, value)
            assert_lse(lse, expected_lse)


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_dense(kernel, features):
    """By the operator, as no public function takes dense queries with seqused_k or pages yet."""
    batch = 3
    query, key, _ = dense(batch, 9, 50, HEADS, HEADS_KV, 16, torch.float32)
    value = random_tensor(3, batch, 50, HEADS_KV, 24)
    features = {name: tensor[:batch] if "seq" in name else tensor for name, tensor in features.items()}
    if features.get("alibi_slopes", SLOPES).dim() == 2:
        features["alibi_slopes"] = features["alibi_slopes"][:batch].contiguous()
    named = {"softmax_scale": 0.25, "window_right": 0, "max_seqlen_k": 50, **features}
    expected, expected_lse = attention(query, key, value, window=(-1, 0), **features)
    output, lse, _ = kernel.operators.attention_forward(*call_of(kernel, query, key, value, **named), True, False)
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)

    used = features.get("seqused_k", torch.full((batch,), 50, dtype=torch.int32))
    cu_k = torch.arange(0, 50 * batch + 1, 50)
    *cache, table = paged(key.flatten(0, 1), value.flatten(0, 1), cu_k)
    named |= {"seqused_k": used, "block_table": table}
    output, lse, _ = kernel.operators.attention_forward(*call_of(kernel, query, *cache, **named), True, False)
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)
    if used.min() == 50 and "seqused_k" not in features:
        output = kernel.flash_attn_func(query, key, value, causal=True, softmax_scale=0.25, **arguments_of(features))
        assert_output(output, expected, value)


def test_two_names_and_any_dtype_of_sinks(kernel):
    query, key, value = dense(2, 5, 9, HEADS, HEADS_KV, 16, torch.bfloat16)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        sinks = SINKS.to(dtype)
        expected = attention(query, key, value, sinks=sinks)[0]
        assert_output(kernel.flash_attn_func(query, key, value, s_aux=sinks), expected, value)
        assert_output(kernel.flash_attn_func(query, key, value, learnable_sink=sinks), expected, value)


@pytest.mark.parametrize("softcap", [1e-8, 5.0, 50.0, 1e8])
@pytest.mark.parametrize("size", [1.0, 60.0])
def test_softcap_masks_after_the_cap(kernel, softcap, size):
    """Saturated or not, nothing leaks from masked keys, and a cap beyond all scores changes nothing."""
    query, key, value = dense(1, 33, 70, 2, 1, 32, torch.float16)
    query = query * size
    expected, expected_lse = attention(query, key, value, window=(3, 0), softcap=softcap)
    output, lse, _ = kernel.flash_attn_func(
        query, key, value, causal=True, window_size=(3, 0), softcap=softcap, return_attn_probs=True
    )
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)


def test_rows_without_keys_ignore_sinks(kernel):
    query, key, value = dense(1, 9, 4, 2, 1, 16, torch.float32)
    output, lse, _ = kernel.flash_attn_func(query, key, value, causal=True, s_aux=SINKS[:2], return_attn_probs=True)
    assert not output[:, :5].any() and (lse[..., :5] == -torch.inf).all()
    assert lse[..., 5:].isfinite().all()


@pytest.mark.parametrize("scores", [2**20, 600])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("with_lse", [False, True], ids=["output", "output and lse"])
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_gradients(kernel, monkeypatch, features, with_lse, window, scores):
    chunk_sizes(kernel, monkeypatch, scores, 1)
    query, key, value, cu_q, cu_k = batch_of()
    inputs = [query, key, value] + ([features["sinks"]] if "sinks" in features else [])
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    others = {name: tensor for name, tensor in features.items() if name != "sinks"}
    sinks = {"s_aux": inputs[3]} if "sinks" in features else {}
    output, lse, _ = kernel.flash_attn_varlen_func(
        *inputs[:3], cu_q, cu_k, 64, 64, window_size=window, return_attn_probs=True, **others, **sinks
    )
    grad_output, grad_lse = random_tensor(7, *output.shape), random_tensor(8, *lse.shape)
    if with_lse:
        grads = torch.autograd.grad([output, lse], inputs, [grad_output, grad_lse])
    else:
        grads, grad_lse = torch.autograd.grad(output, inputs, grad_output), None
    places = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "window": window}
    assert_gradients(grads, gradients(inputs, grad_output, grad_lse, **places, **others), inputs, torch.float32)


@pytest.mark.parametrize("scores", [2**20, 600])
def test_gradients_of_pages(kernel, monkeypatch, scores):
    """Pages that sequences share, or that one repeats, get the sum."""
    chunk_sizes(kernel, monkeypatch, scores, 1)
    query, _, _, cu_q, cu_k = batch_of()
    caches = [random_tensor(seed, 3, PAGE_SIZE, HEADS_KV, head_dim) for seed, head_dim in ((1, 16), (2, 24))]
    inputs = [tensor.requires_grad_() for tensor in (query, *caches, SINKS.clone())]
    table = torch.tensor([0, 1, 2, 2], dtype=torch.int32).repeat(BATCH, 1)
    output = kernel.flash_attn_varlen_func(
        *inputs[:3], cu_q, cu_k, 64, 64, causal=True, block_table=table, s_aux=inputs[3]
    )
    grad_output = random_tensor(7, *output.shape)
    grads = torch.autograd.grad(output, inputs, grad_output)
    places = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "window": (-1, 0), "block_table": table}
    assert_gradients(grads, gradients(inputs, grad_output, **places), inputs, torch.float32)


def test_gradients_of_sinks_alone(kernel):
    """With everything else frozen; in the dtype of the sinks; through flash_attention_varlen, too."""
    query, key, value, cu_q, cu_k = batch_of()
    sinks = SINKS.bfloat16().requires_grad_()
    output = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 64, 64, s_aux=sinks)
    out = torch.empty_like(output)
    kernel.flash_attention_varlen(out, query, key, value, cu_q, cu_k, 64, 64, s_aux=sinks)
    inputs, grad_output = (query, key, value, sinks), random_tensor(7, *output.shape)
    expected = gradients(inputs, grad_output, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    for result in (output, out):
        grads = torch.autograd.grad(result, sinks, grad_output)
        assert_gradients(grads, expected[3:], [sinks], torch.bfloat16)


# key length, window_size, features
LONG = [
    (6144, (-1, 0), {"softcap": 5.0, "alibi_slopes": SLOPES[:2], "s_aux": SINKS[:2]}),
    (6144, (63, 0), {}),
]


@pytest.mark.parametrize("seqlen_k, window, features", LONG, ids=["weights", "fused"])
def test_memory_is_bounded(kernel, monkeypatch, seqlen_k, window, features):
    """A cache of many long sequences: no operator makes a copy of it, nor of all scores."""
    chunk_sizes(kernel, monkeypatch, 2**17, 1)
    call_directly(kernel, monkeypatch)
    pages, batch = seqlen_k // PAGE_SIZE, 4
    cache = random_tensor(1, batch * pages, PAGE_SIZE, 2, 16)
    query = random_tensor(2, 1024 * batch, 2, 16)
    table = torch.arange(batch * pages, dtype=torch.int32).flip(0).view(batch, pages)
    cu_q = torch.arange(0, 1024 * batch + 1, 1024, dtype=torch.int32)
    lengths = torch.full((batch,), seqlen_k, dtype=torch.int32)
    with LargestTensor() as largest:
        kernel.flash_attn_varlen_func(
            query, cache, cache, cu_q, None, 1024, seqlen_k,
            window_size=window, block_table=table, seqused_k=lengths, **features
        )  # fmt: skip
    one_sequence = seqlen_k * 2 * 16
    assert largest.elements <= max(2**17, one_sequence if window[0] < 0 else 0, query.numel()) < cache.numel()


def test_memory_with_a_value_head_dim_of_its_own(kernel, monkeypatch):
    """PyTorch's fused attention would form all scores."""
    chunk_sizes(kernel, monkeypatch, 2**17, 1)
    call_directly(kernel, monkeypatch)
    query, key, _ = dense(1, 512, 2048, 1, 1, 16, torch.float32)
    with LargestTensor() as largest:
        kernel.flash_attn_func(query, key, key[..., :8].contiguous())
    assert largest.elements <= 2**17


def test_pages_out_of_sight_are_not_read(kernel):
    """Under a window, what lies before it: here a page of NaN."""
    seqlen_k, window = 64 * PAGE_SIZE, (10, 0)
    key = random_tensor(1, seqlen_k, HEADS_KV, 16)
    cu_q, cu_k = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([0, seqlen_k], dtype=torch.int32)
    key_cache, value_cache, table = paged(key, key, cu_k)
    key_cache, value_cache = (
        torch.cat([cache, torch.full_like(cache[:1], torch.nan)]) for cache in (key_cache, value_cache)
    )
    table[:, :62] = key_cache.shape[0] - 1
    query = random_tensor(2, 2, HEADS, 16)
    expected, _ = attention(query, key, key, cu_q, cu_k, window=window)
    output = kernel.flash_attn_varlen_func(
        query, key_cache, value_cache, cu_q, cu_k, 2, seqlen_k, window_size=window, block_table=table
    )
    assert_output(output, expected, key)


@pytest.mark.parametrize("used", [[-(2**31), 2**31 - 1], [-1, 7], [3, 10**6], [0, 0]])
@pytest.mark.parametrize("pages", [[[-1, 99], [2**31 - 1, -(2**31)]], [[0, 1], [2, 3]], [[], []]])
def test_lying_metadata_is_clamped(kernel, used, pages):
    query, key, value = random_tensor(0, 6, 2, 16), random_tensor(1, 4, 16, 2, 16), random_tensor(2, 4, 16, 2, 16)
    used, pages = torch.tensor(used, dtype=torch.int32), torch.tensor(pages, dtype=torch.int32)
    cu_q = torch.tensor([0, 2, 6], dtype=torch.int32)
    lying = torch.tensor([5, -(2**31), 2**31 - 1], dtype=torch.int32)
    for cu_k, seqused_k in ((None, used), (lying, None), (lying, used)):
        expected, expected_lse = attention(query, key, value, cu_q, cu_k, seqused_k=seqused_k, block_table=pages)
        leaf = query.clone().requires_grad_()
        output, lse, _ = kernel.flash_attn_varlen_func(
            leaf, key, value, cu_q, cu_k, 4, 32, block_table=pages, seqused_k=seqused_k, return_attn_probs=True
        )
        assert_output(output, expected, value)
        assert_lse(lse, expected_lse)
        assert torch.autograd.grad(output.sum(), leaf)[0].isfinite().all()


def test_seqused_beyond_the_packed_keys_is_clamped(kernel):
    batch = batch_of()
    huge = torch.full((BATCH,), 2**31 - 1, dtype=torch.int32)
    expected = kernel.flash_attn_varlen_func(*batch, 64, 64)
    assert torch.equal(kernel.flash_attn_varlen_func(*batch, 64, 64, seqused_k=huge), expected)
    output = kernel.flash_attn_varlen_func(*batch, 64, 64, seqused_k=-huge)
    assert torch.equal(output, torch.zeros_like(output))


def test_no_pages_at_all(kernel):
    query, cache = random_tensor(0, 6, 2, 16), torch.empty(0, 16, 2, 16)
    cu_q, table = torch.tensor([0, 2, 6], dtype=torch.int32), torch.zeros(2, 3, dtype=torch.int32)
    output = kernel.flash_attn_varlen_func(query, cache, cache, cu_q, cu_q, 4, 4, block_table=table)
    assert torch.equal(output, torch.zeros_like(query))


@pytest.mark.parametrize("sink", [1e30, torch.finfo(torch.float32).max, torch.inf])
def test_a_sink_that_takes_all_the_weight(kernel, sink):
    """No NaN, also not from the difference of two infinities."""
    inputs = [tensor.requires_grad_() for tensor in dense(1, 5, 9, 2, 2, 16, torch.float32)]
    output, lse, _ = kernel.flash_attn_func(*inputs, s_aux=torch.full((2,), sink), return_attn_probs=True)
    assert not output.any() and (lse > 1e29).all()
    assert not any(grad.any() for grad in torch.autograd.grad(output.sum(), inputs))
