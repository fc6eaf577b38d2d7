"""precompile: the pipelines of a model's calls, known before the calls. Level: plans; compilers are stand-ins."""

from __future__ import annotations

import importlib
import time

import pytest
import recorded
import torch

GPUS = [(7, 8), (8, 38), (9, 40), (10, 10)]
MODEL = {"num_heads": 8, "num_heads_kv": 2, "head_dim": 64, "dtype": torch.float16, "max_seqlen": 700, "max_batch": 3}
LENGTHS = [1, 2, 3, 31, 64, 100, 511, 513, 700]


class Preparing(recorded.Plans):
    """Keeps what it is to prepare, too."""

    def __init__(self):
        super().__init__()
        self.prepared = []

    def prepare(self, plan):
        self.prepared.append(pipeline(plan))


def pipeline(plan) -> tuple:
    return plan.source, plan.kernel, plan.constants


def dense(kernel, batch, queries, keys, dtype, **settings):
    query, key = (torch.empty(batch, tokens, heads, 64, dtype=dtype) for tokens, heads in ((queries, 8), (keys, 2)))
    return kernel.flash_attn_func(query, key, key, **settings)


def packed(kernel, batch, queries, keys, dtype, **settings):
    query, key = (torch.empty(batch * tokens, heads, 64, dtype=dtype) for tokens, heads in ((queries, 8), (keys, 2)))
    bounds = [torch.arange(batch + 1, dtype=torch.int32) * tokens for tokens in (queries, keys)]
    return kernel.flash_attn_varlen_func(query, key, key, *bounds, queries, keys, **settings)


def paged(kernel, batch, queries, keys, dtype, **settings):
    query, pages = torch.empty(batch * queries, 8, 64, dtype=dtype), -(-keys // 32)
    cache = torch.empty(batch * pages, 32, 2, 64, dtype=dtype)
    table = torch.zeros(batch, pages, dtype=torch.int32)
    bounds = [torch.arange(batch + 1, dtype=torch.int32) * tokens for tokens in (queries, keys)]
    used = None if queries == 1 else torch.ones(batch, dtype=torch.int32)
    return kernel.flash_attn_varlen_func(
        query, cache, cache, *bounds, queries, keys, block_table=table, seqused_k=used, **settings
    )


def cached(kernel, batch, queries, keys, dtype, page_size=None, rotary_dim=0, **settings):
    query, new = (torch.empty(batch, queries, heads, 64, dtype=dtype) for heads in (8, 2))
    shape, table = (batch, keys), None
    if page_size:
        pages = -(-keys // page_size)
        shape, table = (batch * pages, page_size), torch.zeros(batch, pages, dtype=torch.int32)
    caches = [torch.empty(*shape, 2, 64, dtype=dtype) for _ in range(2)]
    angles = torch.empty(800, rotary_dim // 2) if rotary_dim else None
    return kernel.flash_attn_with_kvcache(
        query, *caches, new, new, rotary_cos=angles, rotary_sin=angles, block_table=table, cache_seqlens=0, **settings
    )


CAUSAL, BIAS = {"causal": True}, torch.zeros(8, 700, 700)
CASES = {  # call, what the real call is, arguments of both, of precompile alone, of the call alone
    "dense": ("flash_attn_func", dense, CAUSAL, {}, {}),
    "a window and a softcap": ("flash_attn_func", dense, {"window_size": (100, 0), "softcap": 20.0}, {}, {}),
    "lse": ("flash_attn_func", dense, {}, {"return_lse": True}, {"return_attn_probs": True}),
    "slopes and sinks": (
        "flash_attn_func", dense, CAUSAL, {"alibi_slopes": True, "sinks": True},
        {"alibi_slopes": torch.zeros(8), "s_aux": torch.zeros(8)},
    ),
    "dropout": ("flash_attn_func", dense, {"dropout_p": 0.1}, {}, {}),
    "packed": ("flash_attn_varlen_func", packed, CAUSAL, {}, {}),
    "packed pages": ("flash_attn_varlen_func", paged, CAUSAL, {"page_size": 32}, {}),
    "cache": ("flash_attn_with_kvcache", cached, CAUSAL, {}, {}),
    "cache, rotated": ("flash_attn_with_kvcache", cached, {"rotary_dim": 32, **CAUSAL}, {}, {}),
    "cache of pages": ("flash_attn_with_kvcache", cached, {"page_size": 16, **CAUSAL}, {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_calls_find_their_kernels(kernel, name, dtype, gpu):
    """Of all lengths and batches up to the largest, also those between powers of two."""
    call, function, both, ours, theirs = CASES[name]
    launcher, device = Preparing(), kernel.device.Device(*gpu, matrix_unit=gpu[0] == 10)
    with kernel.launchers.use_launcher(launcher, device):
        found = kernel.precompile(call, **{**MODEL, "dtype": dtype}, **both, **ours)
        assert not launcher.seen and len(found) == len(launcher.prepared) == len(set(launcher.prepared))
        for batch in (1, 2, 3):
            for keys in LENGTHS:
                for queries in {1, keys}:
                    function(kernel, batch, queries, keys, dtype, **both, **theirs)
    used = {pipeline(plan) for plan, _ in launcher.seen}
    assert used and used <= set(launcher.prepared)


@pytest.mark.parametrize("settings", [{}, {"window_size": (100, 100)}, {"dropout_p": 0.1}], ids=str)
@pytest.mark.parametrize("function", [dense, packed])
def test_gradients_find_theirs(kernel, function, settings):
    launcher = Preparing()
    call = "flash_attn_func" if function is dense else "flash_attn_varlen_func"
    with kernel.launchers.use_launcher(launcher):
        kernel.precompile(call, **MODEL, gradients=True, **settings)
        for length in LENGTHS:
            query, key = (torch.zeros(2, length, heads, 64, dtype=torch.float16) for heads in (8, 2))
            leaves = [tensor.requires_grad_() for tensor in (query, key, key.detach().clone())]
            if function is dense:
                output = kernel.flash_attn_func(*leaves, **settings)
            else:
                bounds = torch.tensor([0, length, 2 * length], dtype=torch.int32)
                flat = [leaf.flatten(0, 1) for leaf in leaves]
                output = kernel.flash_attn_varlen_func(*flat, bounds, bounds, length, length, **settings)
            output.sum().backward()
    used = {pipeline(plan) for plan, _ in launcher.seen}
    assert len(used) >= 4 and used <= set(launcher.prepared)


@pytest.mark.parametrize("is_mask", [True, False])
def test_biases_find_theirs(kernel, is_mask):
    launcher = Preparing()
    bias = torch.zeros(100, 100, dtype=torch.bool if is_mask else torch.float64)
    with kernel.launchers.use_launcher(launcher):
        kernel.precompile("flash_attn_func", **MODEL, attn_bias=bias.dtype)
        dense(kernel, 2, 100, 100, torch.float16, attn_bias=bias)
    assert {pipeline(plan) for plan, _ in launcher.seen} <= set(launcher.prepared)


def test_without_a_gpu_it_says_what_it_would_do(kernel):
    begin = time.process_time()
    found = kernel.precompile(
        "flash_attn_with_kvcache", num_heads=32, num_heads_kv=8, head_dim=128, dtype=torch.bfloat16, causal=True,
        max_seqlen=2**17, max_batch=32, page_size=16, rotary_dim=128,
    )  # fmt: skip
    assert time.process_time() - begin < 5
    assert {each.milliseconds for each in found} == {None}
    kernels = [each.kernel for each in found]
    assert {"cache_append_bf16", "cache_append_bf16_f32"} <= set(kernels)
    assert any(each.kernel.startswith("attention_forward_bf16_d128") and "is_paged" in each.features for each in found)
    assert any(kernel.startswith("attention_combine") for kernel in kernels)


def test_the_compiler_is_asked_once(metal_kernel, monkeypatch):
    """By the run-time launcher; the calls then find everything."""
    libraries = recorded.ShaderLibraries()
    monkeypatch.setattr(torch.mps, "compile_shader", libraries)
    runtime = importlib.import_module(f"{metal_kernel.__name__}.launching.runtime")
    runtime._kernel.cache_clear()
    with metal_kernel.launchers.use_launcher(runtime.RuntimeLauncher()):
        found = metal_kernel.precompile("flash_attn_with_kvcache", **MODEL, causal=True, rotary_dim=64)
        assert len(libraries.texts) == len(found) and all(each.milliseconds >= 0 for each in found)
        assert libraries.launches == []
        metal_kernel.precompile("flash_attn_with_kvcache", **MODEL, causal=True, rotary_dim=64)
        cached(metal_kernel, 2, 1, 300, torch.float16, rotary_dim=64, causal=True)
    assert len(libraries.texts) == len(found) and len(libraries.launches) == 2
    runtime._kernel.cache_clear()


def test_what_the_compiler_refuses(metal_kernel, monkeypatch):
    def compile_shader(text):
        raise SyntaxError("no")

    monkeypatch.setattr(torch.mps, "compile_shader", compile_shader)
    runtime = importlib.import_module(f"{metal_kernel.__name__}.launching.runtime")
    runtime._kernel.cache_clear()
    with metal_kernel.launchers.use_launcher(runtime.RuntimeLauncher()):
        with pytest.raises(RuntimeError, match="the Metal compiler refuses attention_forward_f16_d64.*: no"):
            metal_kernel.precompile("flash_attn_func", **MODEL)


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"call": "attention"}, ValueError, "call must be one of flash_attn_func, .*got 'attention'"),
        ({"num_heads": 0}, ValueError, "num_heads must be 1 or more, got 0"),
        ({"max_seqlen": -1}, ValueError, "max_seqlen must be 0 to 2147483647, got -1"),
        ({"max_batch": 1.5}, TypeError, "max_batch must be of integer type, got float"),
        ({"num_heads_kv": 3}, ValueError, "must be a multiple of that of num_heads_kv, got 3"),
        ({"head_dim": 577}, ValueError, "must have a head_dim of 1 to 576, got 577"),
        ({"value_dim": 513}, ValueError, "value_dim must have a head_dim of 1 to 512, got 513"),
        ({"dtype": torch.int8}, TypeError, "dtype must be one of .*got torch.int8"),
        ({"attn_bias": torch.int8}, TypeError, "attn_bias must be one of .*got torch.int8"),
        ({"attn_bias": True}, TypeError, "attn_bias must be one of .*got True"),
        ({"sinks": 1}, TypeError, "sinks must be a bool, got int"),
        ({"page_size": 16}, ValueError, "page_size must be 0 for flash_attn_func"),
        ({"call": "flash_attn_varlen_func", "page_size": 20}, ValueError, "page_size must be a multiple of 16, got 20"),
        ({"rotary_dim": 16}, ValueError, "rotary_dim must be 0 but for flash_attn_with_kvcache, got 16"),
        ({"call": "flash_attn_with_kvcache", "rotary_dim": 66}, ValueError, "rotary_dim must be even and at most"),
        ({"call": "flash_attn_with_kvcache", "gradients": True}, ValueError, "flash_attn_with_kvcache has neither"),
        ({"gradients": True, "head_dim": 320}, NotImplementedError, "head_dim"),
        ({"window_size": (1, 2, 3)}, ValueError, "window_size must be a pair"),
        ({"dropout_p": 1.0}, ValueError, "dropout_p must be 0.0 or more and less than 1.0"),
    ],
)
def test_errors(kernel, wrong, error, message):
    with pytest.raises(error, match=message):
        kernel.precompile(**{"call": "flash_attn_func", **MODEL, **wrong})
