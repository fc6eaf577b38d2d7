"""What a call writes shares no memory with what it reads, or with another part of itself: one test on addresses,
strides and sizes, held against lists of bytes, and what the public functions make of it."""

from __future__ import annotations

import itertools

import numpy
import pytest
import torch
from cases import packed, random_tensor
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import assert_output, attention

LENGTHS = [(5, 5), (4, 4)]


def block_bytes(block) -> list[int]:
    """Every byte of every element; more than once where two elements share it."""
    starts = (
        block.address + sum(stride * index for stride, index in zip(block.strides, place))
        for place in itertools.product(*map(range, block.sizes))
    )
    return [start + byte for start in starts for byte in range(block.itemsize)]


@st.composite
def blocks(draw):
    itemsize = draw(st.sampled_from([1, 2, 4]))
    dimensions = draw(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=4))
    return (
        draw(st.integers(0, 40)),
        tuple(itemsize * stride for stride, _ in dimensions),
        tuple(size for _, size in dimensions),
        itemsize,
    )


@settings(max_examples=1000, deadline=None)
@given(blocks(), blocks())
@example((0, (12, 8), (2, 3), 4), (4, (12, 8), (2, 3), 4))  # interleaved and not nested
@example((0, (4,), (3,), 4), (1, (4,), (3,), 2))  # two dtypes on one storage
def test_overlap_is_exact(kernel, first, second):
    first, second = kernel.checks.memory.Block(*first), kernel.checks.memory.Block(*second)
    shared = set(block_bytes(first)) & set(block_bytes(second))
    assert kernel.checks.memory.overlap(first, second) == kernel.checks.memory.overlap(second, first) == bool(shared)


@settings(max_examples=1000, deadline=None)
@given(blocks())
@example((0, (12, 8), (2, 3), 4))
def test_overlap_with_itself_is_exact(kernel, block):
    block = kernel.checks.memory.Block(*block)
    places = block_bytes(block)
    assert kernel.checks.memory.overlaps_itself(block) == (len(set(places)) < len(places))


@settings(max_examples=300, deadline=None)
@given(blocks(), blocks(), st.integers(0, 4))
def test_what_a_search_leaves_undecided_is_no_disjoint(kernel, first, second, steps):
    first, second = kernel.checks.memory.Block(*first), kernel.checks.memory.Block(*second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel.checks.memory, "MAX_STEPS", steps)
        if not kernel.checks.memory.overlap(first, second):
            assert not set(block_bytes(first)) & set(block_bytes(second))


def test_large_blocks_are_decided_at_once(kernel):
    """Every other column of a million tokens, one side heads first: by the common divisor of the strides."""
    first = kernel.checks.memory.Block(0, (8 * 64 * 32, 8 * 64, 8), (10**6, 32, 64), 4)
    second = kernel.checks.memory.Block(4, (8 * 64, 8 * 64 * 10**6, 8), (10**6, 32, 64), 4)
    assert not kernel.checks.memory.overlap(first, second)
    assert kernel.checks.memory.overlap(first, second._replace(address=8))


@pytest.fixture
def batch():
    return packed(LENGTHS, 2, 2, 32, torch.float32)


def run(kernel, out, query, key, value, cu_seqlens, **arguments):
    kernel.flash_attention_varlen(out, query, key, value, cu_seqlens, cu_seqlens, 5, 5, **arguments)


@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_out_is_an_input(kernel, launcher, batch, which, requires_grad):
    query, key, value, cu_seqlens, _ = batch
    out = {"query": query, "key": key, "value": value}[which]
    before = out.clone()
    sinks = torch.zeros(2, requires_grad=requires_grad)
    with pytest.raises(ValueError, match=f"out is written, so it must not share memory with {which}"):
        run(kernel, out, query, key, value, cu_seqlens, s_aux=sinks)
    assert torch.equal(out, before)


def shifted(by: int) -> tuple:
    line = random_tensor(0, 20, 2, 32)
    return line[by : by + 9], line[:9]


def foreign() -> tuple:
    """Two tensors, two storages, one array."""
    line = numpy.zeros((20, 2, 32), dtype=numpy.float32)
    return torch.from_numpy(line[3:12]), torch.from_numpy(line[:9])


def halves() -> tuple:
    """The same bytes as another dtype and as this one."""
    line = torch.zeros(9, 2, 32)
    return line, line.view(torch.int16).view(torch.float32)


# By name: what gives (out, key)
SHARED = {
    "one row": lambda: shifted(8),
    "a row before": lambda: tuple(reversed(shifted(8))),
    "another view": halves,
    "heads the other way round": lambda: (lambda x: (x.transpose(0, 1)[:, :2], x[:, :2]))(random_tensor(0, 9, 9, 32)),
    "expanded keys": lambda: (lambda x: (x, x[3:4].expand(9, 2, 32)))(random_tensor(0, 9, 2, 32)),
    "half a head": lambda: (lambda x: (x[..., :32], x[..., 16:48]))(random_tensor(0, 9, 2, 64)),
    "an array": foreign,
    "the other way round in an array": lambda: tuple(reversed(foreign())),
}
DISJOINT = {
    "kv": lambda: (lambda x: (x[:, 0], x[:, 1]))(random_tensor(0, 9, 2, 2, 32)),
    "heads of a projection": lambda: (lambda x: (x[:, 4:6], x[:, 2:4]))(random_tensor(0, 9, 6, 32)),
    "interleaved heads": lambda: (lambda x: (x[:, ::2], x[:, 1::2]))(random_tensor(0, 9, 4, 32)),
    "interleaved tokens": lambda: (lambda x: (x[1::2], x[::2]))(random_tensor(0, 18, 2, 32)),
    "interleaved columns": lambda: (lambda x: (x[..., 1::2], x[..., ::2]))(random_tensor(0, 9, 2, 64)),
    "columns": lambda: (lambda x: (x[..., :32], x[..., 32:]))(random_tensor(0, 9, 2, 64)),
    "a slot of a workspace": lambda: (lambda x: (x[2], x[1]))(random_tensor(0, 4, 9, 2, 32)),
    "neighbours": lambda: shifted(9),
}


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_out_shares_memory(kernel, launcher, batch, make):
    query, _, value, cu_seqlens, _ = batch
    out, key = make()
    with pytest.raises(ValueError, match="out is written, so it must not share memory with key"):
        run(kernel, out, query, key, value, cu_seqlens)


@pytest.mark.parametrize("make", DISJOINT.values(), ids=DISJOINT)
def test_out_beside_the_keys(kernel, launcher, batch, make):
    query, _, value, cu_seqlens, _ = batch
    out, key = make()
    expected, _ = attention(query, key.clone(), value, cu_seqlens, cu_seqlens)
    run(kernel, out, query, key, value, cu_seqlens)
    assert_output(out, expected, value)


@pytest.mark.parametrize("name", ["cu_seqlens_q", "seqused_k", "block_table", "alibi_slopes", "s_aux"])
def test_out_shares_memory_with_small_inputs(kernel, launcher, name):
    out, line = torch.zeros(9, 2, 32), torch.zeros(3, dtype=torch.int32)
    integers = out.view(torch.int32).flatten()
    cu_seqlens, key, arguments = torch.tensor([0, 5, 9], dtype=torch.int32), torch.zeros(9, 2, 32), {}
    if name == "cu_seqlens_q":
        cu_seqlens = integers[:3]
    elif name == "seqused_k":
        arguments[name] = integers[:2]
    elif name == "block_table":
        arguments[name], key = integers[:2].view(2, 1), torch.zeros(1, 16, 2, 32)
    else:
        arguments[name] = out.flatten()[:2]
    with pytest.raises(ValueError, match=f"out is written, so it must not share memory with {name}"):
        run(kernel, out, torch.zeros(9, 2, 32), key, key, cu_seqlens, **arguments)
    assert not line.any()


@pytest.mark.parametrize(
    "out",
    [
        lambda: torch.zeros(1, 2, 32).expand(9, 2, 32),
        lambda: torch.zeros(9, 1, 32).expand(9, 2, 32),
        lambda: torch.zeros(9, 2, 1).expand(9, 2, 32),
        lambda: torch.zeros(1000).as_strided((9, 2, 32), (2, 32, 1)),
        lambda: torch.zeros(1000).unfold(0, 64, 32)[:9].unflatten(1, (2, 32)),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_out_overlaps_itself(kernel, launcher, batch, out, requires_grad):
    query, key, value, cu_seqlens, _ = batch
    with pytest.raises(ValueError, match="out must not overlap itself in memory, got shape"):
        run(kernel, out(), query, key, value, cu_seqlens, s_aux=torch.zeros(2, requires_grad=requires_grad))


def test_nothing_shares_no_memory(kernel, launcher):
    line = torch.zeros(9, 2, 32)
    nothing = torch.zeros(1, dtype=torch.int32)
    kernel.flash_attention_varlen(line[:0], line[:0], line, line, nothing, nothing, 0, 0)
    kernel.flash_attention_varlen(line, random_tensor(0, 9, 2, 32), line[:0], line[:0], nothing, nothing, 0, 0)
    assert not line.any()


COMPILED = {
    "the keys": lambda: (lambda x: (x, x))(random_tensor(0, 9, 2, 32)),
    "one head of them": lambda: (lambda x: (x[:, :2], x[:, 1:3]))(random_tensor(0, 9, 4, 32)),
    "kv": DISJOINT["kv"],
    "columns": DISJOINT["columns"],
}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled(kernel, batch, make, backend):
    """The right answer, or the error from within the operator: what is compiled may write a copy."""
    query, _, value, cu_seqlens, _ = batch
    out, key = make()
    expected, _ = attention(query, key.clone(), value, cu_seqlens, cu_seqlens)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *tensors: run(kernel, *tensors), backend=backend, fullgraph=True)
    try:
        # torch's cache of graphs confuses inputs that are views of different bases.
        with torch._inductor.config.patch(force_disable_caches=True):
            compiled(out, query, key, value, cu_seqlens)
    except ValueError as error:
        assert "out is written, so it must not share memory with key" in str(error)
        assert kernel.checks.memory.overlap(kernel.checks.memory._block(out), kernel.checks.memory._block(key))
    else:
        assert_output(out, expected, value)
        assert backend != "eager" or make in DISJOINT.values()


# Caches: [3, 32, 2, 32], to which 4 tokens of 2 sequences are appended


def append(kernel, k_cache, v_cache, q=None, k=None, v=None, **arguments):
    q = random_tensor(1, 2, 1, 2, 32) if q is None else q
    k = random_tensor(2, 2, 4, 2, 32) if k is None else k
    v = random_tensor(3, 2, 4, 2, 32) if v is None else v
    arguments = {"cache_seqlens": torch.tensor([3, 5], dtype=torch.int32), **arguments}
    return kernel.flash_attn_with_kvcache(q, k_cache, v_cache, k, v, **arguments)


def cache(seed: int = 0) -> torch.Tensor:
    return random_tensor(seed, 3, 32, 2, 32)


CACHES = {
    "one tensor for both": (lambda: (lambda c: {"k_cache": c, "v_cache": c})(cache()), "k_cache is .* with v_cache"),
    "rows": (
        lambda: (lambda c: {"k_cache": c[:3], "v_cache": c[2:5]})(random_tensor(0, 5, 32, 2, 32)),
        "k_cache is .* with v_cache",
    ),
    "one row for all": (
        lambda: {"k_cache": cache()[:1].expand(3, 32, 2, 32), "v_cache": cache(1)},
        "k_cache must not overlap itself",
    ),
    "one head for all": (
        lambda: {"k_cache": cache(), "v_cache": cache(1)[:, :, :1].expand(3, 32, 2, 32)},
        "v_cache must not overlap itself",
    ),
    "k from the cache": (
        lambda: (lambda c: {"k_cache": c, "v_cache": cache(1), "k": c[:2, 2:6]})(cache()),
        "k_cache is .* with k$",
    ),
    "v from the other cache": (
        lambda: (lambda c: {"k_cache": c, "v_cache": cache(1), "v": c[:2, 2:6]})(cache()),
        "k_cache is .* with v$",
    ),
    "q from the cache": (
        lambda: (lambda c: {"k_cache": cache(), "v_cache": c, "q": c[:2, 7:8]})(cache(1)),
        "v_cache is .* with q$",
    ),
    "lengths": (
        lambda: (lambda c: {"k_cache": c, "v_cache": cache(1), "cache_seqlens": c.view(torch.int32).flatten()[:2]})(
            torch.zeros(3, 32, 2, 32)
        ),
        "k_cache is .* with cache_seqlens$",
    ),
    "angles": (
        lambda: (
            lambda c: {"k_cache": c, "v_cache": cache(1), "rotary_cos": c[0, :, 0, :4], "rotary_sin": c[1, :, 0, :4]}
        )(cache()),
        "k_cache is .* with rotary_cos$",
    ),
}


@pytest.mark.parametrize("make, message", CACHES.values(), ids=CACHES)
def test_caches_that_share_memory(kernel, launcher, make, message):
    arguments = make()
    before = {name: tensor.clone() for name, tensor in arguments.items()}
    with pytest.raises(ValueError, match=message):
        append(kernel, **arguments)
    assert all(torch.equal(tensor, before[name]) for name, tensor in arguments.items())


@pytest.mark.parametrize(
    "make",
    [
        lambda c: (c[:, :, 0], c[:, :, 1]),
        lambda c: (c[:, :32], c[:, 32:]) if c.dim() == 4 else (c[:, :, 0], c[:, :, 1]),
        lambda c: (c.flatten(2, 3)[:, :, ::2], c.flatten(2, 3)[:, :, 1::2]),
        lambda c: c.transpose(1, 3).unbind(2),
    ],
)
def test_caches_in_one_buffer(kernel, launcher, make):
    """Stacked, or with interleaved heads, tokens or columns."""
    caches = make(random_tensor(0, 3, 32, 2, 2, 32))
    caches = [c if c.shape == (3, 32, 2, 32) else c.transpose(1, 2) for c in caches]
    apart = [c.clone() for c in caches]
    expected = append(kernel, *apart)
    assert torch.equal(append(kernel, *caches), expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(caches, apart))


def test_caches_of_pages_in_one_pool(kernel, launcher):
    """Keys in the even pages and values in the odd ones: views that overlap, where the block_table keeps them apart."""
    pool = random_tensor(0, 13, 16, 2, 32)
    table = torch.tensor([[4, 0], [2, 10]], dtype=torch.int32)
    apart = pool[:-1].clone(), pool[1:].clone()
    expected = append(kernel, *apart, block_table=table)
    assert torch.equal(append(kernel, pool[:-1], pool[1:], block_table=table), expected)
    assert torch.equal(pool[:-1][0::2], apart[0][0::2]) and torch.equal(pool[1:][0::2], apart[1][0::2])


def test_caches_of_the_same_pages(kernel, launcher):
    pool, table = random_tensor(0, 13, 16, 2, 32), torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="k_cache is written, so it must not share memory with v_cache"):
        append(kernel, pool[:12], pool[:12], block_table=table)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_caches_in_one_tensor(kernel, backend):
    """The break of the graph leads to the error."""
    torch._dynamo.reset()
    shared, q = cache(), random_tensor(1, 2, 1, 2, 32)
    new, before = random_tensor(2, 2, 4, 2, 32), shared.clone()
    with pytest.raises(ValueError, match="k_cache is written, so it must not share memory with v_cache"):
        torch.compile(lambda *tensors: append(kernel, *tensors), backend=backend)(shared, shared, q, new, new)
    assert torch.equal(shared, before)


def test_caches_that_are_only_read_may_be_anything(kernel, launcher):
    line = cache()[:1]
    q = line[:, :1].expand(2, 1, 2, 32)
    output = kernel.flash_attn_with_kvcache(q, line.expand(3, 32, 2, 32), line.expand(3, 32, 2, 32))
    expected, _ = attention(q, line.expand(2, 32, 2, 32), line.expand(2, 32, 2, 32))
    assert_output(output, expected, line)
    nothing = torch.empty(2, 0, 2, 32)
    shared = cache()
    append(kernel, shared, shared, k=nothing, v=nothing)
