"""Hundreds of calls with ever new lengths, and calls from several threads at once.

Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import pathlib
import random
import sys
import threading

import pytest
import torch
from cases import packed, random_tensor
from reference import assert_output, attention

STATUS = pathlib.Path("/proc/self/statm")


def resident_bytes() -> int:
    gc.collect()
    return int(STATUS.read_text().split()[1]) * 4096


def call_of(kernel, generator: random.Random) -> None:
    """One of the public functions, with lengths at random."""
    lengths = [(generator.randint(0, 24), generator.randint(0, 24)) for _ in range(generator.randint(1, 3))]
    query, key, value, cu_q, cu_k = packed(lengths, 4, 1, 128, torch.float32)
    causal = generator.random() < 0.5
    if generator.random() < 0.5:
        kernel.flash_attn_varlen_func(query, key, value, cu_q, cu_k, 24, 24, causal=causal, return_attn_probs=True)
    else:
        cache = torch.zeros(2, generator.randint(1, 40), 1, 32, dtype=torch.float16)
        new = random_tensor(0, 2, 1, 1, 32, dtype=torch.float16)
        step = random_tensor(0, 2, 1, 2, 32, dtype=torch.float16)
        kernel.flash_attn_with_kvcache(step, cache, cache.clone(), new, new, cache_seqlens=0, causal=causal)


@pytest.mark.skipif(not STATUS.exists(), reason="reads the process's memory from /proc")
def test_memory_stays_flat(kernel, launcher):
    """After 300 calls no more than after the first 100, to less than what holding on to the outputs would take."""
    generator = random.Random(0)
    for _ in range(100):
        call_of(kernel, generator)
    before = resident_bytes()
    for _ in range(200):
        call_of(kernel, generator)
    assert resident_bytes() - before < 2**20


def gradients_of(kernel, generator: random.Random) -> None:
    """Of a packed or dense call with lengths at random, now and then with dropout, sinks or frozen keys."""
    lengths = [(generator.randint(0, 24), generator.randint(0, 24)) for _ in range(generator.randint(1, 3))]
    *tensors, cu_q, cu_k = packed(lengths, 4, 2, 64, torch.float16)
    wanted = tensors[: generator.choice([1, 3])]
    arguments = {"causal": generator.random() < 0.5, "dropout_p": generator.choice([0.0, 0.2])}
    if generator.random() < 0.5:
        arguments["s_aux"] = random_tensor(0, 4)
        wanted = [*wanted, arguments["s_aux"]]
    for tensor in wanted:
        tensor.requires_grad_()
    if generator.random() < 0.5:
        output = kernel.flash_attn_varlen_func(*tensors, cu_q, cu_k, 24, 24, **arguments)
    else:
        output = kernel.flash_attn_func(*(tensor[None] for tensor in tensors), **arguments)
    output.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in wanted)


@pytest.mark.sampled(3)
@pytest.mark.skipif(not STATUS.exists(), reason="reads the process's memory from /proc")
def test_memory_stays_flat_with_gradients(kernel, launcher, monkeypatch):
    """As without, once the planners' caches are full: here of 32 plans, not of 1024, which are 10 MB."""
    for name in ("forward", "backward"):
        planner = importlib.import_module(f"{kernel.__name__}.planning.{name}")
        plan = getattr(planner, f"_plan_{name}").__wrapped__
        monkeypatch.setattr(planner, f"_plan_{name}", functools.lru_cache(maxsize=32)(plan))
    generator = random.Random(0)
    for _ in range(100):
        gradients_of(kernel, generator)
    before = resident_bytes()
    for _ in range(200):
        gradients_of(kernel, generator)
    assert resident_bytes() - before < 2**20


def test_caches_are_bounded(kernel):
    """Every cache of the package has a limit, and there is one at least."""
    modules = [module for name, module in sys.modules.items() if name.startswith(kernel.__name__)]
    caches = [
        (module.__name__, name, value)
        for module in modules
        for name, value in vars(module).items()
        if hasattr(value, "cache_info")
    ]
    assert caches and all(cache.cache_info().maxsize is not None for _, _, cache in caches), caches


def test_four_threads_at_once(kernel, launcher):
    """Each calls with inputs of its own, and gets the results of its own."""
    target, barrier, errors = kernel.launchers.current(), threading.Barrier(4), []

    def work(seed: int) -> None:
        # A new thread has no launcher but the one that it sets itself.
        inside = kernel.launchers.use_launcher(*target) if target else contextlib.nullcontext()
        try:
            with inside:
                barrier.wait()
                for turn in range(5):
                    lengths = [(seed + 1 + turn, 20 + seed), (7, 9 * seed)]
                    batch = packed(lengths, 4, 2, 32, torch.float32, seed=100 * seed + turn)
                    output = kernel.flash_attn_varlen_func(*batch, 24, 48, causal=True)
                    assert_output(output, attention(*batch, window=(-1, 0))[0], batch[2])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_gradients_in_four_threads(kernel):
    """The backward runs in autograd's threads."""
    inputs = [
        [tensor.requires_grad_() for tensor in packed([(9, 9)], 2, 2, 16, torch.float32, seed)[:3]] for seed in range(4)
    ]
    cu = torch.tensor([0, 9], dtype=torch.int32)

    def gradient(tensors):
        return torch.autograd.grad(kernel.flash_attn_varlen_func(*tensors, cu, cu, 9, 9).square().sum(), tensors)

    expected, results = [gradient(tensors) for tensors in inputs], [None] * 4
    threads = [
        threading.Thread(target=lambda index: results.__setitem__(index, gradient(inputs[index])), args=(index,))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for ours, theirs in zip(results, expected) for a, b in zip(ours, theirs))
