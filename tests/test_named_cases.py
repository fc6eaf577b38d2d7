"""Cases that broke other implementations, by name, on the CPU implementation and on the simulated kernels.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
from cases import dense, max_lengths, packed, random_tensor
from reference import assert_lse, assert_output, attention

pytestmark = pytest.mark.fast_math


@pytest.fixture
def many_cores(kernel, launcher):
    """Plans for a GPU of 512 cores, which split the keys of small calls, too, from 513 keys on."""
    target = kernel.launchers.current()
    device = target and target.device._replace(cores=512)
    with kernel.launchers.use_launcher(target.launcher, device) if target else contextlib.nullcontext():
        yield


def check(kernel, tensors, causal=False, window=(-1, -1), **features):
    query, key, value = tensors
    effective = (window[0], 0) if causal else window
    names = {"softmax_scale": "softmax_scale", "softcap": "softcap", "alibi_slopes": "alibi_slopes", "s_aux": "sinks"}
    expected, expected_lse = attention(
        query, key, value, window=effective, **{names[name]: feature for name, feature in features.items()}
    )
    output, lse, _ = kernel.flash_attn_func(
        query, key, value, causal=causal, window_size=window, return_attn_probs=True, **features
    )
    assert_output(output, expected, value)
    assert_lse(lse, expected_lse)
    return output


@pytest.mark.parametrize("softcap", [5.0, 30.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_softcap_with_masked_keys(kernel, launcher, softcap, dtype):
    """A mask applied before the cap would leak exp(-softcap); scores of 20 saturate the small caps."""
    query, key, value = dense(1, 40, 70, 4, 2, 64, dtype)
    check(kernel, (query, key, value), causal=True, softcap=softcap, softmax_scale=0.2)
    check(kernel, (query, key, value), window=(6, 2), softcap=softcap, softmax_scale=2.0)


def test_softcap_of_one_is_a_cap(kernel, launcher):
    check(kernel, dense(1, 9, 40, 2, 2, 32, torch.float32), softcap=1.0)


def test_gpt_oss(kernel, launcher):
    """Sinks, a window, 64 query heads on 8 key/value heads of head_dim 64."""
    tensors = dense(1, 20, 150, 64, 8, 64, torch.bfloat16)
    sinks = random_tensor(7, 64).to(torch.bfloat16)
    check(kernel, tensors, causal=True, window=(127, 127), s_aux=sinks)


def test_gemma_2(kernel, launcher):
    """Softcap 50, a window, head_dim 256, a scale that is not head_dim ** -0.5."""
    tensors = dense(1, 70, 70, 8, 4, 256, torch.float16)
    check(kernel, tensors, causal=True, window=(31, 31), softcap=50.0, softmax_scale=0.0883883)


def test_multi_head_latent_attention(kernel, launcher):
    """Value head_dim 128 under query head_dim 192."""
    query, key, _ = dense(1, 40, 75, 4, 4, 192, torch.float16)
    value = random_tensor(5, 1, 75, 4, 128, dtype=torch.float16)
    check(kernel, (query, key, value), causal=True)


def test_sinks_and_rows_without_keys(kernel, launcher):
    """Even with a sink, a row that sees no key gives 0 and -inf."""
    check(kernel, dense(2, 40, 9, 4, 2, 64, torch.float32), causal=True, s_aux=torch.linspace(-3, 3, 4))


def test_a_sink_of_minus_infinity_is_none(kernel, launcher):
    query, key, value = dense(1, 5, 40, 2, 1, 64, torch.float32)
    output = kernel.flash_attn_func(query, key, value, s_aux=torch.full((2,), -torch.inf))
    assert_output(output, attention(query, key, value)[0], value)


@pytest.mark.parametrize("length", [511, 512, 513, 1023, 1024, 1025])
def test_both_sides_of_the_split_thresholds(kernel, launcher, length):
    """A decode step whose keys are divided or not, by one key more or less."""
    check(kernel, dense(1, 1, length, 8, 1, 64, torch.float16), causal=True)


def test_uniform_scores_in_many_splits(kernel, launcher, many_cores):
    """Values near 50 under equal scores: sums that are not normalised in each part overflow half precision."""
    query, key = torch.zeros(1, 1, 8, 128, dtype=torch.float16), torch.zeros(1, 8192, 1, 128, dtype=torch.float16)
    value = (50 + random_tensor(3, 1, 8192, 1, 128) / 8).to(torch.float16)
    check(kernel, (query, key, value))


@pytest.mark.parametrize("causal", [False, True])
def test_splits_with_every_feature(kernel, launcher, many_cores, causal):
    tensors = dense(2, 37, 1500, 4, 2, 80, torch.float32)
    slopes, sinks = random_tensor(1, 2, 4).abs() / 50, random_tensor(2, 4)
    check(kernel, tensors, causal=causal, softcap=20.0, alibi_slopes=slopes, s_aux=sinks)
    check(kernel, tensors, window=(700, 100), s_aux=sinks)


def test_one_sequence_prefills_while_others_decode(kernel, launcher):
    lengths = [(1, 300), (1, 5), (130, 130), (1, 65), (1, 1)]
    query, key, value, cu_q, cu_k = packed(lengths, 8, 2, 64, torch.float16)
    expected, _ = attention(query, key, value, cu_q, cu_k, window=(-1, 0))
    output = kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k), causal=True)
    assert_output(output, expected, value)


def test_one_tensor_for_everything(kernel, launcher):
    """Views of one fused projection, one cu_seqlens for both sides, int64."""
    fused = random_tensor(0, 90, 3, 4, 64, dtype=torch.float16)
    query, key, value = fused.unbind(1)
    cu = torch.tensor([0, 33, 33, 90])
    expected, _ = attention(query, key, value, cu, cu, window=(-1, 0))
    output = kernel.flash_attn_varlen_func(query, key, value, cu, cu, 57, 57, causal=True)
    assert_output(output, expected, value)


def test_head_major_cache_views(kernel, launcher):
    """[batch, heads, tokens, head_dim] memory seen as [batch, tokens, heads, head_dim], with a storage offset."""
    cache = random_tensor(0, 2, 2, 90, 32)
    key, value = (cache + shift for shift in (0, 1))
    views = [tensor[:, :, 10:50].transpose(1, 2) for tensor in (key, value)]
    assert views[0].stride() == (5760, 32, 2880, 1)
    check(kernel, (random_tensor(1, 2, 7, 4, 32), *views), causal=True)
