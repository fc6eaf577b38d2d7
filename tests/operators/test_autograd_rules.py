"""What autograd asks of an operator: saved tensors unpacked once, versions, torch.func, and no gradient left out.

Levels: CPU implementation and simulation; a launcher that does nothing, where kernels write behind torch's back."""

from __future__ import annotations

import contextlib

import pytest
import torch
from cases import random_tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts


def int32(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


CU_SEQLENS = int32(0, 4, 9)


def tensors_of(requires_grad=False) -> list[torch.Tensor]:
    return [random_tensor(seed, 9, heads, 32).requires_grad_(requires_grad) for seed, heads in enumerate((4, 2, 2))]


def dense(kernel, query, key, value):
    return kernel.flash_attn_func(query[None], key[None], value[None], causal=True)


def features(kernel, query, key, value):
    output, lse, _ = kernel.flash_attn_func(
        query[None], key[None], value[None], window_size=(3, 2), softcap=5.0, s_aux=query.mean(dim=(0, 2)),
        alibi_slopes=torch.ones(4), return_attn_probs=True,
    )  # fmt: skip
    return output + lse.transpose(1, 2).unsqueeze(-1)


def packed(kernel, query, key, value):
    return kernel.flash_attn_varlen_func(query, key, value, CU_SEQLENS, CU_SEQLENS, 5, 5, causal=True)


def packed_out(kernel, query, key, value):
    out = torch.empty_like(query)
    kernel.flash_attention_varlen(out, query, key, value, CU_SEQLENS, CU_SEQLENS, 5, 5)
    return out


def paged(kernel, query, key, value):
    pages = (torch.cat([tensor, tensor, tensor, tensor])[:32].unflatten(0, (2, 16)) for tensor in (key, value))
    return kernel.flash_attn_varlen_func(
        query, *pages, CU_SEQLENS, None, 5, 20, block_table=int32(1, 0, 0, 1).view(2, 2), seqused_k=int32(20, 5)
    )


def kv_packed(kernel, query, key, value):
    return kernel.flash_attn_kvpacked_func(query[None], torch.stack([key, value], dim=1)[None])


def dropped(kernel, query, key, value):
    torch.manual_seed(0)
    return kernel.flash_attn_func(query[None], key[None], value[None], dropout_p=0.5)


FUNCTIONS = [dense, features, packed, packed_out, paged, kv_packed]


@pytest.fixture(params=[*FUNCTIONS, dropped], ids=lambda function: function.__name__)
def function(request, kernel, launcher):
    """A call with gradients. Kernels have none for keys in pages, and say so before anything runs."""
    if launcher != "cpu" and request.param is paged:
        with pytest.raises(NotImplementedError, match="gradients of key and value in pages are not implemented"):
            gradients(kernel, paged)
        pytest.skip("refused, as seen")
    return request.param


def gradients(kernel, function, wrap=lambda call, *tensors: call(*tensors)):
    tensors = tensors_of(requires_grad=True)
    return torch.autograd.grad(wrap(lambda *x: function(kernel, *x), *tensors).square().sum(), tensors)


def check_same(ours, expected):
    for grad, other in zip(ours, expected):
        torch.testing.assert_close(grad, other)
        assert other.any()


# Saved tensors


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(kernel, function, reentrant):
    tensors = tensors_of(requires_grad=True)
    checkpoint(lambda *x: function(kernel, *x), *tensors, use_reentrant=reentrant).square().sum().backward()
    check_same([tensor.grad for tensor in tensors], gradients(kernel, function))


@pytest.mark.parametrize("policy", ["MUST_SAVE", "PREFER_RECOMPUTE", "MUST_RECOMPUTE"])
def test_selective_checkpoint(kernel, function, policy):
    """The operator's results are kept, or computed again."""
    seen = []

    def choose(context, operator, *args, **kwargs):
        ours = operator is kernel.operators.attention_forward
        seen.append(ours)
        return getattr(CheckpointPolicy, policy if ours else "PREFER_RECOMPUTE")

    def wrap(call, *tensors):
        contexts = lambda: create_selective_checkpoint_contexts(choose)  # noqa: E731
        return checkpoint(call, *tensors, use_reentrant=False, context_fn=contexts)

    check_same(gradients(kernel, function, wrap), gradients(kernel, function))
    assert any(seen)


def test_saved_tensors_are_unpacked_once(kernel, function):
    def pack(tensor):
        return [tensor]

    def unpack(box):
        return box.pop()  # an IndexError for whoever comes twice

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        ours = gradients(kernel, function)
    check_same(ours, gradients(kernel, function))


def test_offloading(kernel, function):
    with torch.autograd.graph.save_on_cpu():
        ours = gradients(kernel, function)
    check_same(ours, gradients(kernel, function))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_checkpoint_in_a_compiled_function(kernel, launcher, backend):
    torch._dynamo.reset()

    def wrap(call, *tensors):
        run = lambda *x: checkpoint(call, *x, use_reentrant=False)  # noqa: E731
        return torch.compile(run, backend=backend, fullgraph=True)(*tensors)

    check_same(gradients(kernel, dense, wrap), gradients(kernel, dense))


@pytest.fixture
def process_group(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


class Layer(torch.nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel
        self.qkv, self.out = torch.nn.Linear(64, 192), torch.nn.Linear(64, 64)

    def forward(self, hidden_states):
        qkv = self.qkv(hidden_states).unflatten(-1, (3, 2, 32))
        return hidden_states + self.out(self.kernel.flash_attn_qkvpacked_func(qkv, causal=True).flatten(2))


def test_fully_sharded_and_checkpointed(kernel, launcher, process_group):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.distributed.fsdp import fully_shard

    def run(wrap):
        torch.manual_seed(0)
        model = torch.nn.Sequential(*(wrap(Layer(kernel)) for _ in range(2)))
        if wrap is not plain:
            fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
        model(random_tensor(0, 2, 9, 64)).square().sum().backward()
        grads = [parameter.grad for parameter in model.parameters()]
        return [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]

    plain = lambda layer: layer  # noqa: E731
    sharded = lambda layer: fully_shard(  # noqa: E731
        checkpoint_wrapper(layer), mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    )
    check_same(run(sharded), run(plain))


# Versions


@contextlib.contextmanager
def no_launch(kernel):
    with kernel.launchers.use_launcher(lambda plan, tensors: None):
        yield


@pytest.fixture(params=["launcher", "nothing is launched"])
def anywhere(request, kernel):
    with no_launch(kernel) if request.param != "launcher" else contextlib.nullcontext():
        yield


MODES = [contextlib.nullcontext, torch.no_grad, torch.inference_mode]
MODIFIED = "modified by an inplace operation"


@pytest.mark.parametrize("make", [lambda: torch.ones(9, 4, 32), lambda: torch.ones(9, 4, 32, 2)[..., 0]])
@pytest.mark.parametrize("mode", MODES)
def test_out_has_a_new_version(kernel, launcher, anywhere, mode, make):
    out, factor = make(), torch.ones(9, 4, 32, requires_grad=True)
    product = out * factor
    with mode():
        kernel.flash_attention_varlen(out, *tensors_of(), CU_SEQLENS, CU_SEQLENS, 5, 5)
    with pytest.raises(RuntimeError, match=MODIFIED):
        product.sum().backward()


@pytest.mark.parametrize("which", ["base", "view", "another view"])
@pytest.mark.parametrize("mode", MODES)
def test_views_have_one_version(kernel, launcher, anywhere, mode, which):
    base = torch.ones(9, 4, 96)
    out, saved = {
        "base": (base[..., :32], base),
        "view": (base[..., :32], base[..., :32]),
        "another view": (base[..., :32], base[..., 32:]),
    }[which]
    product = saved * torch.ones_like(saved).requires_grad_()
    with mode():
        kernel.flash_attention_varlen(out, *tensors_of(), CU_SEQLENS, CU_SEQLENS, 5, 5)
    with pytest.raises(RuntimeError, match=MODIFIED):
        product.sum().backward()


@pytest.mark.parametrize("empty", ["queries", "keys"])
def test_a_version_without_a_launch(kernel, launcher, empty):
    query, key, value = tensors_of()
    cu_k = int32(0, 0, 0) if empty == "keys" else CU_SEQLENS
    key, value = (key[:0], value[:0]) if empty == "keys" else (key, value)
    out, factor = torch.ones(9, 4, 32), torch.ones(9, 4, 32, requires_grad=True)
    product = out * factor
    kernel.flash_attention_varlen(out, query, key, value, CU_SEQLENS if empty == "keys" else int32(0, 0, 0), cu_k, 5, 5)
    with pytest.raises(RuntimeError, match=MODIFIED):
        product.sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_call_makes_a_new_version(kernel, launcher, backend):
    torch._dynamo.reset()
    call = lambda out, *x: kernel.flash_attention_varlen(out, *x, CU_SEQLENS, CU_SEQLENS, 5, 5)  # noqa: E731
    out, factor = torch.ones(9, 4, 32), torch.ones(9, 4, 32, requires_grad=True)
    product = out * factor
    torch.compile(call, backend=backend, fullgraph=True)(out, *tensors_of())
    with pytest.raises(RuntimeError, match=MODIFIED):
        product.sum().backward()


def cache_call(kernel, k_cache, v_cache, q=None, k=None, v=None, **arguments):
    q = random_tensor(1, 2, 1, 4, 32) if q is None else q
    k = random_tensor(2, 2, 3, 2, 32) if k is None else k
    v = random_tensor(3, 2, 3, 2, 32) if v is None else v
    return kernel.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, cache_seqlens=int32(4, 9), **arguments)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_caches_have_a_new_version(kernel, launcher, anywhere, mode, which):
    caches = [random_tensor(seed, 3, 32, 2, 32) for seed in (4, 5)]
    product = caches[which] * torch.ones(3, 32, 2, 32, requires_grad=True)
    with mode():
        cache_call(kernel, *caches)
    with pytest.raises(RuntimeError, match=MODIFIED):
        product.sum().backward()


@pytest.mark.parametrize("inputs_require_grad", [False, True])
def test_a_leaf_is_no_out(kernel, launcher, inputs_require_grad):
    """As for every in-place operation; without gradients it is one."""
    out = torch.ones(9, 4, 32, requires_grad=True)
    arguments = *tensors_of(inputs_require_grad), CU_SEQLENS, CU_SEQLENS, 5, 5
    for leaf in (out, out.view(9, 4, 32)):
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            kernel.flash_attention_varlen(leaf, *arguments)
    with torch.no_grad():
        kernel.flash_attention_varlen(out, *arguments)
        assert torch.equal(out, kernel.flash_attn_varlen_func(*arguments))


def test_an_out_of_inference_mode(kernel, launcher):
    """It has no version; it can be written inside."""
    with torch.inference_mode():
        out = torch.ones(9, 4, 32)
        kernel.flash_attention_varlen(out, *tensors_of(), CU_SEQLENS, CU_SEQLENS, 5, 5)
        assert torch.equal(out, packed_out(kernel, *tensors_of()))


# torch.func


def test_func_grad_and_vjp(kernel, function):
    expected = gradients(kernel, function)
    tensors = tensors_of()
    loss = lambda *x: function(kernel, *x).square().sum()  # noqa: E731
    check_same(torch.func.grad(loss, argnums=(0, 1, 2))(*tensors), expected)
    value, pull = torch.func.vjp(loss, *tensors)
    check_same(pull(torch.ones_like(value)), expected)
    check_same(torch.func.grad_and_value(loss, argnums=(0, 1, 2))(*tensors)[0], expected)
    factor = torch.ones(())  # a level outside that has nothing to do with the call
    outer = torch.func.grad(lambda x: x * torch.func.grad(loss)(*tensors).sum())
    torch.testing.assert_close(outer(factor), expected[0].sum())


def test_func_grad_of_a_module(kernel, launcher):
    layer, hidden_states = Layer(kernel), random_tensor(0, 2, 9, 64)
    parameters = dict(layer.named_parameters())
    loss = lambda p: torch.func.functional_call(layer, p, (hidden_states,)).square().sum()  # noqa: E731
    grads = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    check_same(grads.values(), [parameter.grad for parameter in parameters.values()])


VMAP = "attention does not support torch.vmap, nor torch.func.jacrev"
TANGENTS = "forward-mode derivatives of attention are not implemented"
SECOND = "second derivatives of attention are not implemented"


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_torch_func_cannot_do_is_refused(kernel, launcher, function):
    tensors = tensors_of()
    plain = lambda x: function(kernel, x, *tensors[1:])  # noqa: E731
    loss = lambda x: plain(x).square().sum()  # noqa: E731
    direction = torch.ones_like(tensors[0])
    for transformed in (torch.func.jvp, lambda f, x, t: torch.func.linearize(f, *x)):
        with pytest.raises(NotImplementedError, match=TANGENTS):
            transformed(plain, (tensors[0],), (direction,))
    for jacobian in (torch.func.jacfwd, torch.func.hessian):
        with pytest.raises(NotImplementedError, match=f"{TANGENTS}|{VMAP}"):
            jacobian(loss)(tensors[0])
    with pytest.raises(NotImplementedError, match=VMAP):
        torch.vmap(torch.func.grad(loss))(tensors[0][None])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_torch_func_cannot_derive_twice_is_refused(kernel, function):
    tensors = tensors_of()
    plain = lambda x: function(kernel, x, *tensors[1:])  # noqa: E731
    loss = lambda x: plain(x).square().sum()  # noqa: E731
    direction = torch.ones_like(tensors[0])
    with pytest.raises(NotImplementedError, match=VMAP):
        torch.func.jacrev(plain)(tensors[0])
    with pytest.raises(NotImplementedError, match=SECOND):
        torch.func.grad(lambda x: torch.func.grad(loss)(x).sum())(tensors[0])
    with pytest.raises(NotImplementedError, match=SECOND):
        torch.func.grad(lambda z: torch.func.vjp(plain, tensors[0])[1](plain(tensors[0]).detach() * z)[0].sum())(
            torch.ones(())
        )
    with pytest.raises(NotImplementedError, match=TANGENTS):
        torch.func.jvp(torch.func.grad(loss), (tensors[0],), (direction,))
    with pytest.raises(NotImplementedError, match=TANGENTS):
        torch.func.jvp(
            lambda z: torch.func.vjp(plain, tensors[0])[1](plain(tensors[0]).detach() * z)[0], (torch.ones(()),) * 1,
            (torch.ones(()),),
        )  # fmt: skip


def test_torch_func_does_not_write_what_it_does_not_see(kernel, launcher):
    out, tensors = torch.ones(9, 4, 32), tensors_of()

    def loss(factor):
        product = out * factor
        kernel.flash_attention_varlen(out, *tensors, CU_SEQLENS, CU_SEQLENS, 5, 5)
        return product.sum()

    with pytest.raises(NotImplementedError, match="out must be made inside the function that torch.func transforms"):
        torch.func.grad(loss)(torch.ones(9, 4, 32))
    assert torch.equal(out, torch.ones(9, 4, 32))


# Gradients that are left out, or not


@pytest.mark.parametrize("name", ["rotary_cos", "rotary_sin", "alibi_slopes"])
def test_tables_have_no_gradient(kernel, launcher, name):
    caches = [random_tensor(seed, 3, 32, 2, 32) for seed in (4, 5)]
    before = caches[0].clone()
    arguments = {"rotary_cos": torch.ones(32, 8), "rotary_sin": torch.ones(32, 8), "alibi_slopes": torch.ones(4)}
    arguments[name].requires_grad_()
    with pytest.raises(NotImplementedError, match=f"the gradient of {name} is not implemented: {name} must not"):
        cache_call(kernel, *caches, **arguments)
    assert torch.equal(caches[0], before)
    with torch.no_grad():
        cache_call(kernel, *caches, **arguments)


def test_gradients_through_what_is_appended(kernel, launcher):
    """The cache is torch's own in-place operation: its gradients are there, only those of attention are refused."""
    old, k = random_tensor(4, 3, 32, 2, 32).requires_grad_(), random_tensor(2, 2, 3, 2, 32).requires_grad_()
    k_cache, v_cache = old * 1, random_tensor(5, 3, 32, 2, 32)
    output = cache_call(kernel, k_cache, v_cache, k=k)
    weights = random_tensor(6, 3, 32, 2, 32)
    grad_old, grad_k = torch.autograd.grad((k_cache * weights).sum(), (old, k), retain_graph=True)
    expected = weights.clone()
    for b, length in enumerate((4, 9)):
        assert torch.equal(grad_k[b], weights[b, length : length + 3])
        expected[b, length : length + 3] = 0
    assert torch.equal(grad_old, expected)
    with pytest.raises(NotImplementedError, match="flash_attn_with_kvcache has no gradient"):
        output.sum().backward()


def test_a_parameter_is_a_cache_but_not_for_what_wants_gradients(kernel, launcher):
    caches = [random_tensor(seed, 3, 32, 2, 32).requires_grad_() for seed in (4, 5)]
    cache_call(kernel, *caches)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        cache_call(kernel, *caches, k=random_tensor(2, 2, 3, 2, 32).requires_grad_())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_caches_of_what_wants_gradients(kernel, backend):
    torch._dynamo.reset()
    q, v = random_tensor(1, 2, 1, 4, 32), random_tensor(3, 2, 3, 2, 32)
    step = lambda *caches, k: cache_call(kernel, *caches, q, k, v)  # noqa: E731
    caches, k = [random_tensor(seed, 3, 32, 2, 32) for seed in (4, 5)], random_tensor(2, 2, 3, 2, 32).requires_grad_()
    expected = [cache.clone() for cache in caches]
    torch.compile(step, backend=backend, fullgraph=True)(*caches, k=k)
    cache_call(kernel, *expected, k=k)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(caches, expected))
    if backend == "eager":
        caches[0].sum().backward()
        assert torch.equal(k.grad, torch.ones_like(k))
    else:  # the output and the cache have one backward
        with pytest.raises(NotImplementedError, match="flash_attn_with_kvcache has no gradient"):
            caches[0].sum().backward()


def test_helpers_have_gradients(kernel):
    hidden_states = random_tensor(0, 3, 5, 4).double().requires_grad_()
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    gradcheck = torch.autograd.gradcheck
    assert gradcheck(lambda x: kernel.unpad_input(x, mask)[0], hidden_states)
    tokens, indices = (kernel.unpad_input(hidden_states.detach(), mask)[i] for i in (0, 1))
    assert gradcheck(lambda x: kernel.pad_input(x, indices, 3, 5), tokens.requires_grad_())
    assert gradcheck(lambda x: kernel.index_first_axis(x, torch.tensor([0, 2, 2, 1])), tokens)
