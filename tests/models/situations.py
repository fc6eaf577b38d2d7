"""The situations in which models call attention: each runs a model and gives what is compared with eager attention.

A result is a dictionary of tensors; positions of padding are left out of it. Inputs are the same in every run.
"""

from __future__ import annotations

import copy
import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching import initialization
from transformers.modeling_outputs import BaseModelOutput

from .zoo import FRAMES, LAYERS, MEL_BINS, SEQ2SEQ, VOCABULARY, WINDOW, Model

LENGTHS = (21, 4, 13)  # tokens of the sequences; longer and shorter than the windows
PROMPTS = (11, 11)  # the prompts of a batch, without padding
RAGGED_PROMPTS = (3, 14, 8, 5)
NEW_TOKENS = 8
FIRST_CHUNK = 12  # of the longest sequence

DENSE, PACKED, PAGED = "flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"
Result = dict[str, torch.Tensor]
Run = Callable[[Model, PreTrainedModel], Result]


@dataclass(frozen=True)
class Situation:
    """`run` gives the result of a model; `expect` that of a model with eager attention, where it comes about otherwise.

    forwards: how often the model runs, an encoder in front of it `encoded` times; None: depends on scheduling.
    packed: how many of the attention calls of each layer are packed, without a window and with one. Others are dense,
        as are those of an encoder in front and of the attention to it.
    """

    name: str
    run: Run
    forwards: int | None
    packed: tuple[int, int] = (0, 0)
    encoded: int = 1
    expect: Run | None = None

    def expected(self, model: Model, eager: PreTrainedModel) -> Result:
        return (self.expect or self.run)(model, eager)

    def calls(self, model: Model) -> Counter:
        """How often which function of the kernel is called; not for a situation without `forwards`."""
        total = LAYERS * self.forwards
        if model.kind == SEQ2SEQ:
            total += LAYERS * (self.encoded + self.forwards)
        packed = self.packed[0] * (LAYERS - model.windows) + self.packed[1] * model.windows
        return Counter({function: count for function, count in ((DENSE, total - packed), (PACKED, packed)) if count})


# Inputs.


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def audio(batch: int) -> torch.Tensor:
    return torch.randn(batch, MEL_BINS, FRAMES, generator=torch.Generator().manual_seed(2))


def padding_mask(lengths: tuple[int, ...], side: str) -> torch.Tensor:
    """[batch, longest], 1 where there is a token."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return (mask.flip(1) if side == "left" else mask).long()


def inputs(model: Model, ids: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The arguments of a model's forward: of an encoder and decoder, the tokens are the decoder's."""
    masks = {} if mask is None else {"attention_mask": mask}
    if model.kind != SEQ2SEQ:
        return {"input_ids": ids, **masks}
    masks = {f"decoder_{name}": mask for name, mask in masks.items()}
    return {"input_features": audio(len(ids)), "decoder_input_ids": ids, **masks}


# Forward.


def forward(model: Model, module: PreTrainedModel, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits, or an encoder's hidden states, [batch, longest, features]."""
    ids = tokens(len(LENGTHS), max(LENGTHS))
    with torch.inference_mode():
        return module(**inputs(model, ids if mask is None else ids * mask, mask))[0]


def prefill(model: Model, module: PreTrainedModel) -> Result:
    return {"output": forward(model, module)}


def all_ones(model: Model, module: PreTrainedModel) -> Result:
    return {"output": forward(model, module, torch.ones(len(LENGTHS), max(LENGTHS), dtype=torch.long))}


def padded(side: str) -> Run:
    def run(model: Model, module: PreTrainedModel) -> Result:
        mask = padding_mask(LENGTHS, side)
        return {"output": forward(model, module, mask)[mask.bool()]}

    return run


def sequences() -> tuple[torch.Tensor, ...]:
    return tokens(sum(LENGTHS)).split(LENGTHS)


def packed_inputs(lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor]:
    """Sequences end to end in one row; positions start again with each."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    return {"input_ids": tokens(sum(lengths))[None], "position_ids": positions[None]}


def ready_inputs(lengths: tuple[int, ...] = LENGTHS) -> dict[str, torch.Tensor | int]:
    """As data collators give them: also where each sequence begins."""
    bounds = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    longest = {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return {**packed_inputs(lengths), "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, **longest}


def packed_by_position_ids(model: Model, module: PreTrainedModel) -> Result:
    with torch.inference_mode():
        return {"output": module(**packed_inputs())[0][0]}


def packed_by_cu_seqlens(model: Model, module: PreTrainedModel) -> Result:
    with torch.inference_mode():
        return {"output": module(**ready_inputs())[0][0]}


def one_by_one(model: Model, module: PreTrainedModel) -> Result:
    with torch.inference_mode():
        return {"output": torch.cat([module(input_ids=sequence[None])[0][0] for sequence in sequences()])}


def in_chunks(model: Model, module: PreTrainedModel) -> Result:
    """The second chunk has fewer queries than keys."""
    ids = tokens(2, max(LENGTHS))
    with torch.inference_mode():
        first = module(**inputs(model, ids[:, :FIRST_CHUNK]), use_cache=True)
        second = inputs(model, ids[:, FIRST_CHUNK:])
        if model.kind == SEQ2SEQ:
            del second["input_features"]
            second["encoder_outputs"] = BaseModelOutput(first.encoder_last_hidden_state)
        second = module(**second, past_key_values=first.past_key_values)
    return {"output": torch.cat([first.logits, second.logits], 1)}


def at_once(model: Model, module: PreTrainedModel) -> Result:
    with torch.inference_mode():
        return {"output": module(**inputs(model, tokens(2, max(LENGTHS))))[0]}


# Generation.


def generate(cache: str | None, lengths: tuple[int, ...]) -> Run:
    def run(model: Model, module: PreTrainedModel) -> Result:
        mask = padding_mask(lengths, "left")
        arguments = inputs(model, tokens(*mask.shape) * mask, mask)
        settings = GenerationConfig(
            max_new_tokens=NEW_TOKENS, do_sample=False, cache_implementation=cache, output_logits=True,
            return_dict_in_generate=True, pad_token_id=0, decoder_start_token_id=1, eos_token_id=None,
        )  # fmt: skip
        generated = module.generate(**arguments, generation_config=settings)
        return {"tokens": generated.sequences, "logits": torch.stack(generated.logits)}

    return run


def batched_continuously(model: Model, module: PreTrainedModel) -> Result:
    """Prompts in chunks of at most 9 tokens, beside other sequences that decode."""
    prompts = [prompt.tolist() for prompt in tokens(sum(RAGGED_PROMPTS)).split(RAGGED_PROMPTS)]
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(page_size=16, num_blocks=16, max_batch_tokens=9, return_logprobs=True)
    gc.freeze()  # transformers collects garbage at its end, and most of the time would go into what is not its own
    try:
        outputs = module.generate_batch(prompts, generation_config=settings, continuous_batching_config=batching)
    finally:
        gc.unfreeze()
    result = {}
    for index, output in enumerate(outputs.values()):
        result[f"tokens of {index}"] = torch.tensor(output.generated_tokens)
        result[f"logarithms of {index}"] = torch.tensor(output.logprobs)
    return result


def decoded_in_pages(model: Model, module: PreTrainedModel) -> Result:
    """As on the devices where transformers lets batches that only decode read the pages of the cache themselves."""
    with (
        mock.patch.object(initialization, "is_torch_xpu_available", lambda: True),
        mock.patch.object(initialization, "is_flash_attention_requested", lambda *_, **__: True),
    ):
        return batched_continuously(model, module)


def generated_one_by_one(model: Model, module: PreTrainedModel) -> Result:
    """The tokens, and the logarithms of their probabilities."""
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    result = {}
    for index, prompt in enumerate(tokens(sum(RAGGED_PROMPTS)).split(RAGGED_PROMPTS)):
        generated = module.generate(prompt[None], attention_mask=torch.ones(1, len(prompt)), generation_config=settings)
        new = generated.sequences[0, len(prompt) :]
        logarithms = torch.cat(generated.logits).log_softmax(-1)
        result[f"tokens of {index}"] = new
        result[f"logarithms of {index}"] = logarithms.gather(1, new[:, None])[:, 0]
    return result


# Training.


def trained(module: PreTrainedModel, compute: Callable[[PreTrainedModel], torch.Tensor]) -> Result:
    """The gradients of a loss, by layer, and what `compute` [tokens, features] gives after a step against them."""
    module = copy.deepcopy(module).train()
    output = compute(module)
    torch.nn.functional.cross_entropy(output, tokens(len(output)) % output.shape[1]).backward()
    gradients = {}
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            layer = name.rpartition(".")[0]  # a key's bias has no gradient: only with its weight is there a size
            gradients.setdefault(f"gradient of {layer}", []).append(parameter.grad.flatten())
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    with torch.inference_mode():
        return {**{name: torch.cat(parts) for name, parts in gradients.items()}, "output": compute(module)}


def training_step(model: Model, module: PreTrainedModel) -> Result:
    ids = tokens(len(LENGTHS), max(LENGTHS))
    return trained(module, lambda module: module(**inputs(model, ids))[0].flatten(0, 1))


def packed_training_step(model: Model, module: PreTrainedModel) -> Result:
    return trained(module, lambda module: module(**ready_inputs())[0][0])


def training_step_one_by_one(model: Model, module: PreTrainedModel) -> Result:
    return trained(module, lambda module: torch.cat([module(input_ids=ids[None])[0][0] for ids in sequences()]))


SITUATIONS = {
    situation.name: situation
    for situation in (
        Situation("prefill", prefill, 1),
        Situation("mask of ones", all_ones, 1),
        Situation("left padding", padded("left"), 1, (1, 1)),
        Situation("right padding", padded("right"), 1, (1, 1)),
        Situation("packed by position_ids", packed_by_position_ids, 1, (1, 1), expect=one_by_one),
        Situation("packed by cu_seqlens", packed_by_cu_seqlens, 1, (1, 1), expect=one_by_one),
        Situation("dynamic cache", generate(None, PROMPTS), NEW_TOKENS),
        # The prompt is dense. Then a mask tells the empty end of the cache, but a window's cache is full.
        Situation("static cache", generate("static", PROMPTS), NEW_TOKENS, (NEW_TOKENS - 1, 0)),
        # A window's cache holds no more padding once the shortest prompt and the new tokens fill it.
        Situation("padded prompts", generate(None, LENGTHS), NEW_TOKENS, (NEW_TOKENS, WINDOW - min(LENGTHS))),
        Situation("chunked prefill", in_chunks, 2, expect=at_once),
        Situation("continuous batching", batched_continuously, None, expect=generated_one_by_one),
        Situation("paged decode", decoded_in_pages, None, expect=generated_one_by_one),
        Situation("training step", training_step, 2, encoded=2),
        Situation("packed training step", packed_training_step, 2, (2, 2), expect=training_step_one_by_one),
    )
}
