"""replace_sdpa reaches every caller, in every mode of torch, and is undone exactly. Level: CPU implementation."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cases import random_tensor
from torch.nn.functional import scaled_dot_product_attention as imported_before
from torch.utils.checkpoint import checkpoint

OURS = "metal_flash_sdpa"
Q, K, V = (random_tensor(seed, 2, 4, tokens, 16) for seed, tokens in enumerate((5, 9, 9)))


def leaf() -> torch.Tensor:
    return Q.clone().requires_grad_()


@pytest.fixture
def replaced(kernel):
    with kernel.replace_sdpa("cpu") as replacement:
        yield replacement


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = F.scaled_dot_product_attention  # kept in an attribute, as some models do

    def forward(self, query):
        return self.attend(query, K, V)


BLOCK = Block()
BY_DEFAULT = partial(imported_before, key=K, value=V)
# Callers that never look torch's function up again.
CALLERS = {
    "by its module": lambda q: F.scaled_dot_product_attention(q, K, V),
    "imported before": lambda q: imported_before(q, K, V),
    "a partial": lambda q: BY_DEFAULT(q),
    "an attribute": BLOCK,
    "torch._C": lambda q: torch._C._nn.scaled_dot_product_attention(q, K, V),
    "the operator": lambda q: torch.ops.aten.scaled_dot_product_attention(q, K, V),
    "its overload": lambda q: torch.ops.aten.scaled_dot_product_attention.default(q, K, V),
}


@pytest.mark.parametrize("name", CALLERS)
def test_callers(kernel, name):
    expected = CALLERS[name](Q)
    with kernel.replace_sdpa("cpu") as replacement:
        output = CALLERS[name](Q)
        assert replacement.calls == {OURS: 1}
    torch.testing.assert_close(output, expected)
    assert torch.equal(CALLERS[name](Q), expected) and replacement.calls == {OURS: 1}


def test_torchs_own_modules(replaced):
    layer = torch.nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    layer(random_tensor(0, 2, 5, 16), random_tensor(1, 2, 7, 16)).sum().backward()
    assert replaced.calls == {OURS: 2}
    attention(*[random_tensor(0, 2, 5, 16)] * 3, need_weights=False)[0].sum().backward()
    assert replaced.calls == {OURS: 3}


def gradient(function, query=None) -> torch.Tensor:
    query = leaf() if query is None else query
    return torch.autograd.grad(function(query).square().sum(), query)[0]


def attend(query, **arguments):
    return imported_before(query, K, V, **arguments)


def with_autocast(query):
    with torch.autocast("cpu", torch.bfloat16):
        return attend(query)


def in_inference_mode(query):
    with torch.inference_mode():
        return attend(query)


def offloaded(query):
    with torch.autograd.graph.save_on_cpu():
        return attend(query)


def squares(query):
    return attend(query).square().sum()


# By name: what is called, how many calls are ours.
MODES = {
    "no gradient": (lambda: attend(Q), 1),
    "gradient": (lambda: gradient(attend), 1),
    "inference mode": (lambda: in_inference_mode(Q), 1),
    "autocast": (lambda: with_autocast(Q), 1),
    "autocast, gradient": (lambda: gradient(with_autocast), 1),
    "checkpoint": (lambda: gradient(lambda q: checkpoint(attend, q, use_reentrant=False)), 2),
    "saved tensors elsewhere": (lambda: gradient(offloaded), 1),
    "torch.func.grad": (lambda: torch.func.grad(squares)(Q), 1),
    "torch.func.vjp": (lambda: torch.func.vjp(attend, Q)[1](torch.ones_like(Q))[0], 1),
    "functional_call": (lambda: torch.func.functional_call(BLOCK, {}, (Q,)), 1),
    "vmap": (lambda: torch.vmap(attend)(torch.stack((Q, Q))), 0),
    "grad inside vmap": (lambda: torch.vmap(torch.func.grad(squares))(torch.stack((Q, Q))), 0),
    "vmap inside grad": (lambda: torch.func.grad(lambda q: torch.vmap(attend)(q[None]).sum())(Q), 0),
    "deterministic": (lambda: attend(Q), 1),
    "a subclass": (lambda: attend(Q.as_subclass(type("Plain", (torch.Tensor,), {}))).as_subclass(torch.Tensor), 1),
    "a parameter": (lambda: attend(torch.nn.Parameter(Q)).detach(), 1),
    "MATH alone": (lambda: attend_with(torch.nn.attention.SDPBackend.MATH), 1),
}


def attend_with(backend):
    with torch.nn.attention.sdpa_kernel(backend):
        return attend(Q)


@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*batching rule")
@pytest.mark.parametrize("name", MODES)
def test_modes(kernel, name):
    call, count = MODES[name]
    expected = call()
    with kernel.replace_sdpa("cpu") as replacement:
        output = call()
    assert replacement.calls[OURS] == count, replacement.calls
    tolerance = 1e-2 if "autocast" in name else 1e-5
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance * (1 + float(expected.abs().max())))
    assert output.stride() == expected.stride() and output.dtype == expected.dtype


@pytest.mark.parametrize("name", ["jvp", "forward-mode", "hessian"])
def test_derivatives_that_only_torch_has(kernel, name):
    """The math backend has them; so they must not come to this kernel, which has not."""
    calls = {
        "jvp": lambda: torch.func.jvp(attend, (Q,), (Q,))[1],
        "forward-mode": lambda: forward_mode(),
        "hessian": lambda: torch.func.grad(lambda q: torch.func.grad(squares)(q).sum())(Q),
    }

    def forward_mode():
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(Q, Q)
            return torch.autograd.forward_ad.unpack_dual(attend(dual)).tangent

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = calls[name]()
        with kernel.replace_sdpa("cpu") as replacement:
            output = calls[name]()
    assert torch.equal(output, expected) and replacement.calls[OURS] == 0 and len(replacement.calls) == 1


def test_a_wrapper_subclass_keeps_its_own_rules(kernel):
    """Nested tensors, and classes with a __torch_dispatch__, which know the parts of torch's own and not ours."""
    nested = torch.nested.nested_tensor([random_tensor(0, 3, 2, 16), random_tensor(1, 5, 2, 16)], layout=torch.jagged)
    heads = nested.transpose(1, 2)
    expected = imported_before(heads, heads, heads)
    with kernel.replace_sdpa("cpu") as replacement:
        output = imported_before(heads, heads, heads)
    torch.testing.assert_close(output.values(), expected.values())
    assert replacement.calls[OURS] == 0
    from torch.testing._internal.two_tensor import TwoTensor

    two = TwoTensor(Q, Q + 1)
    expected = imported_before(two, two, two)
    with kernel.replace_sdpa("cpu") as replacement:
        output = imported_before(two, two, two)
    assert torch.equal(output.a, expected.a) and torch.equal(output.b, expected.b)
    assert replacement.calls == {"torch: a tensor is a TwoTensor": 1}


def test_threads(kernel):
    """Those that are there before, those that come, and many at once while it comes and goes."""
    expected = attend(Q)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: attend(Q), range(8)))
        with kernel.replace_sdpa("cpu") as replacement:
            outputs = list(pool.map(lambda _: attend(Q), range(40)))
            thread = threading.Thread(target=lambda: outputs.append(attend(Q)))
            thread.start()
            thread.join()
            list(pool.map(lambda _: gradient(attend), range(20)))
        assert replacement.calls == {OURS: 61}
        running = pool.map(lambda _: attend(Q), range(400))
        for _ in range(20):
            with kernel.replace_sdpa("cpu"):
                pass
        outputs += running
    for output in outputs:
        torch.testing.assert_close(output, expected)


def test_simulated_launcher(kernel):
    """Tensors on the CPU go where this kernel's own functions send them, in this thread."""
    plans = []
    with kernel.replace_sdpa("cpu"), kernel.launchers.use_launcher(lambda plan, given: plans.append(plan)):
        attend(Q)
    assert [plan.source for plan in plans] == ["attention_forward.metal"]


def test_only_the_devices_that_are_named(kernel):
    expected = attend(Q)
    with kernel.replace_sdpa() as replacement:  # of "mps" alone
        assert torch.equal(attend(Q), expected) and not replacement.calls
        table = torch._C._dispatch_dump_table("aten::scaled_dot_product_attention")
        kernels = [
            line for line in table.splitlines() if "registered at" in line and "doors" in line or "python" in line
        ]
        assert {line.partition(":")[0] for line in kernels} >= {"MPS", "AutogradMPS"}
        assert not {line.partition(":")[0] for line in kernels} & {"CPU", "AutogradCPU", "CUDA", "AutogradCUDA"}
    with kernel.replace_sdpa(["mps", "cpu"]) as replacement:
        meta = imported_before(Q.to("meta"), K.to("meta"), V.to("meta"))
        assert meta.is_meta and not replacement.calls
        attend(Q)
    assert replacement.calls == {OURS: 1}


def test_several_end_in_any_order(kernel, metal_kernel):
    outer = kernel.replace_sdpa("cpu")
    inner = kernel.replace_sdpa(("mps", "cpu"))
    other_build = metal_kernel.replace_sdpa("cpu")  # comes last, and so first
    attend(Q)
    assert [r.calls[OURS] for r in (outer, inner, other_build)] == [0, 0, 1]
    outer.undo()
    other_build.undo()
    attend(Q)
    assert [r.calls[OURS] for r in (outer, inner, other_build)] == [0, 1, 1]
    outer.undo()
    inner.undo()
    inner.undo()
    attend(Q)
    assert [r.calls[OURS] for r in (outer, inner, other_build)] == [0, 1, 1]


def test_undone_by_an_error(kernel):
    with pytest.raises(ZeroDivisionError), kernel.replace_sdpa("cpu"):
        raise ZeroDivisionError


def test_nothing_is_kept(kernel):
    replacement = kernel.replace_sdpa("cpu")
    attend(Q)
    replacement.undo()
    gone = weakref.ref(replacement)
    del replacement
    gc.collect()
    assert gone() is None


def test_calls_within_calls(replaced):
    """A call in the backward of a call, in a hook of it, and in its checkpoint."""

    class Again(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query):
            return attend(query)

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                return gradient(attend) + attend(grad)

    query = leaf()
    output = checkpoint(Again.apply, query, use_reentrant=False)
    output.register_hook(lambda grad: grad + attend(grad))
    output.sum().backward()
    assert replaced.calls == {OURS: 4}


@pytest.mark.parametrize("explain", [False, True])
def test_explain(kernel, capfd, explain):
    mask = torch.ones(5, 9, dtype=torch.int64)
    with kernel.replace_sdpa("cpu", explain=explain) as replacement:
        for _ in range(3):
            attend(Q)
            attend(Q, is_causal=True)
        imported_before(Q.double(), K.double(), V.double())
        with contextlib.suppress(RuntimeError):
            attend(Q, attn_mask=mask)
    assert replacement.calls[OURS] == 6 and replacement.calls["torch: the dtype is torch.float64"] == 1
    lines = capfd.readouterr().err.splitlines()
    told = [line for line in lines if line.startswith("scaled_dot_product_attention of")]
    assert len(told) == (3 if explain else 0)
    if explain:
        shapes = "[2, 4, 5, 16], [2, 4, 9, 16], [2, 4, 9, 16]"
        assert told[0] == f"scaled_dot_product_attention of {shapes}, torch.float32, cpu: metal_flash_sdpa"
        assert told[1].endswith("torch.float64, cpu: torch: the dtype is torch.float64")


def compiled(backend="aot_eager", **options):
    return torch.compile(attend, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(kernel, backend):
    """A function that was compiled before, and goes on after."""
    function = compiled(backend)
    for query in (Q, leaf()):
        expected = function(query)
        with kernel.replace_sdpa("cpu") as replacement:
            output = function(query)
            assert replacement.calls[OURS] >= 1 and set(replacement.calls) == {OURS}
            assert output.stride() == expected.stride()
            torch.testing.assert_close(output, expected)
        again = function(query)
        assert torch.equal(again, expected)


def test_compiled_with_gradients_lengths_and_inference_mode(replaced):
    function = compiled(dynamic=True)
    for tokens in (3, 5, 8, 11):
        query = random_tensor(tokens, 2, 4, tokens, 16).requires_grad_()
        torch.testing.assert_close(gradient(function, query), gradient(attend, query), rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(function(Q), attend(Q))
    assert set(replaced.calls) == {OURS}
    torch._dynamo.reset()


def graph_of(function, *arguments) -> list[str]:
    """Names of what a compiled function calls."""
    names = []

    def backend(graph, inputs):
        from torch._dynamo.backends.common import aot_autograd

        def keep(inner, _):
            names.extend(str(node.target) for node in inner.graph.nodes if node.op == "call_function")
            return inner

        return aot_autograd(fw_compiler=keep)(graph, inputs)

    torch.compile(function, backend=backend, fullgraph=True)(*arguments)
    return names


def test_graphs_hold_one_operator_of_ours(kernel):
    before = graph_of(attend, Q)
    with kernel.replace_sdpa("cpu"):
        during = graph_of(attend, Q)
        with torch.inference_mode():
            in_inference = graph_of(attend, Q)
    for names in (during, in_inference):
        assert sum("attention_forward" in name for name in names) == 1
        assert not any("flash_attention_for_cpu" in name for name in names)
    torch._dynamo.reset()
    assert graph_of(attend, Q) == before


def test_exported_programs_call_what_is_there(kernel):
    program = torch.export.export(BLOCK, (Q,)).module()
    expected = program(Q)
    with kernel.replace_sdpa("cpu") as replacement:
        torch.testing.assert_close(program(Q), expected)
        assert replacement.calls == {OURS: 1}
        program = torch.export.export(BLOCK, (Q,)).module()
    assert torch.equal(program(Q), expected)


def test_the_function_itself_compiles(kernel):
    function = torch.compile(kernel.scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(function(Q, K, V, is_causal=True), attend(Q, is_causal=True))
    torch.testing.assert_close(function(Q.double(), K.double(), V.double()).float(), attend(Q))
    with torch.autocast("cpu", torch.bfloat16):
        assert function(Q, K, V).dtype == torch.bfloat16


@pytest.mark.nightly
def test_what_torch_keeps_on_disk(kernel, metal_kernel, monkeypatch, tmp_path):
    """Compiled code is found there by the text of a function: but not by who replaces nothing, or has another build."""
    from torch._inductor.utils import run_and_get_code

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    function = torch.compile(attend)

    def operators() -> set[str]:
        (code,) = run_and_get_code(function, Q)[1]
        return {name for name in (kernel.__name__, metal_kernel.__name__, "flash_attention_for_cpu") if name in code}

    assert operators() == {"flash_attention_for_cpu"}
    for build in (kernel, metal_kernel):
        with build.replace_sdpa("cpu"):
            assert operators() == {build.__name__}
    assert operators() == {"flash_attention_for_cpu"}
    torch._dynamo.reset()
