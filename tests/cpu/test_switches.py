"""The CPU implementation gives the same bits whatever PyTorch's global switches say."""

from __future__ import annotations

import contextlib

import pytest
import torch
from cases import call_of, dense, packed, random_tensor
from chunks import call_directly
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@contextlib.contextmanager
def setting(getter, setter, value):
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextlib.contextmanager
def sdp_switched_off():
    cuda = torch.backends.cuda
    with setting(cuda.math_sdp_enabled, cuda.enable_math_sdp, False):
        with setting(cuda.flash_sdp_enabled, cuda.enable_flash_sdp, False):
            yield


def deterministic(warn_only=False):
    return setting(
        torch.are_deterministic_algorithms_enabled,
        lambda on: torch.use_deterministic_algorithms(on, warn_only=warn_only and on),
        True,
    )


def default_dtype(dtype):
    return setting(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def flush_denormal():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def matmul_precision(precision):
    return setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, precision)


class FunctionMode(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


# By name: the context. The same bits are expected in all of these.
SWITCHES = {
    **{f"sdpa_kernel {backend.name}": lambda backend=backend: sdpa_kernel(backend) for backend in (
        SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION,
    )},
    "sdpa_kernel priority": lambda: sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], set_priority=True),
    "enable_sdp off": sdp_switched_off,
    **{f"default dtype {dtype}": lambda dtype=dtype: default_dtype(dtype) for dtype in (
        torch.float64, torch.float16, torch.bfloat16,
    )},
    "default device meta": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
    **{f"autocast {dtype}": lambda dtype=dtype: torch.autocast("cpu", dtype) for dtype in (
        torch.bfloat16, torch.float16,
    )},
    "deterministic": deterministic,
    "deterministic, warn only": lambda: deterministic(warn_only=True),
    "flush denormal": flush_denormal,
    "anomaly mode": torch.autograd.detect_anomaly,
    "function mode": FunctionMode,
    "dispatch mode": DispatchMode,
}  # fmt: skip


def results_of(kernel, context):
    """Of many calls in that context, the inputs made outside of it."""
    query, key, value = (tensor.requires_grad_() for tensor in dense(2, 40, 70, 4, 2, 32, torch.float32))
    features = {"alibi_slopes": torch.tensor([0.5, 0.25, 0.1, 0.0]), "softcap": 5.0}
    sinks = torch.tensor([1.0, 0.0, -1.0, 2.0]).requires_grad_()
    half = [tensor.bfloat16() for tensor in (query.detach(), key.detach(), value.detach())]
    *batch, cu_q, cu_k = packed([(40, 40), (7, 33), (33, 7)], 4, 2, 32, torch.float32)
    cache, table = random_tensor(5, 8, 16, 2, 32), torch.arange(8, dtype=torch.int32).view(2, 4)
    lengths = torch.tensor([60, 33], dtype=torch.int32)
    parts = [random_tensor(seed, 5, 2, 8) for seed in range(2)], [random_tensor(seed, 2, 5) for seed in range(2)]
    grad = random_tensor(7, 2, 40, 4, 32)
    huge = [torch.full((1, 3, 2, 32), torch.finfo(torch.float32).max) for _ in range(3)]
    torch.manual_seed(3)
    with context():
        results = [
            kernel.flash_attn_func(query, key, value),
            kernel.flash_attn_func(query, key, value, causal=True),
            kernel.flash_attn_func(query, key, value, window_size=(5, 3)),
            kernel.flash_attn_func(query, key, value, causal=True, s_aux=sinks, **features),
            kernel.flash_attn_func(query, key, value, dropout_p=0.3, causal=True),
        ]
        sums = kernel.flash_attn_func(query, key, value, return_attn_probs=True, window_size=(5, 3))[:2]
        grads = [torch.autograd.grad(result, query, grad, retain_graph=True)[0] for result in results]
        grads += torch.autograd.grad(results[3], [key, value, sinks], grad)
        results += [
            *sums,
            *grads,
            kernel.flash_attn_func(*half, causal=True),
            kernel.flash_attn_func(*huge),
            kernel.flash_attn_varlen_func(*batch, cu_q, cu_k, 40, 40, causal=True),
            kernel.flash_attn_with_kvcache(
                query.detach(), cache, cache, cache_seqlens=lengths, block_table=table, causal=True
            ),
            *kernel.merge_attention_states(*parts),
        ]
    return [result.detach() for result in results]


@pytest.fixture(scope="module")
def expected(kernel):
    return results_of(kernel, contextlib.nullcontext)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_same_bits(kernel, expected, switch):
    results = results_of(kernel, switch)
    for index, (result, right) in enumerate(zip(results, expected)):
        assert result.dtype == right.dtype and result.device.type == "cpu", index
        assert torch.equal(result, right), index


# These choose other routines for products of matrices, or divide them otherwise.
ROUNDINGS = {
    "mkldnn off": lambda: torch.backends.mkldnn.flags(enabled=False),
    "medium": lambda: matmul_precision("medium"),
    "high": lambda: matmul_precision("high"),
    "one thread": lambda: setting(torch.get_num_threads, torch.set_num_threads, 1),
    "two threads": lambda: setting(torch.get_num_threads, torch.set_num_threads, 2),
}


@pytest.mark.parametrize("switch", ROUNDINGS.values(), ids=ROUNDINGS)
def test_same_to_rounding(kernel, expected, switch):
    for result, right in zip(results_of(kernel, switch), expected):
        relative = 2**-7 if right.dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(result, right, rtol=relative, atol=relative * min(1e30, float(right.abs().max())))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(kernel, mode):
    query, key, value = dense(2, 40, 70, 4, 2, 32, torch.float32)
    right = kernel.flash_attn_func(query, key, value, causal=True, return_attn_probs=True)
    with mode():
        result = kernel.flash_attn_func(query, key, value, causal=True, return_attn_probs=True)
        assert torch.equal(result[0], right[0]) and torch.equal(result[1], right[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_a_backward_under_a_switch(kernel, switch):
    """The forward outside of it."""
    inputs = [tensor.requires_grad_() for tensor in dense(2, 20, 30, 4, 2, 32, torch.float32)]
    grad, right = random_tensor(7, 2, 20, 4, 32), None
    for context in (contextlib.nullcontext, switch):
        output = kernel.flash_attn_func(*inputs, causal=True, softcap=5.0)
        with context():
            grads = torch.autograd.grad(output, inputs, grad)
        right = right or grads
    assert all(map(torch.equal, grads, right))


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_no_matrices_of_fp32_in_less(kernel, monkeypatch, precision):
    """Where PyTorch may multiply them in bf16, whatever this processor does."""
    call_directly(kernel, monkeypatch)
    seen = set()

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if any(word in str(function) for word in ("mm", "attention", "matmul")):
                seen.update(tensor.dtype for tensor in args if isinstance(tensor, torch.Tensor))
            return function(*args, **(kwargs or {}))

    inputs = [tensor.requires_grad_() for tensor in dense(1, 9, 9, 2, 2, 16, torch.float32)]
    with matmul_precision(precision), Products():
        kernel.flash_attn_func(*inputs)
        operator = kernel.operators.attention_backward
        query, key, value = (tensor.detach() for tensor in inputs)
        operator(query, None, *call_of(kernel, query, key, value, window_right=0), None, None, True, False)
    assert seen == {torch.float64}
