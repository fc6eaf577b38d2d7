"""unpad_input, pad_input and index_first_axis, as flash_attn.bert_padding documents them. Level: PyTorch on the CPU."""

from __future__ import annotations

import pytest
import torch
from cases import random_tensor

LENGTHS = [3, 0, 5, 1]


def mask_of(lengths, seqlen=6) -> torch.Tensor:
    return torch.arange(seqlen) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("shape", [(), (2,), (4, 8)], ids=str)
def test_unpad(kernel, shape, dtype):
    hidden = random_tensor(0, 4, 6, *shape)
    tokens, indices, cu_seqlens, longest, seqused = kernel.unpad_input(hidden, mask_of(LENGTHS).to(dtype))
    assert torch.equal(tokens, torch.cat([hidden[b, :length] for b, length in enumerate(LENGTHS)]))
    assert indices.tolist() == [6 * b + t for b, length in enumerate(LENGTHS) for t in range(length)]
    assert cu_seqlens.tolist() == [0, 3, 3, 8, 9] and cu_seqlens.dtype == torch.int32
    assert longest == 5 and type(longest) is int
    assert seqused.tolist() == LENGTHS and seqused.dtype == torch.int32


def test_mask_on_the_left(kernel):
    hidden = random_tensor(0, 4, 6, 2)
    tokens, _, cu_seqlens, _, _ = kernel.unpad_input(hidden, mask_of(LENGTHS).flip(1))
    assert torch.equal(tokens, torch.cat([hidden[b, 6 - length :] for b, length in enumerate(LENGTHS)]))
    assert cu_seqlens.tolist() == [0, 3, 3, 8, 9]


def test_unused_places(kernel):
    """They are packed with the others, and seqused counts the others alone."""
    hidden = random_tensor(0, 4, 6, 2)
    allocated = [4, 2, 5, 6]
    used = mask_of(LENGTHS)
    tokens, indices, cu_seqlens, longest, seqused = kernel.unpad_input(hidden, used, mask_of(allocated) & ~used)
    assert torch.equal(tokens, torch.cat([hidden[b, :length] for b, length in enumerate(allocated)]))
    assert cu_seqlens.tolist() == [0, 4, 6, 11, 17] and longest == 6 and len(indices) == 17
    assert seqused.tolist() == LENGTHS


@pytest.mark.parametrize("shape", [(), (4, 8)], ids=str)
def test_pad_takes_back(kernel, shape):
    hidden, mask = random_tensor(0, 4, 6, *shape, dtype=torch.bfloat16), mask_of(LENGTHS)
    tokens, indices, *_ = kernel.unpad_input(hidden, mask)
    padded = kernel.pad_input(tokens, indices, 4, 6)
    assert padded.dtype == hidden.dtype
    assert torch.equal(padded, hidden * mask.view(4, 6, *(1,) * len(shape)))


@pytest.mark.parametrize("batch, seqlen", [(0, 6), (4, 0), (0, 0)])
def test_empty(kernel, batch, seqlen):
    hidden = torch.zeros(batch, seqlen, 2)
    tokens, indices, cu_seqlens, longest, seqused = kernel.unpad_input(hidden, torch.ones(batch, seqlen).bool())
    assert tokens.shape == (0, 2) and longest == 0 and len(cu_seqlens) == batch + 1 and len(seqused) == batch
    assert kernel.pad_input(tokens, indices, batch, seqlen).shape == hidden.shape


def test_gradients(kernel):
    mask = mask_of(LENGTHS)
    inputs = random_tensor(0, 4, 6, 3).double().requires_grad_()

    def there_and_back(hidden):
        tokens, indices, *_ = kernel.unpad_input(hidden, mask)
        return kernel.pad_input(tokens.square(), indices, 4, 6)

    assert torch.autograd.gradcheck(there_and_back, inputs)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_index_first_axis(kernel, dtype):
    """Rows in any order and repeated; the gradients of copies add up."""
    inputs, indices = random_tensor(0, 5, 2, 3).double().requires_grad_(), torch.tensor([3, 0, 3, 3], dtype=dtype)
    assert torch.equal(kernel.index_first_axis(inputs, indices), inputs[[3, 0, 3, 3]])
    assert torch.autograd.gradcheck(lambda x: kernel.index_first_axis(x, indices), inputs)


def test_around_attention(kernel, launcher):
    """The way a padded batch goes through the packed function."""
    query, key, value = (random_tensor(seed, 4, 6, 2, 32) for seed in range(3))
    q, indices, cu_seqlens, longest, _ = kernel.unpad_input(query, mask_of(LENGTHS))
    k, v = (kernel.index_first_axis(tensor.flatten(0, 1), indices) for tensor in (key, value))
    packed = kernel.flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, longest, longest, causal=True)
    output = kernel.pad_input(packed, indices, 4, 6)
    for b, length in enumerate(LENGTHS):
        alone = kernel.flash_attn_func(*(tensor[b : b + 1, :length] for tensor in (query, key, value)), causal=True)
        torch.testing.assert_close(output[b, :length], alone[0])
        assert not output[b, length:].any()


TOKENS, MASK, INDICES = torch.zeros(4, 6, 2), mask_of(LENGTHS), torch.arange(4)
ERRORS = [
    ("unpad_input", (None, MASK), TypeError, "hidden_states must be a tensor, got NoneType"),
    (
        "unpad_input",
        (TOKENS[0, :, 0], MASK),
        ValueError,
        r"hidden_states must have the dimensions \[batch, seqlen, ...\]",
    ),
    ("unpad_input", (TOKENS, [1]), TypeError, "attention_mask must be a tensor, got list"),
    (
        "unpad_input",
        (TOKENS, MASK.float()),
        TypeError,
        "attention_mask must be one of torch.bool, .* got torch.float32",
    ),
    (
        "unpad_input",
        (TOKENS, MASK[:3]),
        ValueError,
        r"attention_mask must have the shape \[batch, seqlen\] of .*\(4, 6\)",
    ),
    ("unpad_input", (TOKENS, MASK[0]), ValueError, "attention_mask must have the dimensions"),
    ("unpad_input", (TOKENS, MASK, MASK[:, :2]), ValueError, "unused_mask must have the shape"),
    (
        "unpad_input",
        (TOKENS, MASK.to("meta")),
        ValueError,
        "attention_mask must be on the device of hidden_states, cpu",
    ),
    ("pad_input", (3, INDICES, 2, 3), TypeError, "hidden_states must be a tensor, got int"),
    ("pad_input", (TOKENS, INDICES.float(), 2, 3), TypeError, "indices must be one of torch.int32, torch.int64, got"),
    (
        "pad_input",
        (TOKENS, INDICES[:3], 2, 3),
        ValueError,
        "indices must be as many as the tokens of hidden_states, 4, got 3",
    ),
    (
        "pad_input",
        (TOKENS, INDICES[None], 2, 3),
        ValueError,
        r"indices must have 1 dimension \[count\], got shape \(1, 4\)",
    ),
    ("pad_input", (TOKENS, INDICES, 2.0, 3), TypeError, "batch must be of integer type, got float"),
    ("pad_input", (TOKENS, INDICES, 2, -3), ValueError, "seqlen must be 0 to 2147483647, got -3"),
    ("index_first_axis", ([1], INDICES), TypeError, "input must be a tensor, got list"),
    (
        "index_first_axis",
        (torch.tensor(1.0), INDICES),
        ValueError,
        r"input must have the dimensions \[rows, ...\], got",
    ),
    ("index_first_axis", (TOKENS, [1]), TypeError, "indices must be a tensor, got list"),
    (
        "index_first_axis",
        (TOKENS, INDICES.to("meta")),
        ValueError,
        "indices must be on the device of input, cpu, got meta",
    ),
]


@pytest.mark.parametrize("name, arguments, error, message", ERRORS, ids=[f"{e[0]}-{e[3][:40]}" for e in ERRORS])
def test_error(kernel, name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(kernel, name)(*arguments)
