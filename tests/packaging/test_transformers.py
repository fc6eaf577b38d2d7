"""Real model code loads the kernel by its repository name and computes what eager attention computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig, PreTrainedModel

REPOSITORY = "org/metal-flash-sdpa"
VOCABULARY = 97
TOLERANCE = 1e-5  # of the largest magnitude: fp32 rounding through two layers


class Calls(TorchDispatchMode):
    """Records the rank of the query in every call of this build's forward operator: 3 is packed, 4 is dense."""

    def __init__(self, kernel: ModuleType) -> None:
        super().__init__()
        self.namespace = kernel.__name__
        self.ranks: list[int] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == self.namespace and "forward" in function.__name__:
            self.ranks.append(next(arg for arg in args if isinstance(arg, torch.Tensor)).dim())
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def local_kernel(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The repository name leads to the staged build that the `kernel` fixture has loaded."""
    monkeypatch.setenv("LOCAL_KERNELS", f"{REPOSITORY}={Path(kernel.__file__).parent.parent}")
    with torch.inference_mode():
        yield


def bert(attention: str) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    return seeded(AutoModel, config, attention)


def llama(attention: str) -> PreTrainedModel:
    """Four query heads on two key/value heads."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return seeded(AutoModelForCausalLM, config, attention)


def seeded(auto: type, config, attention: str) -> PreTrainedModel:
    """A random model, the same for every `attention`."""
    torch.manual_seed(0)
    return auto.from_config(copy.deepcopy(config), attn_implementation=attention).eval()


def output(model: PreTrainedModel, **inputs) -> torch.Tensor:
    return model(**inputs, use_cache=False)[0]


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(1))


def assert_close(ours: torch.Tensor, eager: torch.Tensor) -> None:
    assert float((ours - eager).abs().max()) <= TOLERANCE * float(eager.abs().max())


@pytest.mark.parametrize("create", [bert, llama])
def test_batch_without_padding(kernel: ModuleType, create) -> None:
    inputs = {"input_ids": tokens(3, 21)}
    with Calls(kernel) as calls:
        ours = output(create(REPOSITORY), **inputs)
    assert calls.ranks == [4, 4]
    assert_close(ours, output(create("eager"), **inputs))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("create", [bert, llama])
def test_batch_with_padding(kernel: ModuleType, create, side: str) -> None:
    mask = torch.arange(21) < torch.tensor([[21], [4], [13]])
    mask = mask.flip(1) if side == "left" else mask
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": tokens(3, 21) * mask, "attention_mask": mask.long(), "position_ids": positions}
    with Calls(kernel) as calls:
        ours = output(create(REPOSITORY), **inputs)
    assert calls.ranks == [3, 3]
    assert_close(ours[mask], output(create("eager"), **inputs)[mask])


@pytest.mark.parametrize("create", [bert, llama])
def test_sequences_packed_into_one_row(kernel: ModuleType, create) -> None:
    """Position ids that start again tell transformers where each sequence begins."""
    sequences = tokens(30).split([4, 19, 7])
    positions = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    with Calls(kernel) as calls:
        ours = output(create(REPOSITORY), input_ids=torch.cat(sequences)[None], position_ids=positions[None])
    assert calls.ranks == [3, 3]
    eager = create("eager")
    assert_close(ours[0], torch.cat([output(eager, input_ids=sequence[None])[0] for sequence in sequences]))


def test_decoding_with_a_cache(kernel: ModuleType) -> None:
    prompt = tokens(2, 9)
    settings = {"max_new_tokens": 12, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with Calls(kernel) as calls:
        ours = llama(REPOSITORY).generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    eager = llama("eager").generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    assert len(calls.ranks) == 2 * 12
    assert torch.equal(ours.sequences, eager.sequences)
    assert_close(torch.stack(ours.logits), torch.stack(eager.logits))


def test_prompt_in_chunks(kernel: ModuleType) -> None:
    """The second chunk has fewer queries than keys: causal, aligned at the end."""
    prompt = tokens(2, 23)
    model = llama(REPOSITORY)
    first = model(prompt[:, :15], use_cache=True)
    with Calls(kernel) as calls:
        second = model(prompt[:, 15:], past_key_values=first.past_key_values)
    assert calls.ranks == [4, 4]
    assert_close(torch.cat([first.logits, second.logits], 1), output(llama("eager"), input_ids=prompt))
