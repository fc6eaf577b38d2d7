"""Large, tiny and odd numbers: finite inputs of any magnitude give finite, right answers.

The searches draw exponents over the whole range of the dtype, for every input and setting; --shards makes them longer.
Levels: CPU implementation; simulation.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from magnitudes import Exact, plain
from simulated_launcher import SimulatedLauncher

EXPONENTS = {torch.float32: (-149, 127), torch.float16: (-24, 15), torch.bfloat16: (-133, 127)}
FEATURES = ["none", "softcap", "alibi", "sinks", "all"]


@st.composite
def problems(draw):
    """One call, as plain numbers. Exponents are of two; a tensor is (pattern, exponent)."""
    dtype = draw(st.sampled_from(DTYPES))
    lowest, highest = EXPONENTS[dtype]
    exponent = st.integers(-2, 2) | st.integers(highest - 2, highest) | st.integers(lowest, highest)
    tensor = st.tuples(st.sampled_from(["normal", "equal", "rows", "elements"]), exponent)
    features = draw(st.sampled_from(FEATURES))
    fp32 = st.none() | st.integers(-3, 3) | st.integers(20, 127) | st.integers(*EXPONENTS[torch.float32])  # None: 0
    return {
        "dtype": dtype,
        "rows": draw(st.sampled_from([1, 2, 9])),
        "keys": draw(st.sampled_from([1, 2, 5, 17, 70])),
        "group": draw(st.sampled_from([1, 2])),
        "head_dim": draw(st.sampled_from([64, 64, 128])),
        "query": draw(tensor),
        "key": draw(tensor),
        "value": draw(tensor),
        # of the largest score, as far as the scale can bring it there; or the scale itself
        "score": draw(st.none() | st.integers(-10, 40) | st.integers(90, 126) | st.integers(-149, 126)),
        "scale": draw(st.sampled_from([0.0, 1e8, -1e8, 1e-30, 1e-42, 1e-300, 1.0, -0.125])),
        "softcap": 2.0 ** draw(st.integers(-26, 26)) if features in ("softcap", "all") else 0.0,
        "alibi": draw(fp32) if features in ("alibi", "all") else "no",
        "sinks": draw(fp32) if features in ("sinks", "all") else "no",
        "window": draw(st.sampled_from([(-1, -1), (-1, 0), (3, 0), (2, 2)])),
        "num_splits": draw(st.sampled_from([1, 1, 3])),
        "seed": draw(st.integers(0, 2**16)),
    }


def tensor_of(pattern, exponent, generator, shape, dtype):
    """Finite numbers around 2**exponent: of both signs, or equal, or each row or element of a size of its own."""
    lowest, highest = EXPONENTS[dtype]
    if pattern == "equal":
        number = torch.rand(1, generator=generator, dtype=torch.float64) + 1
        tensor = torch.ldexp(number, torch.tensor(exponent)).expand(shape)
    else:
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        sizes = {"normal": (1,) * len(shape), "rows": (shape[0], 1, 1), "elements": shape}[pattern]
        spread = min(exponent - lowest, 40) if pattern != "normal" else 0
        tensor = torch.ldexp(tensor, exponent - torch.randint(0, spread + 1, sizes, generator=generator))
    largest = torch.finfo(dtype).max
    return tensor.clamp(-largest, largest).to(dtype)


def arguments(problem):
    """(query, key, value) of one sequence, and the keyword arguments of the definition."""
    generator = torch.Generator().manual_seed(problem["seed"])
    dtype, heads_kv = problem["dtype"], 2
    heads = heads_kv * problem["group"]
    shape_q, shape_k = ((problem["rows"], heads), (problem["keys"], heads_kv))
    tensors = [
        tensor_of(*problem[name], generator, (*shape, problem["head_dim"]), dtype)
        for name, shape in (("query", shape_q), ("key", shape_k), ("value", shape_k))
    ]
    scale = problem["scale"]
    if problem["score"] is not None:
        query, key = (tensor.double().norm(dim=-1).max() for tensor in tensors[:2])
        scale = min(1e8, 2.0 ** problem["score"] / max(1e-300, float(query * key))) * (1 if scale >= 0 else -1)

    def of_heads(exponent):
        if exponent == "no":
            return None
        return torch.zeros(heads) if exponent is None else torch.randn(heads, generator=generator) * 2.0**exponent

    slopes, sinks = of_heads(problem["alibi"]), of_heads(problem["sinks"])
    largest = torch.finfo(torch.float32).max
    return tensors, {
        "window": problem["window"],
        "scale": scale,
        "softcap": problem["softcap"],
        "alibi_slopes": None if slopes is None else slopes.clamp(-largest, largest),
        "sinks": None if sinks is None else sinks.clamp(-largest, largest),
    }


def call(kernel, tensors, num_splits=0, *, scale, window, softcap=0.0, alibi_slopes=None, sinks=None):
    """(output, lse) and the output alone, of the public functions."""
    query, key, value = (tensor.unsqueeze(0) for tensor in tensors)
    features = {"softmax_scale": scale, "window_size": window, "softcap": softcap}
    features |= {"alibi_slopes": alibi_slopes, "s_aux": sinks}
    output, lse = kernel.flash_attn_with_kvcache(
        query, key, value, num_splits=num_splits, return_softmax_lse=True, **features
    )
    return output[0], lse[0], kernel.flash_attn_func(query, key, value, **features)[0]


def compare(kernel, problem, adds_in_one_order):
    tensors, keywords = arguments(problem)
    exact = Exact(2, *tensors, **keywords, adds_in_one_order=adds_in_one_order)
    output, lse, output_alone = call(kernel, tensors, problem["num_splits"], **keywords)
    exact.assert_close(output, lse)
    exact.assert_close(output_alone, None)


def search(shard, examples, check):
    """`check` on random problems; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems())
    def each(problem):
        check(problem)

    each()


def test_cpu(kernel, shard):
    search(shard, 600, lambda problem: compare(kernel, problem, adds_in_one_order=False))


def test_simulated(kernel, shard):
    with kernel.launchers.use_launcher(SimulatedLauncher()):
        search(shard, 100, lambda problem: compare(kernel, problem, adds_in_one_order=True))


def test_plain_evaluation_keeps_half_of_the_errors(shard):
    """Or they would be too small for any evaluation in fp32."""

    def check(problem):
        tensors, keywords = arguments(problem)
        output, lse = plain(*tensors, **keywords)
        exact = Exact(1, *tensors, **keywords)
        # It gives NaN beyond the range of fp32, and without keys.
        exact.in_domain &= torch.isfinite(output).all(dim=2) & exact.is_seen.unsqueeze(1)
        exact.assert_close(output.to(problem["dtype"]), lse)

    search(shard, 150, check)


def full(number, dtype, keys=1, rows=1):
    """Query and key of one number, random values."""
    values = torch.randn(keys, 1, 64, generator=torch.Generator().manual_seed(keys)).to(dtype)
    return [torch.full((n, 1, 64), number, dtype=dtype) for n in (rows, keys)] + [values]


FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
LARGEST = torch.finfo(FP32).max
ONES = [torch.ones(1, 1, 64), torch.ones(70, 1, 64), torch.full((70, 1, 64), LARGEST)]
NEAR = [torch.full((1, 1, 64), 1e18), torch.full((9, 1, 64), 1e18), torch.arange(9.0).view(9, 1, 1).repeat(1, 1, 64)]
# By name: tensors, arguments of the definition.
NAMED = {
    "bf16 133120": (full(133120.0, BF16), {}),
    "bf16 133120, 70 keys": (full(133120.0, BF16, 70), {}),
    "fp16 20000, five keys": (full(20000.0, FP16, 5), {}),
    "fp16 largest": (full(65504.0, FP16, 5), {}),
    "fp32 133120.7": (full(133120.7, FP32, 5), {}),
    "scores of 3e9": (full(6845.9, FP32, 17), {"scale": 1.0}),
    "scores of 1e30": (full(1.3e14, FP32, 17), {"scale": 1.0}),
    "scores of -1e30": ([t * s for t, s in zip(full(1.3e14, FP32, 17), (-1, 1, 1))], {"scale": 1.0}),
    "scores of -1e30, causal": (
        [t * s for t, s in zip(full(1.3e14, FP32, 17, 9), (-1, 1, 1))], {"scale": 1.0, "window": (-1, 0)}),
    "scores of 1e38": (full(1.2e18, FP32, 17), {"scale": 1.0}),
    "scores of -1e38": (full(1.2e18, FP32, 17), {"scale": -1.0}),
    "scale 1e8": (full(1.3, FP32, 17), {"scale": 1e8}),
    "scale -1e8": (full(1.3, FP32, 17, 9), {"scale": -1e8, "window": (-1, 0)}),
    "scale 0 of large scores": (full(1e18, FP32, 17), {"scale": 0.0}),
    "subnormal scale": (full(1e18, FP32, 17), {"scale": 1e-42}),
    "divided keys, scores of 131072": (full(128.0, FP32, 1000)[:1] + full(1024.0, FP32, 1000)[1:], {}),
    "divided keys, fp16": (full(128.0, FP16, 1000)[:1] + full(1024.0, FP16, 1000)[1:], {}),
    "divided keys, bf16": (full(128.0, BF16, 1000)[:1] + full(1024.0, BF16, 1000)[1:], {}),
    "divided keys, scores of 1e6": (full(1024.0, FP32, 1000)[:1] + full(977.3, FP32, 1000)[1:], {}),
    "divided keys, scores of 1e30": (full(1e15, FP32, 1000), {}),
    "largest values": (ONES, {}),
    "largest values of both signs": (ONES[:2] + [ONES[2] * torch.tensor([1.0, -1.0]).repeat(35)[:, None, None]], {}),
    "fp16 largest values": ([t.clamp(max=65504.0).half() for t in ONES], {}),
    "bf16 largest values": ([t.clamp(max=torch.finfo(BF16).max).bfloat16() for t in ONES], {}),
    "smallest values": (ONES[:2] + [ONES[2] * 0 + 2.0**-149], {}),
    "smallest softcap": (full(1.3, FP32, 17), {"softcap": 1e-8, "scale": 1e8}),
    "largest softcap": (full(1.3e3, FP32, 17), {"softcap": 1e8, "scale": 1e8}),
    "tiny scale, largest softcap": (NEAR, {"softcap": 1e8, "scale": 3e-38}),
    "tiny scale and largest softcap": (full(1.2e18, FP32, 17), {"softcap": 1e8, "scale": 1e-40}),
    "steep slope": (full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([1e37])}),
    "steep negative slope": (full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([-1e37]), "window": (-1, 0)}),
    "slope without scale": (full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([0.5]), "scale": 0.0}),
    "slope with a tiny scale": (full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([0.5]), "scale": 1e-42}),
    "slope with a negative scale": (full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([0.5]), "scale": -1e-3}),
    "slope, softcap, no scale": (
        full(1.0, FP32, 17, 9), {"alibi_slopes": torch.tensor([0.5]), "scale": 0.0, "softcap": 1e-8}),
    "sink of 1e30": (full(1.0, FP32, 17), {"sinks": torch.tensor([1e30])}),
    "largest sink": (full(1.0, FP32, 17), {"sinks": torch.tensor([LARGEST])}),
    "smallest sink": (full(1.0, FP32, 17), {"sinks": torch.tensor([-LARGEST])}),
    "sink as large as the scores": (full(128.0, FP32, 17), {"sinks": torch.tensor([2.0**17]), "scale": 0.125}),
    "sink below scores of -1e30": (
        [t * s for t, s in zip(full(1.3e14, FP32, 17), (-1, 1, 1))], {"scale": 1.0, "sinks": torch.tensor([-1.2e30])}),
    "infinite sink": (full(1.0, FP32, 17), {"sinks": torch.tensor([-torch.inf])}),
}  # fmt: skip


@pytest.mark.parametrize("num_splits", [1, 7])
@pytest.mark.parametrize("tensors, keywords", NAMED.values(), ids=NAMED)
def test_named(kernel, launcher, tensors, keywords, num_splits):
    keywords = {"window": (-1, -1), "scale": 0.125} | keywords
    exact = Exact(2, *tensors, **keywords)
    output, lse, output_alone = call(kernel, tensors, num_splits, **keywords)
    exact.assert_close(output, lse)
    exact.assert_close(output_alone, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2.0**7, 2.0**10, 1300.7])
def test_divided_keys_agree(kernel, launcher, size, dtype):
    """On both sides of the split threshold, to rounding, whatever the size of the scores."""
    query, key, value = full(size, dtype, 1000)
    key = key + torch.randn(1000, 1, 64, generator=torch.Generator().manual_seed(1)).to(dtype) / size
    whole, divided = (
        call(kernel, (query, key, value), splits, scale=0.125, window=(-1, -1))[0].double() for splits in (1, 7)
    )
    bound = 5e-6 + (0 if dtype == FP32 else torch.finfo(dtype).eps)
    assert (whole - divided).abs().max() <= bound * value.abs().max()


@pytest.mark.parametrize("sink", [torch.inf, 1e300, -1e300, -torch.inf])
def test_sinks_beyond_fp32(kernel, launcher, sink):
    """In float64: as if they were infinite."""
    query, key, value = full(1.0, FP32, 5)
    sinks = torch.tensor([sink], dtype=torch.float64)
    output, lse, _ = call(kernel, (query, key, value), scale=0.125, window=(-1, -1), sinks=sinks)
    expected = value.mean(0, keepdim=True) * (sink < 0)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    assert not lse.isnan().any() and (lse > 1e29).all() == (sink > 0)
