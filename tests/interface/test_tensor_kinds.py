"""Tensors that are no plain ones: the answer, or an error that names the argument and what it is."""

from __future__ import annotations

import re

import pytest
import torch
from cases import random_tensor


def int32(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def good_calls() -> dict:
    """By function: its arguments; all tensors of them are looked at."""
    cu_seqlens, packed = int32(0, 3, 8), random_tensor(0, 8, 2, 16)
    lengths = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "max_seqlen_q": 5, "max_seqlen_k": 5}
    extras = {"alibi_slopes": torch.ones(2), "s_aux": torch.ones(2)}
    dense, angles = random_tensor(1, 2, 4, 2, 16), torch.ones(16, 4)
    return {
        "flash_attn_func": {"q": dense, "k": dense, "v": dense, **extras},
        "flash_attn_varlen_func": {
            "q": packed, "k": packed, "v": packed, **lengths, "seqused_k": int32(1, 2), **extras
        },
        "flash_attention_varlen": {
            "out": torch.empty(8, 2, 16), "query": packed, "key": packed, "value": packed, **lengths, **extras
        },
        "flash_attn_qkvpacked_func": {"qkv": random_tensor(2, 2, 4, 3, 2, 16)},
        "flash_attn_kvpacked_func": {"q": dense, "kv": random_tensor(2, 2, 4, 2, 2, 16)},
        "flash_attn_varlen_qkvpacked_func": {
            "qkv": random_tensor(2, 8, 3, 2, 16), "cu_seqlens": cu_seqlens, "max_seqlen": 5
        },
        "flash_attn_varlen_kvpacked_func": {"q": packed, "kv": random_tensor(2, 8, 2, 2, 16), **lengths},
        "flash_attn_with_kvcache": {
            "q": dense, "k_cache": random_tensor(3, 3, 16, 2, 16), "v_cache": random_tensor(4, 3, 16, 2, 16),
            "k": dense, "v": dense, "rotary_cos": angles, "rotary_sin": angles, "cache_seqlens": int32(3, 4),
            "cache_batch_idx": int32(2, 0), "cache_leftpad": int32(0, 1), **extras,
        },
        "unpad_input": {"hidden_states": random_tensor(5, 2, 4, 8), "attention_mask": torch.ones(2, 4).int()},
        "pad_input": {"hidden_states": random_tensor(5, 8, 8), "indices": torch.arange(8), "batch": 2, "seqlen": 4},
        "index_first_axis": {"input": random_tensor(5, 8, 8), "indices": torch.arange(8)},
    }  # fmt: skip


ARGUMENTS = [
    (function, name)
    for function, arguments in good_calls().items()
    for name, value in arguments.items()
    if isinstance(value, torch.Tensor)
]


def nested(layout):
    return lambda tensor: torch.nested.nested_tensor([tensor, tensor], layout=layout)


KINDS = {
    "nested": (nested(torch.strided), "must not be a nested tensor: pass its values to flash_attn_varlen_func"),
    "jagged": (nested(torch.jagged), "must not be a nested tensor: pass its values to flash_attn_varlen_func"),
    "sparse": (lambda tensor: tensor.to_sparse(), "must have the layout torch.strided, got torch.sparse_coo"),
}


@pytest.mark.parametrize("make, message", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("function, name", ARGUMENTS, ids=[f"{f}-{n}" for f, n in ARGUMENTS])
def test_other_layouts(kernel, function, name, make, message):
    arguments = good_calls()[function]
    getattr(kernel, function)(**arguments)
    arguments[name] = make(arguments[name])
    with pytest.raises(NotImplementedError, match=re.escape(message)) as raised:
        getattr(kernel, function)(**arguments)
    assert name in str(raised.value)


@pytest.mark.parametrize("make", [nested(torch.jagged), nested(torch.strided), lambda tensor: tensor.to_sparse()])
def test_merging(kernel, make):
    output, lse = random_tensor(0, 2, 4, 2, 16), random_tensor(1, 2, 2, 4)
    for outputs, lses in (([make(output)], [lse]), ([output], [make(lse)])):
        with pytest.raises(NotImplementedError, match=r"(outputs|softmax_lses)\[0\] must"):
            kernel.merge_attention_states(outputs, lses)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    distributed = pytest.importorskip("torch.distributed")
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("function, name", ARGUMENTS, ids=[f"{f}-{n}" for f, n in ARGUMENTS])
def test_distributed_tensors(kernel, mesh, function, name):
    from torch.distributed.tensor import DTensor

    arguments = good_calls()[function]
    arguments[name] = DTensor.from_local(arguments[name], mesh)
    with pytest.raises(NotImplementedError, match=f"{name}.* must not be a DTensor: pass its to_local"):
        getattr(kernel, function)(**arguments)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.int8, torch.float8_e4m3fn, torch.bool])
def test_other_dtypes(kernel, dtype):
    for function, name in (("flash_attn_func", "q"), ("flash_attention_varlen", "query")):
        arguments = good_calls()[function]
        arguments[name] = torch.zeros(arguments[name].shape, dtype=dtype)
        with pytest.raises(TypeError, match=f"{name} must be one of torch.float32, torch.float16, .*got {dtype}"):
            getattr(kernel, function)(**arguments)


def test_quantized(kernel):
    q = torch.quantize_per_tensor(random_tensor(0, 2, 4, 2, 16), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match="q must be one of .* got torch.qint8"):
        kernel.flash_attn_func(q, q, q)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "make",
    [
        torch.nn.Parameter,
        torch.nn.Buffer,
        lambda tensor: tensor.as_subclass(Subclass),
        lambda tensor: tensor.to("meta"),
    ],
    ids=["Parameter", "Buffer", "subclass", "meta"],
)
@pytest.mark.parametrize("function", ["flash_attn_func", "flash_attn_qkvpacked_func"])
def test_kinds_that_work(kernel, launcher, function, make):
    arguments = good_calls()[function]
    expected = getattr(kernel, function)(**arguments)
    floats = {name: make(tensor) for name, tensor in arguments.items() if name != "alibi_slopes"}
    if "alibi_slopes" in arguments:
        floats["alibi_slopes"] = make(arguments["alibi_slopes"]).detach()
    output = getattr(kernel, function)(**floats)
    assert output.shape == expected.shape
    if not output.is_meta:
        torch.testing.assert_close(output.as_subclass(torch.Tensor), expected)


def test_a_compiled_parameter(kernel):
    torch._dynamo.reset()
    tensors = [torch.nn.Parameter(random_tensor(seed, 2, 4, 2, 16)) for seed in range(3)]
    compiled = torch.compile(lambda *x: kernel.flash_attn_func(*x), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*tensors), kernel.flash_attn_func(*tensors))
