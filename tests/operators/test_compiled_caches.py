"""flash_attn_with_kvcache on caches that are parts or views of larger tensors: compiled and not, the same answers, the
same caches, and nothing written beside them. Level: CPU implementation."""

from __future__ import annotations

import pytest
import torch
from cases import call_of, random_tensor
from reference import assert_output, attention

# By name: (shape of the larger tensor, the cache [2, 24, 2, 32] in it)
VIEWS = {
    "whole": ((2, 24, 2, 32), lambda big: big),
    "some rows": ((5, 24, 2, 32), lambda big: big[1:3]),
    "some tokens": ((2, 40, 2, 32), lambda big: big[:, 7:31]),
    "some heads": ((2, 24, 5, 32), lambda big: big[:, :, 2:4]),
    "rows and tokens": ((4, 40, 2, 32), lambda big: big[:2, :24]),
    "everything": ((4, 40, 4, 48), lambda big: big[1:3, 3:27, 1:3, 8:40]),
    "every other row": ((4, 24, 2, 32), lambda big: big[::2]),
    "every other token": ((2, 48, 2, 32), lambda big: big[:, ::2]),
    "head-major": ((2, 2, 24, 32), lambda big: big.transpose(1, 2)),
    "part of a head-major one": ((3, 4, 30, 32), lambda big: big[1:, 1:3, 5:29].transpose(1, 2)),
    "token-major": ((24, 2, 2, 32), lambda big: big.transpose(0, 1)),
    "one layer of many": ((3, 2, 24, 2, 32), lambda big: big[1]),
    "no whole number of tokens apart": (
        (2, 24 * 64 + 7),
        lambda big: big[:, 3 : 3 + 24 * 64].unflatten(1, (24, 2, 32)),
    ),
}
STEPS = {
    "dense": {},
    "left padding": {"cache_leftpad": torch.tensor([2, 0], dtype=torch.int32)},
    "rows": {"cache_batch_idx": torch.tensor([1, 0], dtype=torch.int32)},
    "rows and left padding": {
        "cache_batch_idx": torch.tensor([1, 0], dtype=torch.int32),
        "cache_leftpad": torch.tensor([2, 0], dtype=torch.int32),
    },
}
LENGTHS = [6, 11]  # before the call, to which 3 are appended


def step(kernel, q, k_cache, v_cache, k, v, lengths, arguments):
    return kernel.flash_attn_with_kvcache(
        q, k_cache, v_cache, k, v, cache_seqlens=lengths, causal=True, return_softmax_lse=True, **arguments
    )


def tensors():
    q, k, v = random_tensor(1, 2, 3, 4, 32), random_tensor(2, 2, 3, 2, 32), random_tensor(3, 2, 3, 2, 32)
    return q, k, v, torch.tensor(LENGTHS, dtype=torch.int32)


def expected_of(big_k, big_v, view, arguments):
    """(output, the larger tensors after the call), by the definition."""
    q, k, v, _ = tensors()
    big_k, big_v = big_k.clone(), big_v.clone()
    keys, values = view(big_k), view(big_v)
    outputs = []
    for b, length in enumerate(LENGTHS):
        row = int(arguments["cache_batch_idx"][b]) if "cache_batch_idx" in arguments else b
        begin = int(arguments["cache_leftpad"][b]) if "cache_leftpad" in arguments else 0
        keys[row, length : length + 3], values[row, length : length + 3] = k[b], v[b]
        seen = slice(begin, length + 3)
        outputs.append(attention(q[b : b + 1], keys[None, row, seen], values[None, row, seen], window=(-1, 0))[0])
    return torch.cat(outputs), big_k, big_v


def check(call, shape, view, arguments):
    big_k, big_v = random_tensor(4, *shape), random_tensor(5, *shape)
    expected, expected_k, expected_v = expected_of(big_k, big_v, view, arguments)
    q, k, v, lengths = tensors()
    output, lse = call(q, view(big_k), view(big_v), k, v, lengths, arguments)
    assert_output(output, expected, big_v)
    assert lse.shape == (2, 4, 3) and lse.isfinite().all()
    assert torch.equal(big_k, expected_k) and torch.equal(big_v, expected_v)


@pytest.mark.parametrize("arguments", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("shape, view", VIEWS.values(), ids=VIEWS)
def test_eager(kernel, launcher, shape, view, arguments):
    check(lambda *inputs: step(kernel, *inputs), shape, view, arguments)


@pytest.mark.parametrize("shape, view", VIEWS.values(), ids=VIEWS)
def test_aot_eager(kernel, shape, view):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *inputs: step(kernel, *inputs), backend="aot_eager", fullgraph=True)
    check(compiled, shape, view, STEPS["rows and left padding"])


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arguments", STEPS.values(), ids=STEPS)
def test_dynamic_shapes(kernel, arguments):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *inputs: step(kernel, *inputs), backend="aot_eager", fullgraph=True, dynamic=True)
    check(compiled, *VIEWS["everything"], arguments)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name, arguments", [("everything", "dense"), ("rows and tokens", "left padding"), ("head-major", "rows")]
)
def test_inductor(kernel, name, arguments):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *inputs: step(kernel, *inputs), backend="inductor", fullgraph=True)
    check(compiled, *VIEWS[name], STEPS[arguments])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_view_is_made_inside(kernel, backend):
    """What is compiled knows the larger tensors only; and keys and values may lie in one of them."""

    def inside(q, big, k, v, lengths):
        keys, values = big[:2, :24, 0], big[:2, :24, 1]
        return step(kernel, q, keys, values, k, v, lengths, STEPS["left padding"])

    torch._dynamo.reset()
    q, k, v, lengths = tensors()
    big, other = (random_tensor(4, 4, 40, 2, 2, 32) for _ in range(2))
    expected = inside(q, big, k, v, lengths)
    output = torch.compile(inside, backend=backend, fullgraph=True)(q, other, k, v, lengths)
    torch.testing.assert_close(output, expected)
    assert torch.equal(big, other)


def test_a_decoding_loop(kernel):
    """One graph for every step: lengths are values, and the cache grows in the larger tensor."""
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *inputs: step(kernel, *inputs, STEPS["left padding"]), backend="aot_eager", fullgraph=True
    )
    bigs = [random_tensor(seed, 4, 40, 2, 32) for seed in (4, 5)]
    others = [big.clone() for big in bigs]
    for length in range(2, 8):
        q, k, v = (random_tensor(length + heads, 2, 1, heads, 32) for heads in (4, 2, 2))
        lengths = torch.tensor([length, length + 3], dtype=torch.int32)
        with torch._dynamo.config.patch(error_on_recompile=length > 2):
            output = compiled(q, *(big[:2, :24] for big in bigs), k, v, lengths)
        expected = step(kernel, q, *(other[:2, :24] for other in others), k, v, lengths, STEPS["left padding"])
        torch.testing.assert_close(output, expected)
        assert all(torch.equal(big, other) for big, other in zip(bigs, others))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_strided_last_dimension(kernel, backend):
    """Whether a row is copied is decided where its strides are those of the memory."""
    torch._dynamo.reset()
    q, k, v = (random_tensor(seed, 2, 9, 2, 32, 2) for seed in range(3))

    def run(q, k, v):
        q, k, v = (tensor.transpose(3, 4) * 2 for tensor in (q, k, v))
        return kernel.flash_attn_func(q[..., 0, :], k[..., 1, :], v[..., 0, :].mT.contiguous().mT)

    torch.testing.assert_close(torch.compile(run, backend=backend, fullgraph=True)(q, k, v), run(q, k, v))


def test_over_rows_is_an_operator_as_it_should_be(kernel):
    q, keys, values = random_tensor(1, 2, 3, 4, 32), random_tensor(2, 3, 24, 2, 32), random_tensor(3, 3, 24, 2, 16)
    rows, leftpad, lengths = torch.tensor([2, 0]), torch.tensor([1, 0]), torch.tensor([9, 24])
    call = call_of(kernel, q, keys, values, seqused_k=lengths, window_right=0)
    for return_lse in (False, True):
        torch.library.opcheck(kernel.operators.attention_over_rows, (*call, rows, leftpad, return_lse))
