"""torch's scaled_dot_product_attention on this kernel: semantics, strides, errors, and what torch's own computes."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import typing

import philox
import pytest
import torch
import torch.nn.functional as F
from cases import random_tensor

from .problems import Problem, assert_exact, exact, random_problem

OURS = "metal_flash_sdpa"
SHARD = 150


@pytest.fixture
def replaced(kernel):
    """Calls of torch's function on CPU tensors, within the test."""
    with kernel.replace_sdpa("cpu") as replacement:
        yield replacement


def torchs_own(*arguments, **named) -> torch.Tensor:
    """Whatever replaces it."""
    return torch.ops.aten.scaled_dot_product_attention.default.decompose(*arguments, **named)


@pytest.mark.parametrize("entry", ["function", "torch's"])
def test_random_problems(kernel, launcher, replaced, shard, entry):
    """Exact, with torch's strides, and nothing of them left to torch."""
    function = kernel.scaled_dot_product_attention if entry == "function" else F.scaled_dot_product_attention
    for number in range(SHARD // 2 if launcher == "cpu" else SHARD // 10):
        problem = random_problem(10_000 * shard + 100 * number + (entry == "function") * 50)
        with torch.no_grad():
            output = function(*problem.tensors, **problem.arguments)
            own = torchs_own(*problem.tensors, **problem.arguments)
        assert output.stride() == own.stride() and output.dtype == own.dtype, problem.arguments
        assert_exact(output, problem)
    assert not set(replaced.calls) - {OURS} and replaced.calls[OURS] == (number + 1 if entry == "torch's" else 0)


def documented(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """As the documentation of torch writes it."""
    rows, keys = query.size(-2), key.size(-2)
    scale_factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    attn_bias = torch.zeros(rows, keys, dtype=query.dtype)
    if is_causal:
        attn_bias.masked_fill_(torch.ones(rows, keys, dtype=torch.bool).tril(diagonal=0).logical_not(), -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(attn_mask.logical_not(), -math.inf)
        else:
            attn_bias = attn_mask + attn_bias
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    weights = torch.softmax(query @ key.transpose(-2, -1) * scale_factor + attn_bias, dim=-1)
    return weights @ value


HALF = {"dtype": torch.float16}
# The examples of torch's documentation, and the cases of its text: tensors' shapes and arguments.
DOCUMENTED = {
    "example": ((32, 8, 128, 64), (32, 8, 128, 64), HALF, {}),
    "grouped heads": ((32, 32, 128, 64), (32, 8, 128, 64), HALF, {"enable_gqa": True}),
    "bool": ((2, 4, 9, 16), (2, 4, 12, 16), {}, {"attn_mask": random_tensor(5, 9, 12) > -1}),
    "float": ((2, 4, 9, 16), (2, 4, 12, 16), {}, {"attn_mask": random_tensor(5, 2, 1, 9, 12)}),
    "causal": ((2, 4, 12, 16), (2, 4, 12, 16), {}, {"is_causal": True}),
    "causal, fewer queries": ((2, 4, 5, 16), (2, 4, 12, 16), {}, {"is_causal": True}),
    "causal, more queries": ((2, 4, 12, 16), (2, 4, 5, 16), {}, {"is_causal": True}),
    "scale": ((2, 4, 5, 16), (2, 4, 12, 16), {}, {"scale": 0.7}),
    "no heads": ((3, 5, 16), (3, 12, 16), {}, {}),
    "a matrix": ((5, 16), (12, 16), {}, {}),
    "more batches": ((2, 3, 2, 5, 16), (2, 3, 2, 12, 16), {}, {"is_causal": True}),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_torchs_documentation(kernel, launcher, replaced, name):
    query_shape, key_shape, options, arguments = DOCUMENTED[name]
    if launcher == "simulated" and len(query_shape) == 4:  # as slow as the real one is fast
        query_shape, key_shape = (1, *query_shape[1:]), (1, *key_shape[1:])
        if query_shape[2] == 128:
            query_shape, key_shape = (*query_shape[:2], 16, 64), (*key_shape[:2], 16, 64)
    mask = arguments.get("attn_mask")
    if mask is not None and mask.dim() == 4:
        arguments = {**arguments, "attn_mask": mask[: query_shape[0]]}
    tensors = tuple(random_tensor(i, *shape, **options) for i, shape in enumerate((query_shape, key_shape, key_shape)))
    output = F.scaled_dot_product_attention(*tensors, **arguments)
    assert replaced.calls == {OURS: 1}
    assert torch.equal(output, kernel.scaled_dot_product_attention(*tensors, **arguments))
    if options:  # float64 takes its time
        output, tensors = output[:4], tuple(tensor[:4] for tensor in tensors)
    assert_exact(output, Problem(tensors, arguments))
    expected = documented(*(tensor.double() for tensor in tensors), **arguments)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5 if not options else 2e-3)


def test_the_signature_is_torchs(kernel):
    """In the order of its documentation; torch itself takes the last two by keyword alone."""
    bare = inspect.signature(kernel.scaled_dot_product_attention)
    text = "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False"
    parameters = [p.replace(annotation=p.empty) for p in bare.parameters.values()]
    assert str(bare.replace(parameters=parameters, return_annotation=bare.empty)) == f"({text})"
    names = [argument.name for argument in torch.ops.aten.scaled_dot_product_attention.default._schema.arguments]
    assert list(bare.parameters) == names


def of(*shape: int, dtype=torch.float32, **options) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, **options)


Q = (2, 4, 5, 16)
# What torch's own computes, with the reason: arguments.
LEFT_TO_TORCH = {
    "torch: the dtype is torch.float64": (of(*Q, dtype=torch.float64),) * 3,
    "torch: the batch dimensions of query and key differ": (of(*Q), of(1, 4, 5, 16), of(1, 4, 5, 16)),
    "torch: the numbers of heads differ without enable_gqa": (of(*Q), of(2, 1, 5, 16), of(2, 1, 5, 16)),
    "torch: head_dim is larger than 576, or 512 of value": (of(1, 1, 2, 600),) * 3,
    "torch: a tensor is empty": (of(*Q), of(2, 4, 0, 16), of(2, 4, 0, 16)),
    "torch: scale is larger than 1e+08": (of(*Q),) * 3 + ({"scale": 1e9},),
    "torch: dropout_p is not 0 or more and less than 1": (of(*Q),) * 3 + ({"dropout_p": 1.0},),
}


@pytest.mark.parametrize("reason", LEFT_TO_TORCH)
def test_what_is_not_taken(kernel, replaced, reason):
    *tensors, last = LEFT_TO_TORCH[reason]
    named = last if isinstance(last, dict) else {}
    tensors = tensors if named else [*tensors, last]
    output = F.scaled_dot_product_attention(*tensors, **named)
    assert dict(replaced.calls) == {reason: 1}
    own = torchs_own(*tensors, **named)
    torch.testing.assert_close(output, own, rtol=0, atol=0, equal_nan=True)
    assert output.stride() == own.stride()
    again = kernel.scaled_dot_product_attention(*tensors, **named)
    torch.testing.assert_close(again, own, rtol=0, atol=0, equal_nan=True)


# By name: arguments that torch refuses.
REFUSED = {
    "causal with a mask": ((of(*Q),) * 3, {"is_causal": True, "attn_mask": of(5, 5, dtype=torch.bool)}),
    "integers": ((of(*Q, dtype=torch.int32),) * 3, {}),
    "dtypes": ((of(*Q), of(*Q, dtype=torch.float16), of(*Q)), {}),
    "head_dim": ((of(*Q), of(2, 4, 5, 8), of(2, 4, 5, 16)), {}),
    "keys and values": ((of(*Q), of(2, 4, 5, 16), of(2, 4, 6, 16)), {}),
    "heads": ((of(*Q), of(2, 2, 5, 16), of(2, 2, 5, 16)), {}),
    "groups": ((of(*Q), of(2, 3, 5, 16), of(2, 3, 5, 16)), {"enable_gqa": True}),
    "a vector": ((of(16),) * 3, {}),
    "dtype of the mask": ((of(*Q),) * 3, {"attn_mask": of(5, 5, dtype=torch.int64)}),
    "another dtype of the mask": ((of(*Q),) * 3, {"attn_mask": of(5, 5, dtype=torch.float64)}),
    "half a mask": ((of(*Q),) * 3, {"attn_mask": of(5, 5, dtype=torch.float16)}),
    "shape of the mask": ((of(*Q),) * 3, {"attn_mask": of(4, 5)}),
    "a larger mask": ((of(*Q),) * 3, {"attn_mask": of(3, 1, 1, 5, 5)}),
    "dropout": ((of(*Q),) * 3, {"dropout_p": -0.5}),
    "more dropout": ((of(*Q),) * 3, {"dropout_p": 1.5}),
    "NaN of dropout": ((of(*Q),) * 3, {"dropout_p": math.nan}),
    "a string": ((of(*Q),) * 3, {"scale": "1"}),
    "no tensor": ((of(*Q), of(*Q), 1.0), {}),
    "None": ((None, of(*Q), of(*Q)), {}),
    "causal by number": ((of(*Q),) * 3, {"is_causal": "yes"}),
    "another device": ((of(*Q), of(*Q, device="meta"), of(*Q)), {}),
    "an unknown argument": ((of(*Q),) * 3, {"softcap": 1.0}),
}


TAKEN_BY_SOME_BACKENDS = {"causal with a mask", "keys and values", "another dtype of the mask", "half a mask"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_raises_torchs_error(kernel, name):
    """And what only some of torch's backends refuse is left to torch, whatever it does with it."""
    tensors, named = REFUSED[name]

    def outcome(function):
        try:
            return function(*tensors, **named)
        except Exception as error:
            return type(error), re.sub(r"0x\w+", "", str(error)).partition("\n")[0]

    expected = outcome(F.scaled_dot_product_attention)
    with kernel.replace_sdpa("cpu") as replacement:
        found = [outcome(F.scaled_dot_product_attention)]
    assert replacement.calls[OURS] == 0
    if name != "an unknown argument":
        found.append(outcome(kernel.scaled_dot_product_attention))
    for result in found:
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(result, expected, equal_nan=True)
        else:
            assert result == expected
    assert isinstance(expected, tuple) or name in TAKEN_BY_SOME_BACKENDS


LAYOUTS = {
    "contiguous": lambda t: t,
    "projection": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "heads last": lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "batch inside": lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
    "slice": lambda t: torch.cat((t, t), dim=-1)[..., : t.shape[-1]],
    "expanded": lambda t: t[:, :1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("arguments", [{}, {"is_causal": True}, {"dropout_p": 0.5}, {"attn_mask": 0}], ids=str)
@pytest.mark.parametrize("mode", ["no_grad", "gradient", "fake", "math"])
def test_strides_are_torchs(kernel, layout, arguments, mode):
    """With one head, one token and one sequence as well, where strides say little."""
    for shape in ((2, 4, 5, 16), (1, 4, 5, 16), (2, 1, 5, 16), (2, 4, 1, 16)):
        with contextlib.ExitStack() as stack:
            if mode == "fake":
                stack.enter_context(torch._subclasses.FakeTensorMode())
            if mode == "math":
                backend = torch.nn.attention.SDPBackend.MATH
                stack.enter_context(torch.nn.attention.sdpa_kernel(backend))
            tensors = [LAYOUTS[layout](torch.ones(shape)) for _ in range(3)]
            if mode == "gradient":
                tensors = [tensor.detach().requires_grad_() for tensor in tensors]
            if "attn_mask" in arguments:
                arguments = {"attn_mask": torch.ones(shape[2], shape[2])}
            expected = F.scaled_dot_product_attention(*tensors, **arguments)
            with kernel.replace_sdpa("cpu") as replacement:
                output = F.scaled_dot_product_attention(*tensors, **arguments)
            assert replacement.calls == {OURS: 1}
            for found in (output, kernel.scaled_dot_product_attention(*tensors, **arguments)):
                assert found.shape == expected.shape
                strides = zip(found.stride(), expected.stride(), shape)
                # torch's own fake result and its real one differ where there is one element
                assert all(ours == theirs or mode == "fake" and size == 1 for ours, theirs, size in strides)


# By name: the mask, for scores [2, 4, 5, 12].
MASKS = {
    "keys": random_tensor(0, 2, 1, 1, 12) > -0.5,
    "expanded keys": (random_tensor(0, 2, 1, 1, 12) > -0.5).expand(2, 4, 5, 12),
    "all rows alike": random_tensor(0, 5, 1),
    "transposed": random_tensor(0, 12, 5).mT,
    "every second": random_tensor(0, 2, 4, 5, 24)[..., ::2],
    "a slice of a longer one": random_tensor(0, 1, 1, 9, 40)[:, :, :5, 3:15],
    "nobody sees anything": torch.zeros(5, 12, dtype=torch.bool),
    "some see nothing": torch.arange(5)[:, None] > torch.arange(12) + 1,
    "minus infinity": torch.full((2, 1, 5, 12), -torch.inf).triu(3),
    "the lowest number": torch.full((2, 1, 5, 12), torch.finfo(torch.float32).min).triu(3),
    "the lowest number everywhere": torch.full((5, 12), torch.finfo(torch.float32).min),
    "of the right dtype": random_tensor(0, 4, 5, 12, dtype=torch.float16),
    "large": 1e4 * random_tensor(0, 2, 4, 5, 12),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(launcher, replaced, name):
    """As callers make them; a row that sees nothing gives 0, and one whose scores are all alike gives the mean."""
    dtype = torch.float16 if MASKS[name].dtype == torch.float16 else torch.float32
    tensors = tuple(random_tensor(i, 2, 4, n, 32, dtype=dtype) for i, n in enumerate((5, 12, 12)))
    output = F.scaled_dot_product_attention(*tensors, attn_mask=MASKS[name])
    assert replaced.calls == {OURS: 1}
    arguments = {"attn_mask": MASKS[name]}
    if name == "the lowest number everywhere":  # fp32 has no difference of scores left there; float64 has
        arguments["attn_mask"], arguments["scale"] = None, 0.0
    if name == "large":
        assert (output.double() - exact(tensors, arguments)).abs().max() < 1e-2
    else:
        assert_exact(output, Problem(tensors, arguments))


def test_a_mask_that_learns(kernel, launcher, replaced):
    """As T5's position bias: its gradient is the CPU implementation's, or torch's own on a launcher."""
    query, key, value = (random_tensor(i, 2, 4, 6, 32) for i in range(3))
    bias = random_tensor(5, 1, 4, 6, 6).requires_grad_()
    F.scaled_dot_product_attention(query, key, value, attn_mask=bias).square().sum().backward()
    left = "torch: the gradient of attn_mask is not implemented on Metal"
    assert replaced.calls == {OURS if launcher == "cpu" else left: 1}
    double = bias.detach().double().requires_grad_()
    scores = query.double() @ key.double().mT / math.sqrt(32) + double
    (torch.softmax(scores, dim=-1) @ value.double()).square().sum().backward()
    torch.testing.assert_close(bias.grad.double(), double.grad, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments", [{}, {"is_causal": True}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("rows, keys", [(9, 9), (5, 12), (12, 5)])
def test_gradients(kernel, launcher, replaced, arguments, rows, keys):
    tensors = [random_tensor(i, 2, 4 if i == 0 else 2, n, 32) for i, n in enumerate((rows, keys, keys))]
    leaves = [tensor.requires_grad_() for tensor in tensors]
    weight = random_tensor(5, 2, 4, rows, 32)
    output = F.scaled_dot_product_attention(*leaves, enable_gqa=True, **arguments)
    found = torch.autograd.grad(output, leaves, weight)
    assert replaced.calls == {OURS: 1}
    doubles = [tensor.detach().double().requires_grad_() for tensor in leaves]
    expected = torch.autograd.grad(exact(doubles, {"enable_gqa": True, **arguments}), doubles, weight.double())
    for grad, wanted in zip(found, expected):
        assert (grad.double() - wanted).abs().max() <= 1e-5 * (1 + wanted.abs().max())


def test_gradients_above_what_the_kernels_have(kernel):
    """They are torch's own on a launcher; without gradients the kernel computes."""
    tensors = [random_tensor(i, 1, 1, 3, 264) for i in range(3)]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    calls = []
    with (
        kernel.launchers.use_launcher(lambda plan, given: calls.append(plan)),
        kernel.replace_sdpa("cpu") as replacement,
    ):
        F.scaled_dot_product_attention(*leaves).sum().backward()
        assert replacement.calls == {"torch: gradients on Metal need a head_dim of at most 256": 1} and not calls
        F.scaled_dot_product_attention(*tensors)
    assert replacement.calls[OURS] == 1 and calls
    expected = [leaf.grad for leaf in leaves]
    with kernel.replace_sdpa("cpu") as replacement:
        for leaf in leaves:
            leaf.grad = None
        F.scaled_dot_product_attention(*leaves).sum().backward()
    assert replacement.calls == {OURS: 1}  # the CPU implementation has them
    torch.testing.assert_close([leaf.grad for leaf in leaves], expected, rtol=0, atol=1e-5)


def test_dropout_of_our_own_mask(kernel, launcher, replaced):
    """Beside float64, with the weights that the seed drops by the definition in Python's integers."""
    query, key, value = (random_tensor(i, 2, 2, n, 32) for i, n in enumerate((7, 20, 20)))
    torch.manual_seed(3)
    seed = int(torch.randint(2**63 - 1, (1,)))
    torch.manual_seed(3)
    output = F.scaled_dot_product_attention(query, key, value, dropout_p=0.4)
    weights = torch.softmax(query.double() @ key.double().mT / math.sqrt(32), dim=-1)
    kept = torch.stack([philox.kept(0.4, seed, b, 7, 2, 20).transpose(0, 1) for b in range(2)])
    expected = weights * kept * philox.factor(0.4) @ value.double()
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=2e-5)
    assert replaced.calls == {OURS: 1}


def test_dropout_by_its_mean(kernel, replaced):
    """Beside torch's: of many calls, both near what there is without dropout, and as far from it."""
    query, key = random_tensor(0, 64, 8, 16, 32), random_tensor(1, 64, 8, 48, 32)
    value = torch.ones(64, 8, 48, 32)  # the output is the share of the weights that is kept, times a factor
    torch.manual_seed(0)
    ours = F.scaled_dot_product_attention(query, key, value, dropout_p=0.25)[..., 0]
    theirs = torchs_own(query, key, value, dropout_p=0.25)[..., 0]
    assert replaced.calls == {OURS: 1}
    assert abs(ours.mean() - 1) < 0.005 and abs(theirs.mean() - 1) < 0.005
    assert abs(ours.std() / theirs.std() - 1) < 0.05
    assert (F.scaled_dot_product_attention(query, key, value, dropout_p=0.25)[..., 0] != ours).any()


def test_every_argument_of_the_replacement_is_checked(kernel):
    for devices in ((), "cuda", ("mps", "cuda"), ["tpu"], [None]):
        with pytest.raises(ValueError, match='devices must be "mps", "cpu" or both'):
            kernel.replace_sdpa(devices)
    with pytest.raises(TypeError, match="explain must be a bool, got int"):
        kernel.replace_sdpa(explain=1)
    assert set(typing.get_type_hints(kernel.replace_sdpa)) == {"devices", "explain", "return"}
