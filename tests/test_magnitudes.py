"""Large, tiny and odd numbers: finite inputs of any magnitude give finite, right answers.

Exponents are drawn over the whole range of the dtype, for every input and setting. Levels: CPU implementation;
simulation. --shards makes the search longer.
"""

from __future__ import annotations

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
    any_exponent = st.integers(*EXPONENTS[dtype])
    tensor = st.tuples(st.sampled_from(["normal", "equal", "rows", "elements"]), st.integers(-2, 2) | any_exponent)
    features = draw(st.sampled_from(FEATURES))
    fp32 = st.none() | st.integers(-3, 3) | st.integers(*EXPONENTS[torch.float32])  # None: 0
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
        "score": draw(st.none() | st.integers(-10, 40) | st.integers(-149, 126)),
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


def compare(kernel, problem, everywhere):
    tensors, keywords = arguments(problem)
    exact = Exact(2, *tensors, **keywords)
    output, lse, output_alone = call(kernel, tensors, problem["num_splits"], **keywords)
    exact.assert_close(output, lse, everywhere)
    exact.assert_close(output_alone, None, everywhere)


def search(shard, examples, check):
    """`check` on random problems; the shard is the seed."""

    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(problem=problems())
    def each(problem):
        check(problem)

    each()


def test_cpu(kernel, shard):
    search(shard, 300, lambda problem: compare(kernel, problem, everywhere=False))


def test_simulated(kernel, shard):
    with kernel.launchers.use_launcher(SimulatedLauncher()):
        search(shard, 100, lambda problem: compare(kernel, problem, everywhere=False))


def test_plain_evaluation_keeps_half_of_the_errors(shard):
    """Or they would be too large, and the tests above too weak."""

    def check(problem):
        tensors, keywords = arguments(problem)
        output, lse = plain(*tensors, **keywords)
        exact = Exact(1, *tensors, **keywords)
        # It gives NaN beyond the range of fp32, and without keys.
        exact.in_domain &= torch.isfinite(output).all(dim=2) & exact.is_seen.unsqueeze(1)
        exact.assert_close(output.to(problem["dtype"]), lse)

    search(shard, 300, check)
