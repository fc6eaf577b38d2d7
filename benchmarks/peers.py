"""Our forward kernel beside PyTorch's and MLX's Metal attention, on equal work: python benchmarks/peers.py

All run unmodified on the simulator, from the headers of the peers' wheels for macOS (downloaded once; where they cannot
be had, PyTorch's are those of the installed wheel, and MLX is left out); results are compared with float64. Ours and
MLX's are planned for each chip. Counters are those of the optimised code; times are predictions of the cost model for
each chip, not measurements. fp16, tensors contiguous in each library's own layout. Heads are alike: one of keys and
values is simulated and counted as often as there are.

PyTorch and MLX decode long caches in two passes; both kernels are counted, as is our combine kernel. ratio: their time
over ours, above 1 is faster. clocks: those that instructions are issued for, theirs over ours. floor: our time over
that of reading the keys and values once at the memory's reachable rate, a launch included.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Dict, List, Mapping, NamedTuple, Sequence

import kernels
import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "simulator"), str(ROOT / "tools")]

import mlx_attention  # noqa: E402
import pytorch_attention  # noqa: E402
from metal_simulator.profiler import cost_model  # noqa: E402
from metal_simulator.profiler.counters import Profile  # noqa: E402
from metal_simulator.profiler.plot import plot  # noqa: E402
from metal_simulator.profiler.report import chip_named, simdgroup_clocks  # noqa: E402
from simulated_launcher import library  # noqa: E402

KERNELS = ROOT / "flash_sdpa"
CHIPS = ("M1 Max", "M3 Max")
DECODE_CHIPS = ("M1", "M1 Max", "M3 Max", "M4", "M4 Max")
HEADS = 8
PASSES = 32  # parts of the keys in PyTorch's two-pass decoding
TOLERANCE = 4e-3  # against float64, for values of about 1


class Side(NamedTuple):
    """The launches of one implementation for one call."""

    profiles: Sequence[Profile]

    def repeated(self, times: int) -> "Side":
        """One after the other, as where heads are a later axis of the grid."""
        return Side([profile.repeated(times) for profile in self.profiles])

    def of_heads(self, heads: int) -> "Side":
        """As where heads are the grid's first axis: in turns."""
        orders = [tuple(row for row in profile.order for _ in range(heads)) for profile in self.profiles]
        repeated = self.repeated(heads).profiles
        return Side([profile._replace(order=order) for profile, order in zip(repeated, orders)])

    def seconds(self, chip: cost_model.Chip) -> float:
        """Of all launches; the overhead of launching counts once."""
        times = [cost_model.predict(profile, chip).seconds for profile in self.profiles]
        return sum(times) - (len(times) - 1) * cost_model.LAUNCH_SECONDS

    def longest(self, chip: cost_model.Chip) -> cost_model.Prediction:
        """Prediction of the launch that takes longest."""
        return max((cost_model.predict(profile, chip) for profile in self.profiles), key=lambda p: p.seconds)

    def clocks(self, chip: cost_model.Chip) -> float:
        """That instructions are issued for, summed over all SIMD groups."""
        rows = [profile.rows[index] for profile in self.profiles for index in profile.order]
        return sum(cost_model.clocks(row.classes, chip.family) for row in rows)

    def total(self, *classes: str) -> int:
        return sum(profile.classes.get(name, 0) for profile in self.profiles for name in classes)


Sides = Mapping[cost_model.Chip, Side]


class Case(NamedTuple):
    name: str
    ours: Sides
    theirs: Mapping[str, Sides]  # by the peer's name
    floor_bytes: int = 0  # that must come from memory


class Profiler:
    """A launcher that profiles each plan on the simulator; of `heads` heads of keys and values only the first, or the
    rows of its queries."""

    def __init__(self, heads: int = 1):
        self.heads, self.plans, self.profiles = heads, [], []

    def __call__(self, plan, tensors) -> None:
        self.plans.append(plan)
        kernel = library(KERNELS / plan.source).kernel(plan.kernel, dict(plan.constants), build="count")
        buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
        grid = (plan.grid[0] // self.heads, *plan.grid[1:])
        self.profiles.append(kernel.profile(buffers, grid, plan.threads))
        if plan.source == "attention_combine.metal" and self.heads > 1:  # whose first rows are of all heads
            kernel.launch(buffers, plan.grid, plan.threads)


def download() -> None:
    """Both peers' wheels, where they can be had."""
    for peer in (pytorch_attention, mlx_attention):
        wheel = f"{peer.WHEEL.package} {peer.WHEEL.version} for {peer.WHEEL.platform}"
        if peer.WHEEL.include() is None:
            print(f"downloading {wheel} ...", flush=True)
        if not peer.WHEEL.download():
            print(f"no {wheel} could be downloaded")


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


def device(build, chip: cost_model.Chip):
    """The chip as a planner knows it, with its matrix unit."""
    return build.device.Device(chip.family, chip.cores, matrix_unit=chip.family >= 10)


def dense(build, chips: Sequence[cost_model.Chip], tensors, heads: int, causal: bool) -> Sides:
    """Our side of a call of as many heads of keys and values as `tensors`, of one, is repeated."""
    sides = {}
    query, key, value = (t.expand(1, heads, -1, -1, -1).flatten(1, 2) for t in (t.unsqueeze(1) for t in tensors))
    for chip in chips:
        profiler = Profiler(heads)
        with build.launchers.use_launcher(profiler, device(build, chip)):
            output = build.flash_attn_func(*(t.transpose(1, 2) for t in (query, key, value)), causal=causal)
        verify(output.transpose(1, 2)[:, : tensors[0].shape[1]], exact(*tensors, causal))
        sides[chip] = Side(profiler.profiles).of_heads(heads)
    return sides


def profiled(dispatch: pytorch_attention.Dispatch) -> Profile:
    source, host_name, constants, buffers, grid, threads = dispatch
    return source.kernel(host_name, constants, build="count").profile(buffers, grid, threads)


def theirs(dispatches: Sequence[pytorch_attention.Dispatch], expected: torch.Tensor, heads: int) -> Side:
    profiles = [profiled(dispatch) for dispatch in dispatches]
    verify(next(t for t in reversed(dispatches[-1].buffers) if isinstance(t, torch.Tensor)), expected)
    return Side(profiles).repeated(heads)


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


def prefill_cases(build, chips, head_dims: Sequence[int], seqlen: int):
    for head_dim in head_dims:
        for causal in (False, True):
            tensors = inputs(1, 1, seqlen, seqlen, head_dim)
            arguments, expected = (*tensors, head_dim**-0.5, causal), exact(*tensors, causal)
            pytorch = theirs([pytorch_attention.prefill(*arguments)], expected, HEADS)
            peers: Dict[str, Dict] = {"PyTorch": dict.fromkeys(chips, pytorch)}  # of the matrix unit: matrix_unit.py
            if mlx_attention.available() and head_dim < 256:  # MLX takes separate operations from there on
                mlx = theirs([mlx_attention.prefill(*arguments)], expected, HEADS)
                peers["MLX"] = {c: mlx for c in chips if c.family < 10}
            name = f"prefill {seqlen}{' causal' if causal else ''} d{head_dim}"
            yield Case(name, dense(build, chips, tensors, HEADS, causal), peers)


def decode_cases(build, chips, seqlen: int):
    tensors = inputs(8, 1, 1, seqlen, 128)
    expected = exact(*tensors, False)
    for heads_kv in (1, 8):
        pytorch = theirs(two_pass_decode(*tensors, 128**-0.5), expected, heads_kv)
        peers: Dict[str, Dict] = {"PyTorch": dict.fromkeys(chips, pytorch)}
        if mlx_attention.available():
            by_size = {
                is_max: theirs(mlx_attention.decode(*tensors, 128**-0.5, is_max), expected, heads_kv)
                for is_max in {chip.name.endswith("Max") for chip in chips}
            }
            peers["MLX"] = {chip: by_size[chip.name.endswith("Max")] for chip in chips}
        name = f"decode {seqlen} keys {8 * heads_kv}/{heads_kv} heads"
        read = sum(tensor.nbytes for tensor in tensors) * heads_kv
        yield Case(name, dense(build, chips, tensors, heads_kv, False), peers, read)


def wide_decode(build, chips, seqlen: int):
    """A line for each chip on 16 heads of 512 with 2 of keys and values, as Gemma 4's; PyTorch has no kernel for it."""
    tensors = inputs(8, 1, 1, seqlen, 512)
    read = 2 * sum(tensor.nbytes for tensor in tensors)
    for chip, side in dense(build, chips, tensors, 2, False).items():
        seconds, bound = side.seconds(chip), side.longest(chip).bound
        yield f"{chip.name}: {seconds * 1e6:.1f} us, {bound}, {seconds / floor(read, chip):.2f} of the floor"


def floor(read: int, chip: cost_model.Chip) -> float:
    """Seconds in which a launch may read so many bytes from memory."""
    return read / (cost_model.BANDWIDTH_REACHED * chip.bandwidth * 1e9) + cost_model.LAUNCH_SECONDS


def window_cost(build, chip: cost_model.Chip, seqlen: int, window: int) -> str:
    """One head with a window: keys that each SIMD group multiplies and each threadgroup loads, beside what they see."""
    head_dim, (query, key, value) = 64, inputs(1, 1, seqlen, seqlen, 64)
    profiler = Profiler()
    with build.launchers.use_launcher(profiler, build.device.Device(chip.family, chip.cores)):
        build.flash_attn_func(*(t.transpose(1, 2) for t in (query, key, value)), window_size=(window - 1, 0))
    (profile,), (plan,) = profiler.profiles, profiler.plans
    products = profile.classes["mma_half"] / (profile.simdgroups * plan.grid[1]) / (head_dim / 8) * 8
    loaded = next(t for t in profile.traffic if t.name == "key").read / plan.grid[1] / (2 * head_dim)
    rows = seqlen / plan.grid[1]
    return (
        f"{chip.name}: {products:.0f} keys multiplied by a SIMD group whose 8 rows see {window + 7}, "
        f"{loaded:.0f} loaded by a threadgroup whose {rows:.0f} rows see {window + rows - 1:.0f}; {plan.kernel}"
    )


def ragged_cost(build, chip: cost_model.Chip, sequences: int) -> str:
    """A causal batch of sequences of 16 to 4096 tokens, beside each of them alone."""
    steps = torch.arange(sequences) / (sequences - 1)
    lengths = (16 * 256**steps).round().int()[torch.randperm(sequences, generator=torch.Generator().manual_seed(0))]
    query, key, value = (t[0].transpose(0, 1) for t in inputs(1, 1, int(lengths.sum()), int(lengths.sum()), 64))
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    together, alone = Profiler(), Profiler()
    device = build.device.Device(chip.family, chip.cores)
    with build.launchers.use_launcher(together, device):
        longest = int(lengths.max())
        build.flash_attn_varlen_func(query, key, value, bounds, bounds, longest, longest, causal=True)
    with build.launchers.use_launcher(alone, device):
        for begin, end in zip(bounds.tolist(), bounds.tolist()[1:]):
            build.flash_attn_func(*(t[None, begin:end] for t in (query, key, value)), causal=True)
    (plan,) = together.plans
    block_m = plan.threads[0] // 32 * 8
    needed = sum(-(-length // block_m) for length in lengths.tolist())
    ratio = Side(together.profiles).clocks(chip) / Side(alone.profiles).clocks(chip)
    return (
        f"{chip.name}: {ratio:.3f} times the clocks of the {sequences} sequences alone, "
        f"{plan.grid[1] - needed} surplus threadgroups of {plan.grid[1]}"
    )


def print_times(case: Case) -> None:
    for chip, ours in case.ours.items():
        longest = ours.longest(chip)
        line = f"{case.name:32} {chip.name:8} {ours.seconds(chip) * 1e6:9.1f} {_shares(longest)}"
        for sides in case.theirs.values():
            if chip not in sides:
                line += f" |{'':49}"
                continue
            other = sides[chip]
            ratio, clocks = other.seconds(chip) / ours.seconds(chip), other.clocks(chip) / ours.clocks(chip)
            line += f" | {ratio:5.2f} {clocks:6.2f} {other.seconds(chip) * 1e6:9.1f} {_shares(other.longest(chip))}"
        if case.floor_bytes:
            line += f" {ours.seconds(chip) / floor(case.floor_bytes, chip):5.2f}"
        print(line, flush=True)


def _shares(longest: cost_model.Prediction) -> str:
    return f"{100 * longest.matrix_share:3.0f}% {100 * longest.unit_share:3.0f}% {longest.bound:17}"


def print_counters(case: Case) -> None:
    peers: List = []
    for name, sides in case.theirs.items():
        different = {id(side): f"{name} {chip.name}" for chip, side in reversed(sides.items())}
        peers += [(different[id(side)], side) for side in {id(side): side for side in sides.values()}.values()]
    for who, side in (*((f"{chip.name}", side) for chip, side in case.ours.items()), *peers):
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
        print(f"{case.name:32} {who:16}" + "".join(f"{value:11}" for value in values) + f"{registers:11.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", action="append", type=chip_named, help=f"default: {', '.join(CHIPS)}")
    parser.add_argument("--head-dim", type=int, nargs="*", default=(64, 128, 256), help="of the prefill cases")
    parser.add_argument("--length", type=int, default=1024, help="of the prefill cases (default: 1024)")
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw where the clocks of the first chip go; needs matplotlib"
    )
    options = parser.parse_args()
    chips = options.chip or [chip_named(name) for name in CHIPS]
    decode_chips = options.chip or [chip_named(name) for name in DECODE_CHIPS]
    build = kernels.get_local_kernel(ROOT / "build")
    print(__doc__.split("\n\n", 1)[1])
    download()
    mlx = f", MLX {mlx_attention.WHEEL.version}" if mlx_attention.available() else ""
    print(f"PyTorch {pytorch_attention.version()}{mlx}. {cost_model.LABEL}")
    print("times in us, with the share of matrix products among the clocks, that of the matrix unit, and the bound\n")
    names = "".join(f" | ratio clocks {name:>9}{'':28}" for name in ("PyTorch", "MLX"))
    print(f"{'':32} {'chip':8} {'ours':>9}{'':28}{names} floor")
    cases = []
    prefill = prefill_cases(build, chips, options.head_dim, options.length)
    for group in (prefill, decode_cases(build, decode_chips, 8192)):
        for case in group:
            print_times(case)
            cases.append(case)
    print("\ndecode 32768 keys 16/2 heads d512, ours alone")
    for line in wide_decode(build, decode_chips, 32768):
        print(line, flush=True)
    print("\nwindow of 256 in 8192 keys, head_dim 64")
    for chip in chips:
        print(window_cost(build, chip, 8192, 256), flush=True)
    print("\n64 sequences of 16 to 4096 tokens, causal, head_dim 64")
    for chip in chips:
        print(ragged_cost(build, chip, 64), flush=True)
    names = ("products", "fp32 prod.", "simple", "exp2", "complex", "shuffles", "reductions", "barriers", "KB moved")
    names += ("KB first", "lines", "conflicts", "registers")
    print(f"\ncounters, executions by SIMD groups\n{'':49}" + "".join(f"{name:>11}" for name in names))
    for case in cases:
        print_counters(case)
    if options.plot:
        sides = [
            (f"{c.name} {who}", side)
            for c in cases
            for who, side in (("ours", c.ours[chips[0]]), ("PyTorch", c.theirs["PyTorch"][chips[0]]))
        ]
        bars = [(name, simdgroup_clocks(side.profiles[0], chips[0].family)) for name, side in sides]
        plot(options.plot, bars, "our forward kernel and PyTorch's, the first launch of each")


if __name__ == "__main__":
    main()
