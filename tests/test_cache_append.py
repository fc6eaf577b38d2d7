"""The kernel that appends to a cache, through flash_attn_with_kvcache. Level: simulation, under the checker."""

from __future__ import annotations

import pytest
import torch
from appending import SOURCE, Appending, Problem, call, memory
from cases import random_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_launcher import SimulatedLauncher

FAR = [-(2**31), -1, 2**31 - 1]  # that no cache has
FARTHER = [*FAR, -(2**63), 2**63 - 1, 2**40, 2**32, 2**32 + 3]
PAGES = [[3, 0], [1, 4]]
NAMED = {
    "one token": Problem([5, 0]),
    "many tokens": Problem([5, 0], new=9, queries=3),
    "more queries than tokens": Problem([5, 0], new=2, queries=7, pairs=16),
    "one sequence, one head": Problem([40], heads=1, heads_kv=1),
    "rows": Problem([5, 0, 7], rows=[4, 0, 2], pairs=32),
    "rows of 64 bits": Problem([5, 0, 7], rows=[4, 0, 2], long_rows=True, long_lengths=True),
    "lengths of 64 bits": Problem([5, 0], long_lengths=True, pairs=16),
    **{f"pages of {size}": Problem([size - 2, 3], new=4, capacity=size, pages=PAGES) for size in (16, 32, 64, 256)},
    "pages of 48": Problem([47, 3], capacity=48, pages=PAGES, pairs=32),
    "full": Problem([47, 46], new=1, pairs=8),
    "full pages": Problem([95, 92], new=1, pages=PAGES),
    "all of the cache at once": Problem([0, 0], new=48, queries=48, heads=2),
    **{
        f"head_dim {dim}, {2 * pairs} rotated": Problem([7, 30], new=2, head_dim=dim, value_dim=value_dim, pairs=pairs)
        for dim, value_dim, pairs in (
            (64, 64, 32), (80, 80, 16), (128, 128, 64), (192, 128, 32), (256, 256, 32), (512, 512, 256), (576, 512, 32),
            (5, 3, 1), (5, 3, 2), (2, 1, 1),
        )
    },
    "halves": Problem([7, 30], new=2, queries=2, pairs=24, interleaved=False),
    "halves of all": Problem([7, 30], pairs=32, interleaved=False),
    "all by the first": Problem([7, 30], new=3, queries=3, pairs=24, causal=False),
    "angles of 32 bits": Problem([7, 30], pairs=24, table_dtype=torch.float32),
    "bfloat16": Problem([7, 30], pairs=24, dtype=torch.bfloat16),
    "bfloat16, angles of 32 bits": Problem([7, 30], pairs=24, dtype=torch.bfloat16, table_dtype=torch.float32),
    "float32": Problem([7, 30], new=2, queries=2, pairs=24, dtype=torch.float32),
    "head-major": Problem([7, 30], new=3, queries=2, pairs=24, strides="head-major"),
    "part of a larger one": Problem([7, 30], new=3, queries=2, pairs=24, strides="part"),
    "pages, part of a larger one": Problem([7, 30], new=3, pages=PAGES, pairs=24, strides="part"),
}  # fmt: skip


@pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED)
def test_named(kernel, problem):
    attends = problem.head_dim == 64
    call(kernel, problem, SimulatedLauncher(check=True), attends).verify(attends)


WRONG = {
    "before the cache": Problem([-1, -2, -3], new=3, pairs=8),
    "behind the cache": Problem([46, 47, 48], new=3, pairs=8),
    "far away": Problem(FAR, new=3, queries=2, pairs=8),
    "farther away": Problem(FARTHER, new=3, queries=2, pairs=8, places=8, long_lengths=True),
    "rows that are not there": Problem([5] * 5, new=2, rows=[*FAR, 5, 2]),
    "64-bit rows that are not there": Problem([5] * 10, new=2, rows=[*FARTHER, 5, 2], long_rows=True),
    "pages that are not there": Problem([14] * 4, new=4, capacity=16, pages=[[-1, 0], [1, 5], [2**31 - 1, 2], [3, 4]]),
    "no page at all": Problem([14, 0], new=4, capacity=16, pages=[FAR, FAR]),
    "all of it": Problem([-1, 2**31 - 1, 30], new=4, capacity=16, pages=[FAR, FAR, [3, -1, 1]], pairs=8),
}


@pytest.mark.parametrize("problem", WRONG.values(), ids=WRONG)
def test_what_finds_no_place_is_not_written(kernel, problem):
    call(kernel, problem, SimulatedLauncher(check=True)).verify(attended=False)


@pytest.mark.parametrize("name", ["float32", "halves", "bfloat16, angles of 32 bits", "part of a larger one"])
def test_fast_math(kernel, name):
    call(kernel, NAMED[name], SimulatedLauncher(fast_math=True)).verify(attended=False)


@pytest.mark.parametrize("fast_math", [False, True])
@pytest.mark.parametrize("name", [name for name, problem in NAMED.items() if problem.pairs])
def test_the_bits_of_torch(kernel, name, fast_math):
    """As torch's own operations write and rotate, which step in where gradients are followed."""
    done = call(kernel, NAMED[name], SimulatedLauncher(fast_math=fast_math))
    query, k, v = done.inputs
    kernel.flash_attn_with_kvcache(query, *done.caches_before, k, v, **done.settings)
    for cache, expected in zip(done.caches, done.caches_before):
        assert torch.equal(memory(cache), memory(expected))
    rotary = kernel.interface.rotary.Rotary(
        *(done.settings[f"rotary_{name}"] for name in ("cos", "sin", "interleaved"))
    )
    positions = done.settings["cache_seqlens"].long()[:, None] + torch.arange(query.shape[1]) * done.problem.causal
    assert torch.equal(done.given["rotated"], rotary.rotate(query, positions))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_is_copied_as_it_is(kernel, dtype):
    """Infinities and each kind of NaN, too."""
    new = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 32, 4, 512)
    caches = [torch.zeros(1, 40, 4, 512, dtype=dtype) for _ in range(2)]
    with kernel.launchers.use_launcher(Appending(SimulatedLauncher(fast_math=True))):
        kernel.flash_attn_with_kvcache(torch.zeros_like(new[:, :1]), *caches, new, new.flip(3), cache_seqlens=8)
    for cache, written in zip(caches, (new, new.flip(3))):
        assert torch.equal(cache[:, 8:].view(torch.int16), written.view(torch.int16)) and not cache[:, :8].any()


@st.composite
def problems(draw) -> Problem:
    batch, size = draw(st.integers(1, 4)), draw(st.sampled_from([16, 32, 48]))
    layout, places = draw(st.sampled_from(["dense", "rows", "pages"])), draw(st.integers(4, 9))
    pages = draw(st.integers(1, places // batch)) if layout == "pages" else 1
    order = draw(st.permutations(range(places)))
    anywhere = st.sampled_from([*FAR, places, None, None, None])

    def numbers(begin: int, count: int) -> list[int]:
        lies = [draw(anywhere) for _ in range(count)]
        return [order[begin + i] if lie is None else lie for i, lie in enumerate(lies)]

    new, head_dim = draw(st.integers(1, 5)), draw(st.integers(1, 70))
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    length = st.one_of(st.integers(-new - 1, pages * size + 1), st.sampled_from(FAR))
    heads_kv = draw(st.integers(1, 3))
    return Problem(
        lengths=draw(st.lists(length, min_size=batch, max_size=batch)),
        new=new,
        queries=draw(st.integers(1, 4)),
        capacity=size,
        pages=[numbers(i * pages, pages) for i in range(batch)] if layout == "pages" else None,
        rows=numbers(0, batch) if layout == "rows" else None,
        places=places,
        heads=heads_kv * draw(st.integers(1, 3)),
        heads_kv=heads_kv,
        head_dim=head_dim,
        value_dim=draw(st.integers(1, 70)),
        dtype=dtype,
        pairs=draw(st.integers(0, head_dim // 2)),
        interleaved=draw(st.booleans()),
        table_dtype=draw(st.sampled_from([None, torch.float32])),
        causal=draw(st.booleans()),
        long_lengths=draw(st.booleans()),
        long_rows=draw(st.booleans()),
        strides=draw(st.sampled_from(["whole", "head-major", "part"])),
    )


@settings(max_examples=80, deadline=None)
@given(problem=problems(), order=st.sampled_from(["forward", "reverse", 1]))
def test_random(kernel, problem, order):
    call(kernel, problem, SimulatedLauncher(check=True, order=order)).verify(attended=False)


def test_tokens_of_one_place(kernel):
    """Sequences that share a row: each element is one of theirs, and nothing else changes."""
    caches = [torch.zeros(3, 16, 2, 32) for _ in range(2)]
    k, v = random_tensor(1, 2, 1, 2, 32), random_tensor(2, 2, 1, 2, 32)
    launcher = SimulatedLauncher(check=True, ignore=["race between threadgroups"])
    with kernel.launchers.use_launcher(launcher):
        kernel.flash_attn_with_kvcache(
            random_tensor(3, 2, 1, 2, 32), *caches, k, v,
            cache_seqlens=4, cache_batch_idx=torch.tensor([1, 1], dtype=torch.int32),
        )  # fmt: skip
    for cache, new in zip(caches, (k, v)):
        assert ((cache[1, 4] == new[0, 0]) | (cache[1, 4] == new[1, 0])).all()
        cache[1, 4] = 0
        assert not cache.any()


def plans_of(kernel, *arguments, **settings):
    """Plans of a call, and what they were given."""
    seen = []
    with kernel.launchers.use_launcher(lambda plan, given: seen.append((plan, dict(given)))):
        kernel.flash_attn_with_kvcache(*arguments, **settings)
    return seen


def tensors(capacity=16, new=1, queries=1):
    caches = [torch.zeros(2, capacity, 2, 32) for _ in range(2)]
    return random_tensor(1, 2, queries, 4, 32), *caches, *(random_tensor(s, 2, new, 2, 32) for s in (2, 3))


def test_one_launch_before_the_attention(kernel):
    angles = torch.zeros(16, 8)
    lengths = torch.tensor([3, 5], dtype=torch.int32)
    for rotary in ({}, {"rotary_cos": angles, "rotary_sin": angles}):
        inputs = tensors()
        seen = plans_of(kernel, *inputs, cache_seqlens=lengths, **rotary)
        assert [plan.source for plan, _ in seen] == [SOURCE, "attention_forward.metal"]
        (_, given), (_, attended) = seen
        assert attended["seqused_k"] is given["seqused_k"]
        assert attended["query"].data_ptr() == given["rotated" if rotary else "query"].data_ptr()


@pytest.mark.parametrize("inputs", [tensors(new=0), tensors(queries=0)], ids=["no new tokens", "no queries"])
def test_nothing_to_bind(kernel, inputs):
    """Tensors without elements may have no memory: they go to no launcher."""
    zeros = torch.zeros(16, 8)
    seen = plans_of(kernel, *inputs, cache_seqlens=3, rotary_cos=zeros + 1, rotary_sin=zeros)
    assert all(plan.source != SOURCE for plan, _ in seen)
    assert torch.equal(inputs[1][:, 3:4], inputs[3]) or inputs[3].numel() == 0


def test_a_strided_last_dimension_is_copied(kernel):
    query, k_cache, v_cache, k, v = tensors(new=2)
    others = [cache.clone() for cache in (k_cache, v_cache)]
    columns = [torch.stack([tensor, tensor * 0], dim=-1)[..., 0] for tensor in (query, k, v)]
    angles = [torch.stack([random_tensor(4, 16, 8)] * 2, dim=-1)[..., 0] for _ in range(2)]
    assert all(tensor.stride(-1) == 2 for tensor in (*columns, *angles))
    with kernel.launchers.use_launcher(Appending(SimulatedLauncher(check=True), attends=True)):
        strided = kernel.flash_attn_with_kvcache(
            columns[0], *others, *columns[1:], rotary_cos=angles[0], rotary_sin=angles[1], cache_seqlens=3
        )
        whole = kernel.flash_attn_with_kvcache(
            query, k_cache, v_cache, k, v, cache_seqlens=3,
            rotary_cos=angles[0].contiguous(), rotary_sin=angles[1].contiguous(),
        )  # fmt: skip
    assert torch.equal(strided, whole) and torch.equal(others[0], k_cache) and torch.equal(others[1], v_cache)


@pytest.mark.parametrize("which", ["k_cache", "v_cache", "k", "v"])
def test_what_has_a_gradient_is_written_by_torch(kernel, which):
    names = ("q", "k_cache", "v_cache", "k", "v")
    inputs = dict(zip(names, tensors()))
    inputs[which].requires_grad_()
    assert all(plan.source != SOURCE for plan, _ in plans_of(kernel, **inputs, cache_seqlens=3))
    assert torch.equal(inputs["k_cache"][:, 3:4], inputs["k"]) and torch.equal(inputs["v_cache"][:, 3:4], inputs["v"])
    with torch.no_grad():
        assert plans_of(kernel, **inputs, cache_seqlens=3)[0][0].source == SOURCE


def test_the_caches_are_known_to_have_changed(kernel):
    """As by every in-place operation: a backward that needs what was there is refused."""
    inputs, weight = tensors(), torch.ones(2, 16, 2, 32, requires_grad=True)
    products = [(cache * weight).sum() for cache in inputs[1:3]]
    plans_of(kernel, *inputs, cache_seqlens=3)
    for product in products:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.backward()


def test_in_inference_mode(kernel):
    with torch.inference_mode():
        inputs = tensors()
        with kernel.launchers.use_launcher(Appending(SimulatedLauncher(check=True))):
            kernel.flash_attn_with_kvcache(*inputs, cache_seqlens=3)
        assert torch.equal(inputs[1][:, 3:4], inputs[3])


def test_an_operator_as_it_should_be(kernel):
    query, *caches_and_new = tensors(new=2, queries=2)
    lengths, rows, angles = torch.tensor([3, 5], dtype=torch.int32), torch.tensor([1, 0]), random_tensor(4, 16, 8)
    with kernel.launchers.use_launcher(Appending(SimulatedLauncher(check=True))):
        for rotary in ((None, None), (angles.cos(), angles.sin())):
            arguments = (*caches_and_new, query, lengths, rows, None, *rotary, True, False)
            torch.library.opcheck(kernel.operators.append_to_cache, arguments)


def test_a_cache_too_long_for_the_kernels_is_refused_before_it_is_written(kernel):
    cache = torch.zeros(1, 1, 1, 1).expand(1, 2**30, 1, 1)
    new = torch.ones(1, 1, 1, 1)
    with kernel.launchers.use_launcher(lambda plan, given: pytest.fail("launched")):
        with pytest.raises(NotImplementedError, match="room for 1073741824 of a sequence"):
            kernel.operators.append_to_cache(
                cache, cache, new, new, new, torch.zeros(1, dtype=torch.int32), *(None,) * 4, False, False
            )
