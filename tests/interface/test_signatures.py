"""The public functions' signatures. Callers look arguments up by `inspect.signature`: a change here breaks them."""

from __future__ import annotations

import inspect
import types

import pytest

# What the packed functions of flash-attn 2 take beside their tensors and lengths.
SCORING = (
    "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, "
    "deterministic=False, return_attn_probs=False"
)

SIGNATURES = {
    "flash_attention_varlen": (
        "out, query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, do_causal=False, scale=None, "
        "softcapping=1.0, *, window_size=(-1, -1), alibi_slopes=None, s_aux=None, block_table=None, seqused_k=None, "
        "attn_bias=None"
    ),
    "flash_attn_varlen_func": (
        "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, "
        "causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, return_attn_probs=False, *, "
        "softcap=0.0, block_table=None, s_aux=None, learnable_sink=None, seqused_k=None, attn_bias=None"
    ),
    "flash_attn_func": (
        "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
        "alibi_slopes=None, deterministic=False, return_attn_probs=False, *, s_aux=None, learnable_sink=None, "
        "block_table=None, attn_bias=None"
    ),
    "flash_attn_qkvpacked_func": f"qkv, {SCORING}",
    "flash_attn_kvpacked_func": f"q, kv, {SCORING}",
    "flash_attn_varlen_qkvpacked_func": f"qkv, cu_seqlens, max_seqlen, {SCORING}",
    "flash_attn_varlen_kvpacked_func": (f"q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, {SCORING}"),
    "flash_attn_with_kvcache": (
        "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, cache_seqlens=None, "
        "cache_batch_idx=None, cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, "
        "window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None, num_splits=0, "
        "return_softmax_lse=False, *, s_aux=None, learnable_sink=None, attn_bias=None"
    ),
    "merge_attention_states": "outputs, softmax_lses",
    "unpad_input": "hidden_states, attention_mask, unused_mask=None",
    "pad_input": "hidden_states, indices, batch, seqlen",
    "index_first_axis": "input, indices",
    "scaled_dot_product_attention": (
        "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False"
    ),
    "replace_sdpa": "devices=('mps',), explain=False",
    "install_flash_attn": "",
    "register_diffusers": "",
    "activate_varlen_attn": "devices=('mps',)",
    "precompile": (
        "call, *, num_heads, head_dim, dtype, max_seqlen, max_batch=1, num_heads_kv=None, value_dim=None, "
        "causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=False, sinks=False, attn_bias=None, "
        "dropout_p=0.0, return_lse=False, gradients=False, page_size=0, rotary_dim=0"
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(kernel, name):
    function = getattr(kernel, name)
    assert isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__")
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    assert text == f"({SIGNATURES[name]})"


@pytest.mark.parametrize("name", SIGNATURES)
def test_everything_is_annotated_and_documented(kernel, name):
    function = getattr(kernel, name)
    assert set(function.__annotations__) == {*inspect.signature(function).parameters, "return"}
    assert function.__doc__


def test_public_names(kernel):
    assert sorted(kernel.__all__) == sorted(SIGNATURES)
    assert kernel.__doc__
