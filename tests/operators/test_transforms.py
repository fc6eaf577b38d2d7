"""The public functions under what PyTorch wraps around them: autocast, no_grad, inference mode, compile, export, fakes,
vmap, forward-mode derivatives, another default device. Level: CPU implementation, and tracing."""

from __future__ import annotations

import pytest
import torch
from cases import random_tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

LENGTHS = (6, 5, 8, 11, 13, 16, 17, 20, 24, 31, 32, 33, 40, 48, 57, 63, 64, 65, 70, 90)  # twenty


def int32(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def dense(kernel, query, key, value):
    return kernel.flash_attn_func(query[None], key[None], value[None], causal=True, softcap=5.0)


def packed(kernel, query, key, value):
    cu_seqlens = torch.arange(2, dtype=torch.int32) * query.shape[0]
    return kernel.flash_attn_varlen_func(
        query, key, value, cu_seqlens, cu_seqlens, query.shape[0], query.shape[0], return_attn_probs=True
    )[0]


def qkv_packed(kernel, query, key, value):
    return kernel.flash_attn_qkvpacked_func(torch.stack([query, query, query], dim=1)[None], causal=True)


def kv_packed(kernel, query, key, value):
    cu_seqlens = torch.arange(2, dtype=torch.int32) * query.shape[0]
    return kernel.flash_attn_varlen_kvpacked_func(
        query, torch.stack([key, value], dim=1), cu_seqlens, cu_seqlens, query.shape[0], query.shape[0]
    )


def merged(kernel, query, key, value):
    """In two parts."""
    parts = [
        kernel.flash_attn_func(query[None], key[None, rows], value[None, rows], return_attn_probs=True)
        for rows in (slice(0, 2), slice(2, None))
    ]
    return kernel.merge_attention_states([part[0] for part in parts], [part[1] for part in parts])[0]


def padded(kernel, query, key, value):
    indices = torch.arange(query.shape[0])
    rows = kernel.index_first_axis(query, indices)
    return kernel.pad_input(rows, indices, 1, query.shape[0] + 1)


def with_cache(kernel, query, key, value, **arguments):
    """Appends to a cache of the query's length, and returns the cache as well."""
    caches = [torch.zeros(4, query.shape[0] + 8, 2, 16) for _ in range(2)]
    angles = torch.arange(query.shape[0] + 8)[:, None] / torch.arange(1, 5)
    new = [tensor[-2:].expand(3, -1, -1, -1) for tensor in (query, key, value)]
    output = kernel.flash_attn_with_kvcache(
        new[0],
        *caches,
        *new[1:],
        angles.cos(),
        angles.sin(),
        causal=True,
        **{"cache_seqlens": int32(1, 5, 0)} | arguments,
    )
    return torch.cat([output.flatten(), *(cache.flatten() for cache in caches)])


def with_cache_rows(kernel, query, key, value):
    return with_cache(kernel, query, key, value, cache_batch_idx=int32(2, 0, 3), cache_leftpad=int32(1, 2, 0))


def with_cache_length(kernel, query, key, value):
    return with_cache(kernel, query, key, value, cache_seqlens=query.shape[0])


DIFFERENTIABLE = [dense, packed, qkv_packed, kv_packed, merged, padded]
CACHES = [with_cache, with_cache_rows, with_cache_length]


def tensors_of(length: int, requires_grad=False) -> list[torch.Tensor]:
    return [random_tensor(length + heads, length, heads, 16).requires_grad_(requires_grad) for heads in (4, 2, 2)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("function", DIFFERENTIABLE + CACHES)
def test_compile(kernel, function):
    """One graph for twenty lengths, with the results and gradients of the plain function."""
    requires_grad = function in DIFFERENTIABLE
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *inputs: function(kernel, *inputs), backend="aot_eager", fullgraph=True, dynamic=True
    )
    for length in LENGTHS:
        tensors = tensors_of(length, requires_grad)
        with torch._dynamo.config.patch(error_on_recompile=True):
            output = compiled(*tensors)
        expected = function(kernel, *tensors)
        torch.testing.assert_close(output, expected)
        if requires_grad:
            grads = [
                torch.autograd.grad(x.square().sum(), tensors, allow_unused=True, materialize_grads=True)
                for x in (output, expected)
            ]
            torch.testing.assert_close(*grads)


def test_a_compiled_cache_refuses_the_backward(kernel):
    torch._dynamo.reset()
    compiled = torch.compile(lambda *inputs: with_cache(kernel, *inputs), backend="aot_eager", fullgraph=True)
    output = compiled(*tensors_of(9, requires_grad=True))
    with pytest.raises(NotImplementedError, match="flash_attn_with_kvcache has no gradient"):
        output.sum().backward()


def test_lengths_become_dynamic_by_themselves(kernel):
    """Without dynamic=True: once for the first length, once for all others."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(lambda *inputs: packed(kernel, *inputs), backend=counter, fullgraph=True)
    for length in LENGTHS:
        compiled(*tensors_of(length))
    assert counter.frame_count == 2


class Module(torch.nn.Module):
    def __init__(self, kernel, function):
        super().__init__()
        self.kernel, self.function = kernel, function

    def forward(self, query, key, value):
        return self.function(self.kernel, query, key, value)


@pytest.mark.parametrize(
    "function, strict",
    [(dense, True), (dense, False), (packed, True), (qkv_packed, False), (with_cache, True), (with_cache_rows, False)],
)
def test_export(kernel, function, strict):
    length = torch.export.Dim("length", min=4, max=4096)
    module = Module(kernel, function)
    exported = torch.export.export(
        module, tuple(tensors_of(9)), dynamic_shapes=({0: length},) * 3, strict=strict
    ).module()
    for other in (9, 33):
        torch.testing.assert_close(exported(*tensors_of(other)), module(*tensors_of(other)))


@pytest.mark.parametrize("function", DIFFERENTIABLE + CACHES)
def test_fake_tensors(kernel, function):
    real = function(kernel, *tensors_of(9))
    with FakeTensorMode() as mode:
        fake = function(kernel, *(mode.from_tensor(tensor) for tensor in tensors_of(9)))
    assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("function", [dense, packed, qkv_packed, kv_packed, merged])
def test_autocast(kernel, function, dtype):
    """Tensors keep their dtype and the sums their precision, in the forward and in the backward."""
    tensors = tensors_of(33, requires_grad=True)
    expected = function(kernel, *tensors)
    with torch.autocast("cpu", dtype):
        output = function(kernel, *tensors)
    assert output.dtype == torch.float32 and torch.equal(output, expected)
    arguments = {"allow_unused": True, "materialize_grads": True}
    expected_grads = torch.autograd.grad(expected.square().sum(), tensors, **arguments)
    with torch.autocast("cpu", dtype):
        grads = torch.autograd.grad(output.square().sum(), tensors, **arguments)
    assert all(torch.equal(grad, other) for grad, other in zip(grads, expected_grads))


def test_autocast_around_a_layer(kernel):
    """Projections under autocast are bfloat16, and so is what attention makes of them."""
    projection = torch.nn.Linear(32, 96)
    with torch.autocast("cpu", torch.bfloat16):
        qkv = projection(random_tensor(0, 2, 9, 32)).view(2, 9, 3, 2, 16)
        output = kernel.flash_attn_qkvpacked_func(qkv)
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    assert projection.weight.grad.any() and projection.weight.grad.isfinite().all()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("function", DIFFERENTIABLE + CACHES)
def test_without_gradients(kernel, launcher, function, context):
    tensors = tensors_of(9, requires_grad=True)
    expected = function(kernel, *tensors)
    with context():
        output = function(kernel, *tensors)
        inner = function(kernel, *tensors_of(9))  # of tensors made within
    assert not output.requires_grad and output.is_inference() == (context is torch.inference_mode)
    assert torch.equal(output, expected) and torch.equal(inner, expected)


@pytest.mark.parametrize("function", [dense, packed, qkv_packed])
def test_vmap_is_refused(kernel, launcher, function):
    batched = [tensor.expand(2, -1, -1, -1).clone() for tensor in tensors_of(9)]
    with pytest.raises(NotImplementedError, match="attention does not support torch.vmap"):
        torch.vmap(lambda *inputs: function(kernel, *inputs))(*batched)


def test_forward_mode_derivatives_are_refused(kernel, launcher):
    query, key, value = tensors_of(9)
    with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention are not implemented"):
        torch.func.jvp(lambda x: dense(kernel, x, key, value), (query,), (query,))
    with forward_ad.dual_level():
        dense(kernel, query, key, value)  # nothing to derive
        dual, cu_seqlens = forward_ad.make_dual(key, key), int32(0, 9)
        with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention are not implemented"):
            dense(kernel, query, dual, value)
        with pytest.raises(NotImplementedError, match="forward-mode derivatives of attention are not implemented"):
            out = torch.empty_like(query)
            kernel.flash_attention_varlen(out, query, dual, value, cu_seqlens, cu_seqlens, 9, 9)


def test_another_default_device(kernel):
    """What is made for tensors on the CPU is made there: masks, distances, the seed of a dropout."""
    tensors, slopes = tensors_of(9, requires_grad=True), torch.ones(4)

    def run():
        torch.manual_seed(0)
        output = kernel.flash_attn_func(
            *(tensor[None] for tensor in tensors), 0.5, causal=True, window_size=(3, 0), alibi_slopes=slopes
        )
        return output, *torch.autograd.grad(output.sum(), tensors)

    expected = run()
    with torch.device("meta"):
        results = run()
    assert all(torch.equal(result, other) for result, other in zip(results, expected))
