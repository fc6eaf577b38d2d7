"""The operators: schemas, fakes, autograd, torch.compile, and what happens around a launcher."""

from __future__ import annotations

import contextlib
import functools
import json

import pytest
import torch
import torch.nn.functional as F
from cases import call_of, dense, max_lengths, packed, random_tensor
from torch._dynamo.testing import CompileCounter

LENGTHS = [(5, 9), (6, 3), (4, 4)]


def packed_call(kernel, requires_grad=False):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 4, 2, 16, torch.float32)
    tensors = [tensor.requires_grad_(requires_grad) for tensor in (query, key, value)]
    return call_of(kernel, *tensors, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, window_left=3, window_right=0)


def dense_call(kernel, requires_grad=False):
    tensors = [tensor.requires_grad_(requires_grad) for tensor in dense(2, 5, 9, 4, 2, 16, torch.float32)]
    return call_of(kernel, *tensors, window_right=0)


def feature_call(kernel, requires_grad=False):
    """Dense, with a softcap, ALiBi, sinks, used lengths and a value head_dim of its own."""
    query, key, _ = dense(2, 5, 9, 4, 2, 16, torch.float32)
    value, sinks = random_tensor(3, 2, 9, 2, 24), random_tensor(4, 4)
    query, key, value, sinks = (tensor.requires_grad_(requires_grad) for tensor in (query, key, value, sinks))
    used, slopes = torch.tensor([9, 3], dtype=torch.int32), random_tensor(5, 2, 4).abs()
    named = {"seqused_k": used, "alibi_slopes": slopes, "sinks": sinks, "window_right": 0, "softcap": 5.0}
    return call_of(kernel, query, key, value, **named)


def paged_call(kernel, requires_grad=False):
    """Packed queries, paged keys and values, sinks."""
    query, _, _, cu_q, cu_k = packed(LENGTHS, 4, 2, 16, torch.float32)
    key, value, sinks = random_tensor(2, 4, 16, 2, 16), random_tensor(3, 4, 16, 2, 24), random_tensor(4, 4)
    query, key, value, sinks = (tensor.requires_grad_(requires_grad) for tensor in (query, key, value, sinks))
    table = torch.tensor([[2, 0], [1, 1], [3, -1]], dtype=torch.int32)
    named = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "block_table": table, "sinks": sinks}
    return call_of(kernel, query, key, value, **named, window_left=3, window_right=0)


def bias_call(kernel, requires_grad=False):
    """Dense, aligned at the first key, with a bias that all heads share."""
    tensors = [*dense(2, 5, 9, 4, 2, 16, torch.float32), random_tensor(5, 2, 1, 5, 9)]
    *tensors, bias = (tensor.requires_grad_(requires_grad) for tensor in tensors)
    return call_of(kernel, *tensors, attn_bias=bias, window_right=0, aligns_first=True)


@pytest.fixture(params=[packed_call, dense_call, feature_call, paged_call, bias_call], ids=lambda make: make.__name__)
def make_call(request, kernel):
    return functools.partial(request.param, kernel)


@pytest.mark.parametrize("return_lse", [False, True])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_forward(kernel, make_call, requires_grad, return_lse):
    torch.library.opcheck(kernel.operators.attention_forward, (*make_call(requires_grad), return_lse, True))


def test_opcheck_forward_inference(kernel, make_call):
    torch.library.opcheck(kernel.operators.attention_forward_inference, tuple(make_call()))


def test_opcheck_forward_out(kernel, make_call):
    call = make_call()
    output = torch.empty(*call.query.shape[:-1], call.value.shape[-1])
    torch.library.opcheck(kernel.operators.attention_forward_out, (output, *call))


@pytest.mark.parametrize("wants_key_value", [False, True])
@pytest.mark.parametrize("with_lse", [False, True])
def test_opcheck_backward(kernel, make_call, with_lse, wants_key_value):
    call = make_call()
    output, lse, _ = kernel.operators.attention_forward(*call, True, False)
    wants = wants_key_value, with_lse and call.attn_bias is not None
    arguments = output, lse if with_lse else None, *call, None, None, *wants
    torch.library.opcheck(kernel.operators.attention_backward, arguments)


def test_namespace(kernel, build):
    """The operators are the build's own: two builds in one process do not meet."""
    identifier = json.loads((build / "torch-cpu" / "metadata.json").read_text())["id"]
    for name in ("attention_forward", "attention_forward_out", "attention_backward"):
        assert getattr(kernel.operators, name).name() == f"{identifier}::{name}"


def test_schemas_are_the_call(kernel):
    """Every operator takes the fields of a call, in their order and under their names, behind what it writes or what
    flows back, and before its own arguments."""
    around = {
        "attention_forward": ([], ["return_lse", "return_softmax", "dropout_p", "dropout_seed"]),
        "attention_forward_inference": ([], []),
        "attention_forward_out": (["output"], []),
        "attention_backward": (
            ["grad_output", "grad_lse"],
            ["output", "row_softmax", "wants_key_value", "wants_attn_bias", "dropout_p", "dropout_seed"],
        ),
        "attention_over_rows": ([], ["cache_batch_idx", "cache_leftpad", "return_lse"]),
    }
    for name, (before, after) in around.items():
        schema = getattr(kernel.operators, name)._schema
        names = [argument.name for argument in schema.arguments]
        assert names == [*before, *kernel.call.Call._fields, *after]
        assert (
            "Tensor query, Tensor key, Tensor value, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_k, "
            "Tensor? block_table, Tensor? alibi_slopes, Tensor? sinks, Tensor? attn_bias, SymInt max_seqlen_q, "
            "SymInt max_seqlen_k, float softmax_scale, SymInt window_left, SymInt window_right, float softcap, "
            "int num_splits, bool aligns_first"
        ) in str(schema)
    returned = kernel.operators.attention_backward._schema.returns
    assert [value.name for value in returned] == [f"grad_{name}" for name in kernel.call.Gradients._fields]


@pytest.mark.parametrize("return_lse", [False, True])
def test_fake_shapes(kernel, make_call, return_lse):
    call = make_call()
    real = kernel.operators.attention_forward(*call, return_lse, True)
    meta = call._replace(**{name: tensor.to("meta") for name, tensor in kernel.call.present(call).items()})
    fake = kernel.operators.attention_forward(*meta, return_lse, True)
    for ours, expected in zip(fake, real):
        assert (ours.shape, ours.dtype, ours.stride()) == (expected.shape, expected.dtype, expected.stride())
    kept = None, None, True, call.attn_bias is not None
    grads = kernel.operators.attention_backward(real[0], None, *call, *kept)
    fake_grads = kernel.operators.attention_backward(torch.empty_like(fake[0]), None, *meta, *kept)
    sinks = torch.empty(0) if call.sinks is None else call.sinks
    bias = torch.empty(0) if call.attn_bias is None else call.attn_bias
    for fake_grad, grad, tensor in zip(fake_grads, grads, (call.query, call.key, call.value, sinks, bias)):
        assert (fake_grad.shape, fake_grad.dtype) == (grad.shape, grad.dtype) == (tensor.shape, tensor.dtype)


def varlen(kernel, query, key, value, cu_seqlens, longest):
    return kernel.flash_attn_varlen_func(query, key, value, cu_seqlens, cu_seqlens, longest, longest, causal=True)


def varlen_item(kernel, query, key, value, cu_seqlens, longest):
    longest = cu_seqlens.diff().max().item()
    return kernel.flash_attn_varlen_func(query, key, value, cu_seqlens, cu_seqlens, longest, longest)


def varlen_tensor(kernel, query, key, value, cu_seqlens, longest):
    longest = cu_seqlens.diff().max()
    return kernel.flash_attn_varlen_func(query, key, value, cu_seqlens, cu_seqlens, longest, longest)


def varlen_lse(kernel, query, key, value, cu_seqlens, longest):
    output, lse, _ = kernel.flash_attn_varlen_func(
        query, key, value, cu_seqlens, cu_seqlens, longest, longest, window_size=(3, 3), return_attn_probs=True
    )
    return output + lse.T.unsqueeze(-1)


def varlen_out(kernel, query, key, value, cu_seqlens, longest):
    out = torch.empty_like(query.transpose(0, 1), memory_format=torch.contiguous_format).transpose(0, 1)
    kernel.flash_attention_varlen(out, query, key, value, cu_seqlens, cu_seqlens, longest, longest, True)
    return out * 2


def unpadded(kernel, query, key, value, cu_seqlens, longest):
    return kernel.flash_attn_func(query[None], key[None], value[None], causal=True)


def features(query):
    """Softcap, ALiBi and sinks: made of the query, so that gradients flow through the sinks."""
    slopes = torch.linspace(0.0, 0.5, 4)
    return {"softcap": 5.0, "alibi_slopes": slopes, "s_aux": query.mean(dim=(0, 2)).to(torch.bfloat16)}


def varlen_features(kernel, query, key, value, cu_seqlens, longest):
    used = (cu_seqlens.diff() - 1).int()
    return kernel.flash_attn_varlen_func(
        query, key, value[..., :8], cu_seqlens, cu_seqlens, longest, longest, seqused_k=used, **features(query)
    )


def varlen_out_features(kernel, query, key, value, cu_seqlens, longest):
    out, arguments = torch.empty_like(query), features(query)
    arguments["softcapping"] = arguments.pop("softcap")
    kernel.flash_attention_varlen(out, query, key, value, cu_seqlens, cu_seqlens, longest, longest, **arguments)
    return out * 2


def varlen_paged(kernel, query, key, value, cu_seqlens, longest):
    caches = (F.pad(tensor, (0, 0, 0, 0, 0, 112 - tensor.shape[0])).unflatten(0, (7, 16)) for tensor in (key, value))
    table = torch.tensor([[0] * 7, list(range(7))], dtype=torch.int32)
    lengths = cu_seqlens.diff().int()
    return kernel.flash_attn_varlen_func(
        query, *caches, cu_seqlens, None, longest, longest, block_table=table, seqused_k=lengths, causal=True
    )


def unpadded_features(kernel, query, key, value, cu_seqlens, longest):
    return kernel.flash_attn_func(query[None], key[None], value[None], causal=True, **features(query))


FUNCTIONS = [varlen, varlen_item, varlen_tensor, varlen_lse, varlen_out, unpadded]
FUNCTIONS += [varlen_features, varlen_out_features, varlen_paged, unpadded_features]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("requires_grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_compile(kernel, launcher, function, backend, requires_grad):
    """One graph, compiled once for all lengths."""
    if launcher != "cpu" and function is varlen_paged:
        requires_grad = False  # kernels have no gradients for keys in pages
    torch._dynamo.reset()
    config = torch._dynamo.config.patch(capture_scalar_outputs=True, error_on_recompile=True)
    compiled = torch.compile(lambda *inputs: function(kernel, *inputs), backend=backend, fullgraph=True, dynamic=True)
    for length in (5, 9, 17, 33, 64, 100):
        tensors = [random_tensor(length, length, heads, 16).requires_grad_(requires_grad) for heads in (4, 2, 2)]
        cu_seqlens = torch.tensor([0, 2, length], dtype=torch.int32)
        with config:
            output = compiled(*tensors, cu_seqlens, length - 2)
        expected = function(kernel, *tensors, cu_seqlens, length - 2)
        torch.testing.assert_close(output, expected)
        if requires_grad:
            grads, expected = (torch.autograd.grad(x.square().sum(), tensors) for x in (output, expected))
            torch.testing.assert_close(grads, expected)


def test_compile_makes_one_graph(kernel):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(lambda *inputs: varlen(kernel, *inputs), backend=counter, fullgraph=True, dynamic=True)
    for length in (5, 9, 17, 33, 64):
        query, key, value = (random_tensor(length, length, heads, 16) for heads in (4, 2, 2))
        compiled(query, key, value, torch.tensor([0, 2, length], dtype=torch.int32), length - 2)
    assert counter.frame_count == 1


class StandInLauncher:
    """Launches nothing: fills the output, or the gradients, with ones."""

    def __init__(self):
        self.launches = []

    def __call__(self, plan, tensors):
        self.launches.append((plan, tensors))
        for name, tensor in tensors.items():
            if name.startswith("grad_") and name != "grad_output" or name == "output" and "grad_query" not in tensors:
                tensor.fill_(1)


@pytest.fixture
def launched(kernel):
    stand_in = StandInLauncher()
    with kernel.launchers.use_launcher(stand_in):
        yield stand_in.launches


def launchable(requires_grad=False):
    return [tensor.requires_grad_(requires_grad) for tensor in dense(1, 5, 5, 2, 2, 64, torch.float32)]


def test_launcher_gets_the_plan_and_the_tensors(kernel, launched):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 2, 2, 64, torch.float32)
    inputs = (query, key, value, cu_q, cu_k, *max_lengths(cu_q, cu_k))
    assert torch.equal(kernel.flash_attn_varlen_func(*inputs), torch.ones_like(query))
    kernel.flash_attn_varlen_func(*inputs, return_attn_probs=True)
    kernel.flash_attn_func(*launchable())
    named = [set(tensors) for _, tensors in launched]
    assert named[0] == {"query", "key", "value", "output", "cu_seqlens_q", "cu_seqlens_k"}
    assert named[1] == named[0] | {"lse"}
    assert named[2] == {"query", "key", "value", "output"}
    for plan, tensors in launched:
        assert {argument for argument in plan.arguments if isinstance(argument, str)} <= set(tensors)
    assert launched[0][1]["cu_seqlens_q"] is cu_q


def test_no_launcher_after_the_block(kernel):
    stand_in = StandInLauncher()
    with kernel.launchers.use_launcher(stand_in):
        pass
    kernel.flash_attn_func(*launchable())
    assert not stand_in.launches


def test_backward_of_a_launch(kernel):
    """By the same launcher, also after its block; the output and row_softmax are kept, and row_softmax only for it."""
    inputs = launchable(requires_grad=True)
    stand_in = StandInLauncher()
    with kernel.launchers.use_launcher(stand_in):
        output = kernel.flash_attn_func(*inputs)
        with torch.no_grad():
            assert not kernel.flash_attn_func(*inputs).requires_grad
    assert ["row_softmax" in tensors for _, tensors in stand_in.launches] == [True, False]
    output.sum().backward()
    assert len(stand_in.launches) > 2
    for plan, tensors in stand_in.launches[2:]:
        assert plan.source.startswith("attention_backward") and tensors["output"].data_ptr() == output.data_ptr()
    for name, tensor in zip(("query", "key", "value"), inputs):
        assert torch.equal(stand_in.launches[-1][1][f"grad_{name}"], tensor.grad)
    assert {"grad_key", "grad_value"} <= set(stand_in.launches[-1][1])


def test_frozen_keys_and_values_have_no_gradients(kernel, launched):
    query, key, value = launchable()
    kernel.flash_attn_func(query.requires_grad_(), key, value).sum().backward()
    assert not {"grad_key", "grad_value"} & set(launched[-1][1]) and "grad_query" in launched[-1][1]
    assert key.grad is None and value.grad is None


def test_backward_into_out_after_a_launch(kernel, launched):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 2, 2, 64, torch.float32)
    out = torch.empty_like(query)
    kernel.flash_attention_varlen(out, query.requires_grad_(), key, value, cu_q, cu_k, 6, 9)
    out.sum().backward()
    assert launched[-1][0].source == "attention_backward_queries.metal"


def test_a_changed_output_has_no_gradient(kernel, launched):
    output = kernel.flash_attn_func(*launchable(requires_grad=True))
    with torch.no_grad():
        output += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("launched_forward", [False, True])
def test_a_backward_elsewhere_is_refused(kernel, launched_forward):
    """The operator itself; autograd goes back to where the forward was."""
    call = call_of(kernel, *launchable())
    here = kernel.launchers.use_launcher(StandInLauncher())
    elsewhere = contextlib.nullcontext()
    first, second = (here, elsewhere) if launched_forward else (elsewhere, here)
    with first:
        output, _, row_softmax = kernel.operators.attention_forward(*call, False, True)
    kept = (output, row_softmax) if launched_forward else (None, None)
    with second, pytest.raises(RuntimeError, match="must run where its forward ran"):
        kernel.operators.attention_backward(output, None, *call, *kept, True, False)


def test_operators_on_mps(kernel):
    for name in ("attention_forward", "attention_forward_out", "attention_backward"):
        full_name = getattr(kernel.operators, name).name()
        assert torch._C._dispatch_has_kernel_for_dispatch_key(full_name, "MPS")


def test_strided_output_elements_are_launched_contiguous(kernel, launched):
    query, key, value, cu_q, cu_k = packed(LENGTHS, 2, 2, 64, torch.float32)
    out = torch.zeros(*query.shape, 2)[..., 0]
    kernel.flash_attention_varlen(out, query, key, value, cu_q, cu_k, 6, 9)
    assert launched[0][1]["output"].stride(-1) == 1
    assert torch.equal(out, torch.ones_like(query))


def test_what_the_planner_refuses_is_an_error(kernel, launched):
    query, endless = torch.zeros(1, 5, 2, 32), torch.zeros(1, 1, 2, 32).expand(1, 2**30, 2, 32)
    with pytest.raises(NotImplementedError, match="the kernels count rows and keys in 32 bits"):
        kernel.flash_attn_func(query, endless, endless)


def test_launcher_gets_the_tensors_of_features(kernel, launched):
    query, cache = random_tensor(0, 5, 2, 64), random_tensor(1, 4, 16, 2, 64)
    cu_q, table = torch.tensor([0, 5], dtype=torch.int32), torch.tensor([[2, 1]], dtype=torch.int32)
    used, slopes, sinks = torch.tensor([20], dtype=torch.int32), torch.ones(2), torch.ones(2, dtype=torch.float16)
    kernel.flash_attn_varlen_func(
        query, cache, cache, cu_q, None, 5, 20, block_table=table, seqused_k=used, alibi_slopes=slopes, s_aux=sinks
    )
    plan, tensors = launched[0]
    given = {"cu_seqlens_q": cu_q, "seqused_k": used, "block_table": table, "alibi_slopes": slopes}
    assert all(tensors[name] is tensor for name, tensor in given.items())
    assert tensors["sinks"].dtype == torch.float32
    assert {argument for argument in plan.arguments if isinstance(argument, str)} <= set(tensors)


def test_without_pages_nothing_is_launched(kernel, launched):
    query, cache = random_tensor(0, 5, 2, 64), random_tensor(1, 4, 16, 2, 64)
    cu_seqlens = torch.tensor([0, 5], dtype=torch.int32)
    for pages, table in ((cache, torch.empty(1, 0)), (cache[:0], torch.zeros(1, 3))):
        output = kernel.flash_attn_varlen_func(
            query, pages, pages, cu_seqlens, cu_seqlens, 5, 5, block_table=table.int(), s_aux=torch.ones(2)
        )
        assert torch.equal(output, torch.zeros_like(query))
    assert not launched
