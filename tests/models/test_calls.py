"""What transformers really passes: the shapes, strides and types that the public functions must take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import modeling_flash_attention_utils as flash_attention

from .instrument import Arguments, Instrument
from .situations import DENSE, LENGTHS, PACKED, SITUATIONS
from .table import with_kernel
from .zoo import MODELS, REPOSITORY, WINDOW, create


@pytest.fixture
def calls(instrument: Instrument) -> Callable[[str, str], list[tuple[str, Arguments]]]:
    """Runs a model in a situation: the functions that it called and their arguments."""

    def run(model: str, situation: str) -> list[tuple[str, Arguments]]:
        SITUATIONS[situation].run(MODELS[model], with_kernel(MODELS[model]))
        return instrument.recorded

    return run


def lengths(arguments: Arguments, of: str) -> list[int]:
    return arguments[f"cu_seqlens_{of}"].diff().tolist()


def test_prefill_is_dense_and_keys_are_head_major(calls) -> None:
    name, arguments = calls("Llama", "prefill")[0]
    batch, length, heads, head_dim = arguments["k"].shape
    assert name == DENSE and arguments["q"].shape == (batch, length, 2 * heads, head_dim)
    for tensor in (arguments["k"], arguments["v"]):
        assert tensor.stride() == (heads * length * head_dim, head_dim, length * head_dim, 1)


@pytest.mark.parametrize("situation", ["left padding", "right padding"])
def test_padded_batches_are_gathered(calls, situation: str) -> None:
    name, arguments = calls("Llama", situation)[0]
    assert name == PACKED and sorted(lengths(arguments, "q")) == sorted(LENGTHS)
    assert all(arguments[tensor].is_contiguous() for tensor in "qkv")
    assert arguments["cu_seqlens_k"] is arguments["cu_seqlens_q"]
    assert arguments["max_seqlen_q"] == max(LENGTHS)


def test_position_ids_give_a_tensor_for_max_seqlen(calls) -> None:
    name, arguments = calls("Llama", "packed by position_ids")[0]
    assert name == PACKED and lengths(arguments, "q") == list(LENGTHS)
    for longest in (arguments["max_seqlen_q"], arguments["max_seqlen_k"]):
        assert isinstance(longest, torch.Tensor) and longest.dim() == 0 and longest == max(LENGTHS)


def test_ready_cu_seqlens_come_with_strided_keys(calls) -> None:
    name, arguments = calls("Llama", "packed by cu_seqlens")[0]
    assert name == PACKED and lengths(arguments, "k") == list(LENGTHS)
    assert not arguments["k"].is_contiguous() and arguments["max_seqlen_k"] == max(LENGTHS)


def test_decoding_reads_the_cache_where_it_is(calls) -> None:
    name, arguments = calls("Llama", "dynamic cache")[-1]
    assert name == DENSE and arguments["q"].shape[1] == 1 < arguments["k"].shape[1]
    assert arguments["causal"] is True and not arguments["k"].is_contiguous()


def test_a_later_chunk_has_fewer_queries_than_keys(calls) -> None:
    name, arguments = calls("Llama", "chunked prefill")[-1]
    assert name == DENSE and 1 < arguments["q"].shape[1] < arguments["k"].shape[1]
    assert arguments["causal"] is True


def test_continuous_batching_mixes_prompts_and_decoding(calls) -> None:
    seen = [
        (lengths(arguments, "q"), lengths(arguments, "k")) for _, arguments in calls("Llama", "continuous batching")
    ]
    assert any(1 in queries and max(queries) > 1 for queries, _ in seen)
    assert any(1 < query < key for queries, keys in seen for query, key in zip(queries, keys))


def test_continuous_batching_of_gpt_oss_has_head_major_queries(calls) -> None:
    for _, arguments in calls("gpt-oss", "continuous batching"):
        length, _, head_dim = arguments["q"].shape
        assert arguments["q"].stride() == (head_dim, length * head_dim, 1)


@pytest.mark.parametrize("model", ["Mistral", "Gemma2", "Gemma3", "gpt-oss"])
def test_a_causal_window_has_a_right_side(calls, model: str) -> None:
    windows = {arguments.get("window_size") for _, arguments in calls(model, "prefill") if arguments["causal"]}
    assert (WINDOW - 1, WINDOW - 1) in windows


def test_modernbert_sees_both_sides(calls) -> None:
    windows = {(arguments["causal"], arguments.get("window_size")) for _, arguments in calls("ModernBERT", "prefill")}
    assert windows == {(False, None), (False, (4, 4))}


def test_gemma2_has_a_softcap_and_a_scale(calls) -> None:
    for _, arguments in calls("Gemma2", "prefill"):
        assert arguments["softcap"] == 2.0 and arguments["softmax_scale"] == 20**-0.5


def test_gemma4_has_its_real_heads(calls) -> None:
    """No mask comes along: prompts are dense and causal, and padded ones are gathered, as those of other models."""
    shapes = [(arguments["q"].shape[2:], arguments["k"].shape[2:]) for _, arguments in calls("Gemma4", "prefill")]
    assert shapes == [((8, 256), (4, 256)), ((8, 512), (1, 512))]
    for _, arguments in calls("Gemma4", "left padding"):
        assert arguments["softmax_scale"] == 1.0 and arguments["causal"] is True and "attn_bias" not in arguments


def test_gpt_oss_has_sinks(calls) -> None:
    for _, arguments in calls("gpt-oss", "prefill"):
        assert arguments["s_aux"].shape == (4,) and arguments["s_aux"].dtype == torch.float32


def test_values_of_latent_attention_are_padded(calls) -> None:
    for _, arguments in calls("DeepSeek", "prefill"):
        assert arguments["v"].shape == arguments["k"].shape
        assert arguments["v"][..., 24:].count_nonzero() == 0 and arguments["v"][..., :24].all()


def test_attention_to_the_audio_is_not_causal(calls) -> None:
    kinds = {
        (arguments["causal"], arguments["q"].shape[1] == arguments["k"].shape[1])
        for _, arguments in calls("Whisper", "prefill")
    }
    assert kinds == {(False, True), (True, True), (False, False)}


def test_autocast_decides_the_dtype(calls) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, arguments = calls("Llama", "prefill")[0]
    assert {arguments[tensor].dtype for tensor in "qkv"} == {torch.bfloat16}


def test_every_argument_is_found(instrument: Instrument) -> None:
    """transformers looks for them in the signature, and leaves out without a word what it does not find."""
    supports = flash_attention._lazy_define_process_function(instrument.kernel.flash_attn_varlen_func).keywords
    found = supports["supports_mapping"]
    assert all(found[name] for name in ("dropout_p", "window_size", "softcap", "deterministic", "s_aux", "block_table"))
    assert set(inspect.signature(instrument.kernel.flash_attn_func).parameters) >= {"window_size", "softcap", "s_aux"}


def test_gpt_oss_takes_listed_kernels_only(
    instrument: Instrument, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of another one it takes one of its own list: here the first, as none of them is built for this device."""
    first = "kernels-community/vllm-flash-attn3"
    monkeypatch.setenv("LOCAL_KERNELS", f"{first}={build}")
    assert create(MODELS["gpt-oss"], REPOSITORY).config._attn_implementation == first
