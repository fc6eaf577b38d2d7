"""Our forward kernel beside PyTorch's own Metal attention, on equal work: python benchmarks/peers.py

Both run unmodified on the simulator, PyTorch's kernels from the headers of the installed wheel; both results are
compared with float64. Counters are those of the optimised code; times are predictions of the cost model for each chip,
not measurements. fp16, tensors contiguous in each library's own layout. What repeats is simulated once: prefill is one
head, counted as 8; decode is one key/value head with its 8 query heads, counted as 1 and as 8.

PyTorch decodes long caches in two passes; both kernels are counted. ratio: PyTorch's time over ours, above 1 is faster.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import List, NamedTuple, Sequence

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "simulator")]

import pytorch_attention  # noqa: E402
from metal_simulator import Library, cost_model  # noqa: E402
from metal_simulator.counters import Profile  # noqa: E402
from metal_simulator.plot import plot  # noqa: E402
from metal_simulator.report import chip_named, simdgroup_clocks  # noqa: E402

KERNELS = ROOT / "flash_sdpa"
CHIPS = ("M1 Max", "M3 Max")
HEADS = 8
PASSES = 32  # parts of the keys in PyTorch's two-pass decoding
TOLERANCE = 4e-3  # against float64, for values of about 1


class Side(NamedTuple):
    """The launches of one implementation for one call."""

    profiles: Sequence[Profile]

    def repeated(self, times: int) -> "Side":
        return Side([profile.repeated(times) for profile in self.profiles])

    def seconds(self, chip: cost_model.Chip) -> float:
        """Of all launches; the overhead of launching counts once."""
        times = [cost_model.predict(profile, chip).seconds for profile in self.profiles]
        return sum(times) - (len(times) - 1) * cost_model.LAUNCH_SECONDS

    def longest(self, chip: cost_model.Chip) -> cost_model.Prediction:
        """Prediction of the launch that takes longest."""
        return max((cost_model.predict(profile, chip) for profile in self.profiles), key=lambda p: p.seconds)

    def total(self, *classes: str) -> int:
        return sum(profile.classes.get(name, 0) for profile in self.profiles for name in classes)


class Case(NamedTuple):
    name: str
    ours: Side
    theirs: Side


class Profiler:
    """A launcher that profiles each plan on the simulator."""

    def __init__(self):
        self.profiles: List[Profile] = []

    def __call__(self, plan, tensors) -> None:
        kernel = Library(KERNELS / plan.source, include=[KERNELS]).kernel(plan.kernel, dict(plan.constants))
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        self.profiles.append(kernel.profile(buffers, plan.grid, plan.threads))


def inputs(heads: int, heads_kv: int, seqlen_q: int, seqlen_k: int, head_dim: int):
    """query, key, value [1, heads, seqlen, head_dim], fp16."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(heads, seqlen_q), (heads_kv, seqlen_k), (heads_kv, seqlen_k)]
    return [torch.randn(1, *shape, head_dim, generator=generator).half() for shape in shapes]


def exact(query, key, value, causal: bool) -> torch.Tensor:
    q, k, v = (tensor.double() for tensor in (query, key, value))
    k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def verify(output: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(output.double(), expected, atol=TOLERANCE, rtol=0)


def ours(build, tensors, causal: bool) -> Side:
    profiler = Profiler()
    with build.launchers.use_launcher(profiler):
        output = build.flash_attn_func(*(t.transpose(1, 2).contiguous() for t in tensors), causal=causal)
    verify(output.transpose(1, 2), exact(*tensors, causal))
    return Side(profiler.profiles)


def theirs(dispatches, tensors, causal: bool) -> Side:
    profiles = []
    for library, host_name, constants, buffers, grid, threads in dispatches:
        profiles.append(library.kernel(host_name, constants).profile(buffers, grid, threads))
    verify(dispatches[-1].buffers[pytorch_attention.OUTPUT], exact(*tensors, causal))
    return Side(profiles)


def two_pass_decode(query, key, value, softmax_scale: float):
    """PyTorch's launches for a long cache: parts of the keys, then their sum."""
    whole = pytorch_attention.decode(query, key, value, softmax_scale)
    rows, head_dim = query.shape[0] * query.shape[1] * query.shape[2], query.shape[3]
    partials = torch.zeros(rows, PASSES, head_dim, dtype=query.dtype)
    sums, maxima = torch.zeros(2, rows, PASSES)
    query, key, value, output, *settings = whole.buffers
    first = [query, key, value, partials, sums, maxima, *settings]
    suffix = whole.host_name.removeprefix("sdpa_vector_")
    second = f"sdpa_vector_2pass_2_{suffix.split('_')[0]}_{head_dim}"
    grid = (*whole.grid[:2], PASSES)
    return [
        whole._replace(host_name=f"sdpa_vector_2pass_1_{suffix}", buffers=first, grid=grid, threads=(256, 1, 1)),
        whole._replace(host_name=second, buffers=[partials, sums, maxima, output]),
    ]


def prefill_cases(build, head_dims: Sequence[int], seqlen: int):
    for head_dim in head_dims:
        for causal in (False, True):
            tensors = inputs(1, 1, seqlen, seqlen, head_dim)
            dispatch = pytorch_attention.prefill(*tensors, head_dim**-0.5, causal)
            sides = ours(build, tensors, causal), theirs([dispatch], tensors, causal)
            name = f"prefill {seqlen} x {seqlen} d{head_dim}{' causal' if causal else ''}"
            yield Case(name, *(side.repeated(HEADS) for side in sides))


def decode_cases(build, seqlen: int):
    tensors = inputs(8, 1, 1, seqlen, 128)
    sides = ours(build, tensors, False), theirs(two_pass_decode(*tensors, 128**-0.5), tensors, False)
    for heads_kv in (1, 8):
        yield Case(f"decode {seqlen} keys, {8 * heads_kv}/{heads_kv} heads", *(s.repeated(heads_kv) for s in sides))


def print_times(case: Case, chips: Sequence[cost_model.Chip]) -> None:
    line = f"{case.name:32}"
    for chip in chips:
        line += f" | {case.theirs.seconds(chip) / case.ours.seconds(chip):5.2f}"
        for side in (case.ours, case.theirs):
            longest = side.longest(chip)
            microseconds, share = side.seconds(chip) * 1e6, 100 * longest.matrix_share
            line += f" {microseconds:9.1f} {share:4.0f}% {longest.bound[:11]:11}"
    print(line, flush=True)


def print_counters(case: Case) -> None:
    for who, side in (("ours", case.ours), ("PyTorch", case.theirs)):
        traffic = [t for profile in side.profiles for t in profile.traffic]
        device = [t for t in traffic if t.space == "device"]
        values = [
            side.total("mma_half", "mma_bfloat"),
            side.total("mma_mixed", "mma_float"),
            side.total("simple"),
            side.total("exponential"),
            side.total("shift", "convert", "integer_multiply", "wide_add"),
            side.total("shuffle"),
            side.total("reduction"),
            side.total("barrier"),
            sum(t.read + t.written for t in device) // 1024,
            sum(t.first_read + t.first_written for t in device) // 1024,
            sum(t.lines for t in device),
            sum(t.conflicts for t in traffic),
        ]
        registers = max(profile.registers for profile in side.profiles)
        print(f"{case.name:32} {who:8}" + "".join(f"{value:11}" for value in values) + f"{registers:11.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", action="append", type=chip_named, help=f"default: {', '.join(CHIPS)}")
    parser.add_argument("--head-dim", action="append", type=int, help="of the prefill cases; default: 64, 128, 256")
    parser.add_argument("--length", type=int, default=1024, help="of the prefill cases (default: 1024)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw where the clocks of M1 and M2 go; needs matplotlib")
    options = parser.parse_args()
    chips = options.chip or [chip_named(name) for name in CHIPS]
    build = kernels.get_local_kernel(ROOT / "build")
    print(__doc__.split("\n\n", 1)[1])
    print(f"torch {torch.__version__}. {cost_model.LABEL}")
    print("times in us, with the share of matrix products among the clocks, and the bound\n")
    print(f"{'':32}" + "".join(f" | {chip.name:8}{'ours':22}{'PyTorch':29}" for chip in chips))
    cases = []
    for group in (prefill_cases(build, options.head_dim or (64, 128, 256), options.length), decode_cases(build, 8192)):
        for case in group:
            print_times(case, chips)
            cases.append(case)
    names = ("products", "fp32 prod.", "simple", "exp2", "complex", "shuffles", "reductions", "barriers", "KB moved")
    names += ("KB first", "lines", "conflicts", "registers")
    print(f"\ncounters, executions by SIMD groups\n{'':41}" + "".join(f"{name:>11}" for name in names))
    for case in cases:
        print_counters(case)
    if options.plot:
        sides = [(f"{case.name} {who}", side) for case in cases for who, side in zip(("ours", "PyTorch"), case[1:])]
        bars = [(name, simdgroup_clocks(side.profiles[0], 7)) for name, side in sides]
        plot(options.plot, bars, "our forward kernel and PyTorch's, the first launch of each")


if __name__ == "__main__":
    main()
