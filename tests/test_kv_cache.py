"""flash_attn_with_kvcache against float64, on the CPU implementation and on the simulated kernels.

Levels: CPU implementation; simulation; for what the launcher gets, the plan alone. What no query may see is NaN.
"""

from __future__ import annotations

import math

import pytest
import torch
from cases import random_tensor
from reference import assert_lse, assert_output, attention
from torch.utils._python_dispatch import TorchDispatchMode

BATCH, HEADS, HEADS_KV, HEAD_DIM, VALUE_DIM, PAGE_SIZE = 3, 4, 2, 32, 24, 16
# By name: (seqlen_cache, cache_batch_idx, cache_leftpad, whether it is paged)
LAYOUTS = {
    "dense": (40, None, None, False),
    "rows": (48, [4, 0, 2], None, False),
    "rows of any length": (41, [4, 0, 2], None, False),
    "left padding": (40, None, [2, 0, 7], False),
    "rows and left padding": (48, [4, 0, 2], [2, 0, 7], False),
    "pages": (48, None, None, True),
}
LENGTHS = [11, 0, 35]  # before the call


def int32(values) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.int32)


class Cache:
    """A cache in one of the layouts, with NaN wherever no key is, and what flash_attn_with_kvcache needs to use it."""

    def __init__(self, layout: str, dtype=torch.float32):
        self.seqlen, self.rows, self.leftpad, paged = LAYOUTS[layout]
        self.table = None
        shape = (BATCH + 2, self.seqlen)
        if paged:
            order = torch.randperm(11, generator=torch.Generator().manual_seed(1))[: BATCH * self.seqlen // PAGE_SIZE]
            self.table, shape = order.view(BATCH, -1).int(), (11, PAGE_SIZE)
        self.keys = torch.full((*shape, HEADS_KV, HEAD_DIM), math.nan, dtype=dtype)
        self.values = torch.full((*shape, HEADS_KV, VALUE_DIM), math.nan, dtype=dtype)
        for b, length in enumerate(LENGTHS):
            for position in range(self.leftpad[b] if self.leftpad else 0, length):
                place = self.place(b, position)
                self.keys[place] = random_tensor(100 * b + position, HEADS_KV, HEAD_DIM).to(dtype)
                self.values[place] = random_tensor(9000 + 100 * b + position, HEADS_KV, VALUE_DIM).to(dtype)

    def place(self, b: int, position: int) -> tuple[int, int]:
        if self.table is not None:
            return int(self.table[b, position // PAGE_SIZE]), position % PAGE_SIZE
        return self.rows[b] if self.rows else b, position

    def sequence(self, tensor: torch.Tensor, b: int, length: int) -> torch.Tensor:
        begin = self.leftpad[b] if self.leftpad else 0
        places = [self.place(b, position) for position in range(begin, length)]
        return tensor[[row for row, _ in places], [offset for _, offset in places]].view(-1, *tensor.shape[2:])

    def arguments(self) -> dict:
        return {
            "k_cache": self.keys,
            "v_cache": self.values,
            "cache_batch_idx": int32(self.rows),
            "cache_leftpad": int32(self.leftpad),
            "block_table": self.table,
        }

    def expected(self, query, lengths, window=(-1, -1), alibi_slopes=None, **features):
        """(output, lse) of attention over what the cache holds now."""
        results = []
        for b, length in enumerate(lengths):
            key, value = self.sequence(self.keys, b, length), self.sequence(self.values, b, length)
            slopes = None if alibi_slopes is None else alibi_slopes.expand(len(lengths), -1)[b]
            results.append(
                attention(query[b : b + 1], key[None], value[None], window=window, alibi_slopes=slopes, **features)
            )
        return torch.cat([output for output, _ in results]), torch.cat([lse for _, lse in results])


def tokens(seed: int, count: int, heads: int, head_dim: int, dtype=torch.float32) -> torch.Tensor:
    return random_tensor(seed, BATCH, count, heads, head_dim, dtype=dtype)


def check(kernel, cache: Cache, query, lengths, window=(-1, -1), causal=False, s_aux=None, **arguments) -> None:
    """One call; `lengths` are those after it."""
    output, lse = kernel.flash_attn_with_kvcache(
        query, **cache.arguments(), causal=causal, window_size=window, s_aux=s_aux, return_softmax_lse=True, **arguments
    )
    features = {name: arguments[name] for name in ("softcap", "alibi_slopes") if name in arguments}
    effective = (window[0], 0) if causal else window
    expected, expected_lse = cache.expected(query, lengths, effective, sinks=s_aux, **features)
    assert_output(output, expected, torch.nan_to_num(cache.values))
    assert_lse(lse, expected_lse)
    assert output.is_contiguous() and lse.is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_over_the_cache(kernel, launcher, layout):
    cache, query = Cache(layout), tokens(1, 5, HEADS, HEAD_DIM)
    check(kernel, cache, query, LENGTHS, causal=True, cache_seqlens=int32(LENGTHS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_append(kernel, launcher, layout, dtype):
    """New tokens are where they belong, nothing else has changed, and the queries see them."""
    cache, count = Cache(layout, dtype), 5
    before = cache.keys.clone(), cache.values.clone()
    k, v = tokens(2, count, HEADS_KV, HEAD_DIM, dtype), tokens(3, count, HEADS_KV, VALUE_DIM, dtype)
    query = tokens(1, count, HEADS, HEAD_DIM, dtype)
    lengths = [length + count for length in LENGTHS]
    check(kernel, cache, query, lengths, causal=True, k=k, v=v, cache_seqlens=int32(LENGTHS))
    for old, new, now in zip(before, (k, v), (cache.keys, cache.values)):
        for b, length in enumerate(LENGTHS):
            for t in range(count):
                old[cache.place(b, length + t)] = new[b, t]
        assert torch.equal(torch.nan_to_num(now, 9e9), torch.nan_to_num(old, 9e9))


FEATURES = {
    "everything": {"causal": True, "softcap": 5.0, "s_aux": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "slopes of each sequence": {"alibi_slopes": random_tensor(8, BATCH, HEADS).abs(), "window": (9, 3)},
    "slopes of each head": {"alibi_slopes": random_tensor(8, HEADS).abs(), "causal": True},
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
@pytest.mark.parametrize("layout", ["dense", "left padding", "pages"])
def test_features(kernel, launcher, layout, features):
    cache, query = Cache(layout), tokens(1, 3, HEADS, HEAD_DIM)
    check(kernel, cache, query, LENGTHS, cache_seqlens=int32(LENGTHS).long(), **features)


def rotated(tensor, cos, sin, positions, interleaved):
    """By the definition, one pair at a time, in float64."""
    result, half = tensor.double().clone(), cos.shape[1]
    for pair in range(half):
        first, second = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
        c, s = (table[positions, pair].double()[..., None] for table in (cos, sin))
        a, b = tensor[..., first].double(), tensor[..., second].double()
        result[..., first], result[..., second] = a * c - b * s, a * s + b * c
    return result


@pytest.mark.parametrize("table_dtype", [None, torch.float32], ids=["dtype of q", "float32"])
@pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "halves"])
@pytest.mark.parametrize("causal, window", [(True, (-1, -1)), (False, (20, 4)), (False, (-1, -1))])
@pytest.mark.parametrize("layout", ["dense", "rows and left padding", "pages"])
def test_rotary(kernel, layout, causal, window, interleaved, table_dtype):
    """Keys turn by their positions; queries too, unless every query sees all keys: then all by the first position."""
    dtype = torch.float32 if table_dtype is None else torch.float16
    cache, count = Cache(layout, dtype), 4
    angles = random_tensor(4, 50, 8) * 2
    cos, sin = angles.cos().to(table_dtype or dtype), angles.sin().to(table_dtype or dtype)
    k, v = tokens(2, count, HEADS_KV, HEAD_DIM, dtype), tokens(3, count, HEADS_KV, VALUE_DIM, dtype)
    query = tokens(1, 2, HEADS, HEAD_DIM, dtype)
    first = torch.tensor(LENGTHS)[:, None]
    output = kernel.flash_attn_with_kvcache(
        query, **cache.arguments(), k=k, v=v, rotary_cos=cos, rotary_sin=sin, rotary_interleaved=interleaved,
        cache_seqlens=int32(LENGTHS), causal=causal, window_size=window,
    )  # fmt: skip
    keys = rotated(k, cos, sin, first + torch.arange(count), interleaved)
    for b, length in enumerate(LENGTHS):
        stored = torch.stack([cache.keys[cache.place(b, length + t)] for t in range(count)])
        torch.testing.assert_close(stored, keys[b].to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    positions = first + torch.arange(2) if causal or window != (-1, -1) else first.expand(BATCH, 2)
    turned = rotated(query, cos, sin, positions, interleaved)
    effective = (window[0], 0) if causal else window
    expected, _ = cache.expected(turned.to(dtype), [length + count for length in LENGTHS], effective)
    tolerance = 5e-6 if dtype == torch.float32 else 4e-3  # a query may be rounded the other way
    assert (output.double() - expected).abs().max() <= tolerance * 4


def test_rotary_on_the_simulator(kernel, launcher):
    """The same composition before the launch: one case is enough."""
    test_rotary(kernel, "dense", True, (-1, -1), True, None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_of_the_cache_without_lengths(kernel, launcher, layout):
    cache, query = Cache(layout), tokens(1, 2, HEADS, HEAD_DIM)
    cache.keys.copy_(random_tensor(5, *cache.keys.shape))
    cache.values.copy_(random_tensor(6, *cache.values.shape))
    check(kernel, cache, query, [cache.seqlen] * BATCH, causal=True)


@pytest.mark.parametrize("layout", ["dense", "rows", "pages"])
def test_one_length_for_all(kernel, launcher, layout):
    cache, query = Cache(layout), tokens(1, 2, HEADS, HEAD_DIM)
    cache.keys.copy_(random_tensor(5, *cache.keys.shape))
    cache.values.copy_(random_tensor(6, *cache.values.shape))
    k, v = tokens(2, 2, HEADS_KV, HEAD_DIM), tokens(3, 2, HEADS_KV, VALUE_DIM)
    check(kernel, cache, query, [19] * BATCH, causal=True, k=k, v=v, cache_seqlens=17)
    with_tensor = kernel.flash_attn_with_kvcache(query, **cache.arguments(), causal=True, cache_seqlens=int32([19] * 3))
    assert torch.equal(
        kernel.flash_attn_with_kvcache(query, **cache.arguments(), causal=True, cache_seqlens=19), with_tensor
    )


@pytest.mark.parametrize("lengths", [[-1, 39, 47], [48, -5, 100], [-1, -1, -1], [2**31 - 1, -(2**31), 44]])
@pytest.mark.parametrize("layout", ["dense", "rows", "left padding", "pages"])
def test_tokens_without_a_place_are_not_written(kernel, layout, lengths):
    cache, count = Cache(layout), 3
    before = cache.keys.clone(), cache.values.clone()
    k, v = tokens(2, count, HEADS_KV, HEAD_DIM), tokens(3, count, HEADS_KV, VALUE_DIM)
    kernel.flash_attn_with_kvcache(
        tokens(1, 1, HEADS, HEAD_DIM), **cache.arguments(), k=k, v=v, cache_seqlens=int32(lengths)
    )
    for old, new, now in zip(before, (k, v), (cache.keys, cache.values)):
        for b, length in enumerate(lengths):
            for t in range(count):
                if 0 <= length + t < cache.seqlen:
                    old[cache.place(b, length + t)] = new[b, t]
        assert torch.equal(torch.nan_to_num(now, 9e9), torch.nan_to_num(old, 9e9))


@pytest.mark.parametrize("page, length", [(-1, -1), (-1, 0), (11, 0), (-(2**31), 2**31 - 1)])
def test_padding_rows_of_a_paged_decode(kernel, launcher, page, length):
    """As transformers may send them: no length, pages that do not exist; they touch no page."""
    cache, query = Cache("pages"), tokens(1, 1, HEADS, HEAD_DIM)
    cache.table[1] = page
    before = cache.keys.clone()
    k, v = tokens(2, 1, HEADS_KV, HEAD_DIM), tokens(3, 1, HEADS_KV, VALUE_DIM)
    output = kernel.flash_attn_with_kvcache(
        query, **cache.arguments(), k=k, v=v, cache_seqlens=int32([11, length, 35]), causal=True
    )
    before[cache.place(0, 11)], before[cache.place(2, 35)] = k[0, 0], k[2, 0]
    assert torch.equal(torch.nan_to_num(cache.keys, 9e9), torch.nan_to_num(before, 9e9))
    if length < 0:
        assert torch.equal(output[1], torch.zeros_like(output[1]))
    expected, _ = cache.expected(query, [12, 0, 36])
    assert_output(output[::2], expected[::2], torch.nan_to_num(cache.values))


@pytest.mark.parametrize("place", [[9, -1, 2], [0, 0, 0], [-(2**31), 2**31 - 1, 5]])
def test_lying_rows_and_left_padding_stay_inside_the_cache(kernel, launcher, place):
    cache = Cache("rows")
    for tensor in (cache.keys, cache.values):
        tensor.copy_(random_tensor(5, *tensor.shape))
    for arguments in (
        {"cache_batch_idx": int32(place)},
        {"cache_batch_idx": int32(place), "cache_leftpad": int32(place)},
    ):
        output = kernel.flash_attn_with_kvcache(
            tokens(1, 2, HEADS, HEAD_DIM),
            cache.keys,
            cache.values,
            cache_seqlens=int32([48, 2**31 - 1, -3]),
            **arguments,
        )
        assert output.isfinite().all() and output.abs().max() <= cache.values.abs().max() * (1 + 1e-6)


@pytest.fixture
def plans(kernel):
    """Calls run on no launcher at all; the plans and tensors that one would get are collected here."""
    collected = []
    with kernel.launchers.use_launcher(lambda plan, tensors: collected.append((plan, dict(tensors)))):
        yield collected


HEAD_MAJOR = lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2)  # noqa: E731
LARGER = lambda tensor: torch.cat([tensor, tensor], dim=1)[:, : tensor.shape[1]]  # noqa: E731


@pytest.mark.parametrize("strides", [lambda tensor: tensor, HEAD_MAJOR, LARGER], ids=["whole", "head-major", "larger"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cache_is_not_copied(kernel, plans, layout, strides):
    """The kernels get the cache itself, to write it, and views of it, to read it: two launches."""
    cache = Cache(layout)
    arguments = cache.arguments()
    arguments |= {name: strides(arguments[name]) for name in ("k_cache", "v_cache")}
    k, v = tokens(2, 2, HEADS_KV, HEAD_DIM), tokens(3, 2, HEADS_KV, VALUE_DIM)
    kernel.flash_attn_with_kvcache(
        tokens(1, 2, HEADS, HEAD_DIM), **arguments, k=k, v=v, cache_seqlens=int32(LENGTHS), num_splits=1
    )
    (appending, written), (_, tensors) = plans
    assert appending.source == "cache_append.metal"
    assert written["k_cache"] is arguments["k_cache"] and written["v_cache"] is arguments["v_cache"]
    assert tensors["key"].data_ptr() == arguments["k_cache"].data_ptr()
    assert tensors["value"].data_ptr() == arguments["v_cache"].data_ptr()


@pytest.mark.parametrize("strides", [HEAD_MAJOR, LARGER], ids=["head-major", "larger"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_caches(kernel, launcher, layout, strides):
    cache = Cache(layout)
    cache.keys, cache.values = strides(cache.keys), strides(cache.values)
    k, v = tokens(2, 2, HEADS_KV, HEAD_DIM), tokens(3, 2, HEADS_KV, VALUE_DIM)
    lengths = [length + 2 for length in LENGTHS]
    check(kernel, cache, tokens(1, 2, HEADS, HEAD_DIM), lengths, causal=True, k=k, v=v, cache_seqlens=int32(LENGTHS))


@pytest.mark.parametrize("layout", ["left padding", "rows and left padding"])
def test_rows_that_are_no_whole_number_of_tokens_apart(kernel, launcher, layout):
    """What no packed view can describe is gathered: rows 7 elements further apart, or keys and values that differ."""
    for changed in ("keys", "values"):
        cache = Cache(layout)
        tensor = getattr(cache, changed)
        apart = tensor.flatten(1)
        apart = torch.cat([apart, apart[:, :7]], dim=1)[:, : apart.shape[1]]
        setattr(cache, changed, apart.unflatten(1, tensor.shape[1:]))
        check(kernel, cache, tokens(1, 2, HEADS, HEAD_DIM), LENGTHS, causal=True, cache_seqlens=int32(LENGTHS))


def test_the_first_rows_of_a_larger_cache(kernel, launcher):
    """Without cache_batch_idx, sequence b is row b."""
    cache = Cache("dense")
    assert cache.keys.shape[0] > BATCH
    check(kernel, cache, tokens(1, 1, HEADS, HEAD_DIM), LENGTHS, cache_seqlens=int32(LENGTHS))


@pytest.mark.parametrize("num_splits", [1, 3])
def test_num_splits(kernel, plans, num_splits):
    cache = Cache("dense")
    kernel.flash_attn_with_kvcache(
        tokens(1, 1, HEADS, HEAD_DIM), **cache.arguments(), cache_seqlens=int32(LENGTHS), num_splits=num_splits
    )
    assert plans[0][0].grid[2] == num_splits and len(plans) == (1 if num_splits == 1 else 2)


@pytest.mark.parametrize("layout", ["dense", "left padding"])
def test_results_of_splits(kernel, launcher, layout):
    cache, query = Cache(layout), tokens(1, 2, HEADS, HEAD_DIM)
    for num_splits in (1, 2, 7):
        check(kernel, cache, query, LENGTHS, causal=True, cache_seqlens=int32(LENGTHS), num_splits=num_splits)


class NothingIsRead(TorchDispatchMode):
    """Fails where a value or a shape would have to come from the device, also inside the operator for rows."""

    def __init__(self, kernel):
        super().__init__()
        self.operators = kernel.operators

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is self.operators.attention_over_rows:
            with self:
                return self.operators._over_rows(*args)
        assert function.overloadpacket.__name__ not in ("_local_scalar_dense", "nonzero", "masked_select", "item")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_value_is_read(kernel, plans, layout):
    cache, angles = Cache(layout), random_tensor(4, 50, 8)
    k, v = tokens(2, 2, HEADS_KV, HEAD_DIM), tokens(3, 2, HEADS_KV, VALUE_DIM)
    with NothingIsRead(kernel):
        kernel.flash_attn_with_kvcache(
            tokens(1, 2, HEADS, HEAD_DIM), **cache.arguments(), k=k, v=v, cache_seqlens=int32(LENGTHS), causal=True,
            rotary_cos=angles.cos(), rotary_sin=angles.sin(), alibi_slopes=torch.ones(BATCH, HEADS),
        )  # fmt: skip
    assert plans


def test_appending_nothing(kernel, launcher):
    cache = Cache("dense")
    nothing = tokens(2, 0, HEADS_KV, HEAD_DIM), tokens(3, 0, HEADS_KV, VALUE_DIM)
    check(
        kernel, cache, tokens(1, 2, HEADS, HEAD_DIM), LENGTHS, k=nothing[0], v=nothing[1], cache_seqlens=int32(LENGTHS)
    )


@pytest.mark.parametrize("batch, seqlen_cache", [(0, 16), (2, 0), (0, 0)])
def test_empty(kernel, launcher, batch, seqlen_cache):
    cache = torch.zeros(batch, seqlen_cache, HEADS_KV, HEAD_DIM)
    query = torch.ones(batch, 2, HEADS, HEAD_DIM)
    for arguments in ({}, {"cache_leftpad": torch.zeros(batch, dtype=torch.int32)}):
        output, lse = kernel.flash_attn_with_kvcache(query, cache, cache, return_softmax_lse=True, **arguments)
        assert output.shape == query.shape and not output.any()
        assert lse.shape == (batch, HEADS, 2) and (lse == -math.inf).all()


@pytest.mark.parametrize("which", ["q", "k_cache", "k", "s_aux"])
def test_a_backward_is_refused(kernel, launcher, which):
    """The forward works and the cache grows; the gradient is never silently left out."""
    cache, query = Cache("dense"), tokens(1, 1, HEADS, HEAD_DIM)
    k, v, s_aux = tokens(2, 1, HEADS_KV, HEAD_DIM), tokens(3, 1, HEADS_KV, VALUE_DIM), torch.zeros(HEADS)
    {"q": query, "k_cache": cache.keys, "k": k, "s_aux": s_aux}[which].requires_grad_()
    arguments = {**cache.arguments(), "k": k, "v": v, "s_aux": s_aux, "cache_seqlens": int32(LENGTHS)}
    output, lse = kernel.flash_attn_with_kvcache(query, **arguments, return_softmax_lse=True)
    assert torch.equal(cache.keys[0, 11], k[0, 0])
    for result in (output, lse):
        with pytest.raises(NotImplementedError, match="flash_attn_with_kvcache has no gradient"):
            result.sum().backward(retain_graph=True)
    with torch.no_grad():
        assert not kernel.flash_attn_with_kvcache(query, **arguments).requires_grad
