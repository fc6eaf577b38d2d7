"""What flash-attn 2 documents, as tests: masks, windows, groups of heads, ALiBi, log-sum-exp, caches.

Levels: CPU implementation; simulation. Equal scores and the identity as value make the output the mask, each row
divided by its sum.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import dense, packed, random_tensor
from reference import assert_lse, assert_output, attention


def mask_of(kernel, seqlen_q: int, seqlen_k: int, **arguments) -> list[str]:
    """Rows of 1 and 0, read off the output."""
    query, key = torch.zeros(1, seqlen_q, 1, 32), torch.zeros(1, seqlen_k, 1, 32)
    output = kernel.flash_attn_func(query, key, torch.eye(seqlen_k)[None, :, None], **arguments)[0, :, 0]
    sums = (output > 0).sum(dim=1, keepdim=True)
    torch.testing.assert_close(output, (output > 0) / sums.clamp(min=1))
    return ["".join("1" if weight > 0 else "0" for weight in row) for row in output]


def test_causal_with_fewer_queries_than_keys(kernel, launcher):
    assert mask_of(kernel, 2, 5, causal=True) == ["11110", "11111"]


def test_causal_with_more_queries_than_keys(kernel, launcher):
    """Rows of zeros give zeros."""
    assert mask_of(kernel, 5, 2, causal=True) == ["00", "00", "00", "10", "11"]


@pytest.mark.parametrize("left, right", [(1, 0), (1, 1), (0, 2), (-1, 1), (2, -1), (0, 0)])
@pytest.mark.parametrize("seqlen_q, seqlen_k", [(4, 6), (6, 4)])
def test_window(kernel, launcher, seqlen_q, seqlen_k, left, right):
    """Query i sees the keys from i + seqlen_k - seqlen_q - left to i + seqlen_k - seqlen_q + right, both included."""
    expected = []
    for position in range(seqlen_k - seqlen_q, seqlen_k):
        first = 0 if left < 0 else position - left
        last = seqlen_k if right < 0 else position + right
        expected.append("".join("1" if first <= j <= last else "0" for j in range(seqlen_k)))
    assert mask_of(kernel, seqlen_q, seqlen_k, window_size=(left, right)) == expected


def test_groups_of_heads(kernel, launcher):
    """Six query heads on two key/value heads: heads 0, 1, 2 read head 0; heads 3, 4, 5 read head 1."""
    query, key, _ = dense(1, 3, 4, 6, 2, 32, torch.float32)
    value = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1).expand(1, 4, 2, 32)
    output = kernel.flash_attn_func(query, key, value)
    torch.testing.assert_close(output[0, 0, :, 0], torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]))


@pytest.mark.parametrize("per_sequence", [False, True], ids=["heads", "batch and heads"])
def test_alibi(kernel, launcher, per_sequence):
    """A bias of -slope * |i + seqlen_k - seqlen_q - j|."""
    query, key, value = dense(2, 3, 7, 4, 4, 32, torch.float32)
    slopes = (
        torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) if per_sequence else torch.tensor([0.1, 0.5, 1, 2])
    )
    scores = torch.einsum("bihd,bjhd->bhij", query.double(), key.double()) / math.sqrt(32)
    distance = (torch.arange(3)[:, None] + 7 - 3 - torch.arange(7)).abs()
    scores -= (slopes.double() if per_sequence else slopes.double()[None])[..., None, None] * distance
    expected = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), value.double())
    assert_output(kernel.flash_attn_func(query, key, value, alibi_slopes=slopes), expected, value)


def test_lse_of_a_dense_batch(kernel, launcher):
    """[batch, heads, seqlen_q]: the logarithm of the sum of exp(softmax_scale * scores)."""
    query, key, value = dense(2, 3, 7, 4, 4, 32, torch.float16)
    scores = 0.3 * torch.einsum("bihd,bjhd->bhij", query.double(), key.double())
    result = kernel.flash_attn_func(query, key, value, softmax_scale=0.3, return_attn_probs=True)
    assert isinstance(result, tuple) and len(result) == 3 and result[2] is None
    assert result[1].shape == (2, 4, 3)
    assert_lse(result[1], scores.logsumexp(-1))


def test_lse_of_a_packed_batch(kernel, launcher):
    """[heads, total_q]."""
    query, key, value, cu_q, cu_k = packed([(3, 7), (5, 2)], 4, 2, 32, torch.float16)
    _, lse, _ = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 5, 7, return_attn_probs=True)
    assert lse.shape == (4, 8)
    assert_lse(lse, attention(query, key, value, cu_q, cu_k)[1])


def test_lse_of_a_cache(kernel, launcher):
    """A pair, where the others return three."""
    query, cache = random_tensor(0, 2, 1, 4, 32), random_tensor(1, 2, 16, 2, 32)
    result = kernel.flash_attn_with_kvcache(query, cache, cache, return_softmax_lse=True)
    assert isinstance(result, tuple) and len(result) == 2 and result[1].shape == (2, 4, 1)
    assert isinstance(kernel.flash_attn_with_kvcache(query, cache, cache), torch.Tensor)


@pytest.mark.parametrize("layout", ["rows", "pages"])
def test_decoding_with_a_cache(kernel, launcher, layout):
    """A prompt, then one token after the other: what causal attention over all of them gives at once. The sequences lie
    in rows of a larger cache, out of order, or in shuffled pages."""
    length, prompt, batch = 21, 15, 2
    query, key, value = dense(batch, length, length, 4, 2, 32, torch.float32)
    expected, _ = attention(query, key, value, window=(-1, 0))
    pages = {"block_table": torch.tensor([[4, 1], [0, 3]], dtype=torch.int32)}
    rows = {"cache_batch_idx": torch.tensor([3, 1], dtype=torch.int32)}
    caches = [torch.full((5, 16 if layout == "pages" else 32, 2, 32), math.nan) for _ in range(2)]
    lengths, outputs = torch.zeros(batch, dtype=torch.int32), []
    for begin, end in [(0, prompt), *((t, t + 1) for t in range(prompt, length))]:
        step = [tensor[:, begin:end] for tensor in (query, key, value)]
        outputs.append(
            kernel.flash_attn_with_kvcache(
                step[0],
                *caches,
                *step[1:],
                cache_seqlens=lengths,
                causal=True,
                **(pages if layout == "pages" else rows),
            )
        )
        lengths += end - begin
    assert_output(torch.cat(outputs, dim=1), expected, value)
