"""Tiny random models of transformers, one for each way in which models use attention.

Weights are large enough for the scores to spread over several units, and windows are shorter than the sequences: so
what a kernel gets wrong shows in the logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

REPOSITORY = "org/metal-flash-sdpa"
LISTED_REPOSITORY = "kernels-community/metal-flash-sdpa"  # gpt-oss takes no kernel but those that its class lists
VOCABULARY = 97
LAYERS = 2  # of each encoder and decoder
WINDOW = 6  # keys, the query's own included
SINK = 10.0  # seen beside 20 keys, whose exponentials sum up to e^6, and beside 2500, e^16
FRAMES = 24  # of the audio: twice the length of Whisper's encoder
MEL_BINS = 8

DECODER, ENCODER, SEQ2SEQ = "decoder", "encoder", "encoder and decoder"


@dataclass(frozen=True)
class Model:
    """How to make one of the models.

    features: what it asks of a kernel beside plain attention: causal, window, softcap, sinks, groups (query heads that
        share a key/value head), scale (another one than head_dim ** -0.5).
    windows: how many of its layers have a window.
    """

    name: str
    kind: str
    config: Callable[[], PreTrainedConfig]
    features: frozenset[str]
    windows: int = 0
    repository: str = REPOSITORY


def create(model: Model, attention: str) -> PreTrainedModel:
    """The model with `attention` as its attn_implementation; the weights are the same for every `attention`."""
    auto = {DECODER: AutoModelForCausalLM, ENCODER: AutoModel, SEQ2SEQ: WhisperForConditionalGeneration}[model.kind]
    create_from = auto._from_config if model.kind == SEQ2SEQ else auto.from_config
    torch.manual_seed(0)
    module = create_from(model.config(), attn_implementation=attention).eval()
    for name, parameter in module.named_parameters():
        if name.endswith(".sinks"):
            parameter.data += SINK
    return module


@functools.lru_cache(maxsize=None)
def eager(model: Model) -> PreTrainedModel:
    """The model with eager attention."""
    return create(model, "eager")


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
GROUPS = {**SIZES, "num_key_value_heads": 2, "head_dim": 32}
TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
ALTERNATING = ["sliding_attention", "full_attention"]


def llama() -> PreTrainedConfig:
    return LlamaConfig(**GROUPS, **TOKENS)


def qwen3() -> PreTrainedConfig:
    """Queries and keys are normalised."""
    return Qwen3Config(**GROUPS, **TOKENS)


def mistral() -> PreTrainedConfig:
    """A window in every layer."""
    return MistralConfig(**GROUPS, **TOKENS, sliding_window=WINDOW)


def gemma2() -> PreTrainedConfig:
    return Gemma2Config(
        **GROUPS, **TOKENS, sliding_window=WINDOW, layer_types=ALTERNATING, query_pre_attn_scalar=20,
        attn_logit_softcapping=2.0, final_logit_softcapping=None,
    )  # fmt: skip


def gemma3() -> PreTrainedConfig:
    return Gemma3TextConfig(
        **GROUPS, **TOKENS, sliding_window=WINDOW, layer_types=ALTERNATING, query_pre_attn_scalar=20
    )


def gemma4() -> PreTrainedConfig:
    """Heads as wide as the real ones: 256 with a window, and 512, of which 8 share keys that are the values, too."""
    return Gemma4TextConfig(
        **{**SIZES, "num_attention_heads": 8}, **TOKENS, num_key_value_heads=4, num_global_key_value_heads=1,
        attention_k_eq_v=True, sliding_window=WINDOW, layer_types=ALTERNATING, vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=16,
    )  # fmt: skip


def gpt_oss() -> PreTrainedConfig:
    return GptOssConfig(
        **GROUPS, **TOKENS, sliding_window=WINDOW, layer_types=ALTERNATING, num_local_experts=2, num_experts_per_tok=2
    )


def deepseek() -> PreTrainedConfig:
    """Latent attention: heads of 40 for queries and keys, of 24 for values."""
    return DeepseekV3Config(
        **SIZES, **TOKENS, num_key_value_heads=4, first_k_dense_replace=LAYERS, q_lora_rank=24, kv_lora_rank=16,
        qk_nope_head_dim=24, qk_rope_head_dim=16, v_head_dim=24,
    )  # fmt: skip


def bert() -> PreTrainedConfig:
    """Without its dropout, which is random."""
    return BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def modernbert() -> PreTrainedConfig:
    """A window of 4 keys to both sides in the second layer."""
    return ModernBertConfig(
        **SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
        global_attn_every_n_layers=2, local_attention=8, initializer_cutoff_factor=3.0,
    )  # fmt: skip


def whisper() -> PreTrainedConfig:
    """It scales the queries itself and asks for a scale of 1."""
    return WhisperConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=MEL_BINS,
        max_source_positions=FRAMES // 2, max_target_positions=64, init_std=0.2, decoder_start_token_id=1,
        bos_token_id=None, eos_token_id=None, pad_token_id=0, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip


def _model(name: str, kind: str, config: Callable[[], PreTrainedConfig], features: str, **settings) -> Model:
    return Model(name, kind, config, frozenset(features.split()), **settings)


MODELS = {
    model.name: model
    for model in (
        _model("Llama", DECODER, llama, "causal groups"),
        _model("Qwen3", DECODER, qwen3, "causal groups"),
        _model("Mistral", DECODER, mistral, "causal groups window", windows=2),
        _model("Gemma2", DECODER, gemma2, "causal groups window softcap scale", windows=1),
        _model("Gemma3", DECODER, gemma3, "causal groups window scale", windows=1),
        _model("Gemma4", DECODER, gemma4, "causal groups window scale", windows=1),
        _model("gpt-oss", DECODER, gpt_oss, "causal groups window sinks", windows=1, repository=LISTED_REPOSITORY),
        _model("DeepSeek", DECODER, deepseek, "causal"),
        _model("BERT", ENCODER, bert, ""),
        _model("ModernBERT", ENCODER, modernbert, "window", windows=1),
        _model("Whisper", SEQ2SEQ, whisper, "causal scale"),
    )
}
