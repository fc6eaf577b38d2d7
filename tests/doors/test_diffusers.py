"""diffusers' dispatcher on this kernel: models, masks of keys, and what it calls for context parallelism."""

from __future__ import annotations

import sys
import types

import pytest
import reference
import torch
from cases import random_tensor
from diffusers.models import attention_dispatch as dispatch
from simulated_launcher import SimulatedLauncher

from . import zoo

NAMES = dispatch.AttentionBackendName


@pytest.fixture(autouse=True)
def registered(kernel, monkeypatch):
    backends = dispatch._AttentionBackendRegistry  # set_attention_backend also sets that of all other models
    monkeypatch.setattr(backends, "_active_backend", backends._active_backend)
    before = dict(dispatch._HUB_KERNELS_REGISTRY)
    configs = [dict(vars(config)) for config in before.values()]
    with kernel.register_diffusers():
        yield
    assert dispatch._HUB_KERNELS_REGISTRY == before
    assert [dict(vars(config)) for config in before.values()] == configs


@pytest.fixture
def calls(monkeypatch):
    """Of the functions that are registered, by entry."""
    counts = {}

    def counted(name, function):
        def call(*arguments, **named):
            counts[name.value] = counts.get(name.value, 0) + 1
            return function(*arguments, **named)

        return call

    for name in (NAMES.FLASH_HUB, NAMES.FLASH_VARLEN_HUB):
        config = dispatch._HUB_KERNELS_REGISTRY[name]
        monkeypatch.setattr(config, "kernel_fn", counted(name, config.kernel_fn))
    return counts


MODELS = {
    "flux": (zoo.flux, "flash_hub", 2),
    "wan": (zoo.wan, "flash_hub", 4),
    "qwen_image": (zoo.qwen_image, "flash_varlen_hub", 2),  # masks of keys
    "flux, packed": (zoo.flux, "flash_varlen_hub", 2),
    "wan, packed": (zoo.wan, "flash_varlen_hub", 4),
}


@pytest.mark.parametrize("name", MODELS)
def test_model(kernel, calls, name):
    make, backend, count = MODELS[name]
    model, inputs = zoo.made(make, torch.bfloat16)
    exact, exact_inputs = zoo.made(make)
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = zoo.output_of(exact, exact_inputs)
        native = zoo.output_of(model, inputs)
        model.set_attention_backend(backend)
        output = zoo.output_of(model, inputs)
        assert calls == {backend: count}
        launcher = SimulatedLauncher()
        with kernel.launchers.use_launcher(launcher):
            simulated = zoo.output_of(model, inputs)
    assert calls == {backend: 2 * count} and launcher.launches >= count
    rounding = float((native.float() - expected).abs().max())
    for found in (output, simulated):
        assert float((found.float() - expected).abs().max()) <= 1.5 * rounding
    model.train()
    zoo.output_of(model, inputs).float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def context(operator, *tensors, **named):
    """Of a forward operator as its autograd function gives it."""
    ctx = types.SimpleNamespace()
    ctx.save_for_backward = lambda *saved: setattr(ctx, "saved_tensors", saved)
    return ctx, operator(ctx, *tensors, return_lse=True, **named)


@pytest.mark.parametrize("entry", ["dense", "packed"])
def test_context_parallel_operators(launcher, entry):
    """The forward of each part of the keys, and its backward with what came of all of them together."""
    backends = {"dense": NAMES.FLASH_HUB, "packed": NAMES.FLASH_VARLEN_HUB}
    dispatch._maybe_download_kernel_for_backend(backends[entry])  # nothing is missing, so nothing is loaded
    prefix = "_flash_attention_hub" if entry == "dense" else "_flash_varlen_attention_hub"
    forward = getattr(dispatch, f"{prefix}_forward_op")
    backward = getattr(dispatch, f"{prefix}_backward_op")
    query, key, value = (random_tensor(i, 2, n, 2, 32) for i, n in enumerate((6, 8, 8)))
    grad = random_tensor(5, 2, 6, 2, 32)
    parts = [context(forward, query, key[:, half], value[:, half]) for half in (slice(0, 4), slice(4, 8))]
    lses = torch.stack([lse for _, (_, lse) in parts])  # [batch, seqlen, heads]
    lse = lses.logsumexp(dim=0)
    output = sum(out * (part - lse).exp().unsqueeze(-1) for (_, (out, _)), part in zip(parts, lses))
    expected, _ = reference.attention(query, key, value)
    reference.assert_output(output, expected, value)
    wanted = reference.gradients((query, key, value), grad)
    found = [backward(ctx, grad, out=output, lse=lse) for ctx, _ in parts]
    grads = [found[0][0] + found[1][0], *(torch.cat(halves, dim=1) for halves in list(zip(*found))[1:])]
    reference.assert_gradients(grads, wanted, (query, key, value), torch.float32)


def test_without_diffusers(kernel, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "diffusers.models.attention_dispatch", None)
        with pytest.raises(ModuleNotFoundError, match="diffusers"):
            kernel.register_diffusers()
    with monkeypatch.context() as patch:
        patch.delattr(dispatch, "_HUB_KERNELS_REGISTRY")
        with pytest.raises(RuntimeError, match="diffusers 0.42.0 has no entries of hub kernels"):
            kernel.register_diffusers()


def test_ends_in_any_order(kernel):
    ours = dispatch._HUB_KERNELS_REGISTRY[NAMES.FLASH_HUB]
    first = kernel.register_diffusers()
    theirs = dispatch._HUB_KERNELS_REGISTRY[NAMES.FLASH_HUB]
    assert theirs is not ours
    first.undo()
    first.undo()
    assert dispatch._HUB_KERNELS_REGISTRY[NAMES.FLASH_HUB] is ours
