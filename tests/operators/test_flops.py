"""torch.utils.flop_counter counts attention as it counts PyTorch's own. Level: CPU implementation, and tracing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from cases import random_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode


def int32(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def count(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def leaves(*shapes):
    return [random_tensor(seed, *shape).requires_grad_() for seed, shape in enumerate(shapes)]


def of_torch(query, key, value, backward: bool) -> int:
    """Of F.scaled_dot_product_attention in the same layout, as a matrix product each."""

    def call():
        q, k, v = (tensor.detach().transpose(1, 2).requires_grad_() for tensor in (query, key, value))
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            output = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        if backward:
            output.sum().backward()

    return count(call)


@pytest.mark.parametrize("causal, window", [(False, (-1, -1)), (True, (-1, -1)), (False, (2, 1))])
@pytest.mark.parametrize("value_dim", [32, 16])
def test_dense(kernel, launcher, causal, window, value_dim):
    """The whole square, whatever the mask hides."""
    query, key, value = leaves((2, 5, 4, 32), (2, 9, 2, 32), (2, 9, 2, value_dim))
    forward = lambda: kernel.flash_attn_func(query, key, value, causal=causal, window_size=window)  # noqa: E731
    expected = 2 * 2 * 4 * 5 * 9 * (32 + value_dim)
    assert count(forward) == expected == of_torch(query, key, value, backward=False)
    if launcher == "cpu":
        # The backward computes the scores again, which PyTorch's composition keeps.
        scores = 2 * 2 * 4 * 5 * 9 * 32
        with_backward = count(lambda: forward().sum().backward())
        assert with_backward == of_torch(query, key, value, backward=True) + scores
        assert with_backward == torch.utils.flop_counter.sdpa_flop_count(
            (2, 4, 5, 32), (2, 2, 9, 32), (2, 2, 9, value_dim)
        ) + torch.utils.flop_counter.sdpa_backward_flop_count(
            (2, 4, 5, value_dim), (2, 4, 5, 32), (2, 2, 9, 32), (2, 2, 9, value_dim)
        )


PAIRS = 3 * 3 + 2 * 6  # of the two packed sequences
CU_Q, CU_K = int32(0, 3, 5), int32(0, 3, 9)
PER_PAIR = 2 * 4 * (32 + 32)


def packed(kernel, query, key, value, **arguments):
    return kernel.flash_attn_varlen_func(query, key, value, CU_Q, CU_K, 3, 6, **arguments)


def test_packed(kernel, launcher):
    """By sequence, from the values of cu_seqlens."""
    tensors = leaves((5, 4, 32), (9, 2, 32), (9, 2, 32))
    assert count(lambda: packed(kernel, *tensors)) == PAIRS * PER_PAIR
    used = int32(1, 5)
    assert count(lambda: packed(kernel, *tensors, seqused_k=used)) == (3 * 1 + 2 * 5) * PER_PAIR
    out = torch.empty(5, 4, 32)
    with torch.no_grad():
        into_out = lambda: kernel.flash_attention_varlen(out, *tensors, CU_Q, CU_K, 3, 6)  # noqa: E731
        assert count(into_out) == PAIRS * PER_PAIR
    if launcher == "cpu":
        assert count(lambda: packed(kernel, *tensors).sum().backward()) == PAIRS * PER_PAIR * 7 / 2


@pytest.mark.parametrize("dropout_p", [0.0, 0.25])
@pytest.mark.parametrize("wants_keys", [True, False])
@pytest.mark.parametrize("layout", ["dense", "packed"])
def test_dropout_multiplies_nothing_more(kernel, launcher, layout, wants_keys, dropout_p):
    """With the backward seven halves of the forward alone, or five where keys and values are frozen."""
    query, key, value = leaves((5, 4, 32), (9, 2, 32), (9, 2, 32))
    key.requires_grad_(wants_keys), value.requires_grad_(wants_keys)

    def call():
        if layout == "packed":
            return packed(kernel, query, key, value, dropout_p=dropout_p)
        return kernel.flash_attn_func(query[None], key[None], value[None], dropout_p=dropout_p)

    forward = (PAIRS if layout == "packed" else 5 * 9) * PER_PAIR
    assert count(call) == forward
    assert count(lambda: call().sum().backward()) == forward * (7 if wants_keys else 5) / 2


def test_bounds_while_values_are_unknown(kernel):
    with FakeTensorMode() as mode:
        tensors = [mode.from_tensor(tensor.detach()) for tensor in leaves((5, 4, 32), (9, 2, 32), (9, 2, 32))]
        cu_q, cu_k = mode.from_tensor(CU_Q), mode.from_tensor(CU_K)
        call = lambda: kernel.flash_attn_varlen_func(*tensors, cu_q, cu_k, 3, 6)  # noqa: E731
        assert count(call) == 2 * 3 * 6 * PER_PAIR
    meta = [torch.empty(1, tokens, 4, 32, device="meta") for tokens in (5, 9, 9)]
    assert count(lambda: kernel.flash_attn_func(*meta)) == 5 * 9 * PER_PAIR


CACHES = {
    "dense": ({}, 2 * (12 + 20)),
    "pages": ({"block_table": int32(0, 1, 2, 3).view(2, 2)}, 2 * (12 + 20)),
    "left padding": ({"cache_leftpad": int32(2, 3)}, 2 * (10 + 17)),
    "rows": ({"cache_batch_idx": int32(3, 1)}, 2 * (12 + 20)),
}


@pytest.mark.parametrize("arguments, pairs", CACHES.values(), ids=CACHES)
def test_caches(kernel, launcher, arguments, pairs):
    shape = (4, 16, 2, 32) if "block_table" in arguments else (4, 24, 2, 32)
    query, keys, values = (tensor.detach() for tensor in leaves((2, 2, 4, 32), shape, shape))
    call = lambda: kernel.flash_attn_with_kvcache(  # noqa: E731
        query, keys, values, cache_seqlens=int32(12, 20), **arguments
    )
    assert count(call) == pairs * PER_PAIR


def test_checkpoint_counts_the_forward_twice(kernel):
    tensors = leaves((5, 4, 32), (9, 2, 32), (9, 2, 32))
    call = lambda: torch.utils.checkpoint.checkpoint(  # noqa: E731
        lambda *x: packed(kernel, *x), *tensors, use_reentrant=False
    )
    assert count(lambda: call().sum().backward()) == PAIRS * PER_PAIR * (2 + 5 / 2)
