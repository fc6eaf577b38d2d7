"""Forward and backward beside the share of the peak that MFA publishes and PyTorch's composite path on `mps`:
python benchmarks/peers_backward.py

One sequence of 4096 tokens, 32 heads, fp16. One head of 512 and of 1024 tokens is simulated, and its gradients compared
with float64; counts of a threadgroup are linear in the tokens and are carried over to 4096, and the launches that are
planned for each chip are predicted one by one. ms: of the forward, of the backward, of which the queries' and the keys'
kernel, and of both. peak: the backward's share of the chip's multiply-adds, counting seven products for each visible
pair; ours makes five, MFA seven at a published 80 % (M1 Max, no mask).

By its source (aten's scaled dot product attention, math), the composite path keeps all scores, also masked ones, in
fp32: 16 bytes of traffic a pair in the forward, 28 in the backward. composite: ms of its backward, by these bytes alone
and with its products at 80 % of the peak; faster: the latter over ours, of the backward and of both.

Then the cost of windows and of ragged batches, these in one chunk. In a window a row pays for 57 keys that it does not
see on Apple7 and for 41 on Apple9, at head_dim 64: within 5 % of what it sees from windows of 1,140 and 820 keys on.
Less than 38 is not to be had: both kernels compute blocks of 8 rows and 32 keys whole, of which a window's two edges
cut 7 + 31 keys. With several sequences, every chunk has a threadgroup for each tile of keys, which returns after
1,620 clocks on Apple7 and 830 on Apple9 (32 sequences) where the chunk's rows do not see it: the host, which does not
read cu_seqlens, cannot leave it out, and two thirds of these clocks are the search for its sequence.
"""

from __future__ import annotations

import collections
import importlib
import pathlib
from typing import Dict, List, Sequence, Tuple

import kernels
import peers  # puts the simulator on the path
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.counters import Profile, Row, Traffic
from metal_simulator.profiler.report import chip_named

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHIPS = ("M1", "M1 Max", "M3 Max", "M4 Max")
HEADS, LENGTH, COUNTED = 32, 4096, 1024  # tokens that are predicted, and that are counted
FORWARD, TERMS, QUERIES, KEYS = (
    f"attention_{name}.metal" for name in ("forward", "backward_terms", "backward_queries", "backward_keys")
)
EFFICIENCY = {FORWARD: cost_model.EFFICIENCY, TERMS: cost_model.EFFICIENCY, QUERIES: 0.92, KEYS: 0.87}  # cost_model.py
WINDOWS = (256, 1024)
MULTIPLY_ADDS = 128  # of a core and clock
COMPOSITE_EFFICIENCY = 0.8  # of its products
TOLERANCE = 4e-3  # of the gradients


def profiled(build, device, tensors, **arguments) -> Tuple[peers.Profiler, Sequence[torch.Tensor]]:
    """The launches of a call and of its backward, and the gradients. tensors: query, key and value, of one sequence or
    packed."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    call = build.flash_attn_varlen_func if leaves[0].dim() == 3 else build.flash_attn_func
    profiler = peers.Profiler()
    with build.launchers.use_launcher(profiler, device):
        output = call(*leaves, **arguments)
        return profiler, torch.autograd.grad(output, leaves, torch.ones_like(output))


def counted(build, device, tokens: int, head_dim: int, causal: bool) -> Dict[str, Profile]:
    """By source, the launches of one head."""
    heads_first = peers.inputs(1, 1, tokens, tokens, head_dim)
    profiler, grads = profiled(build, device, [t.transpose(1, 2).contiguous() for t in heads_first], causal=causal)
    leaves = [tensor.double().requires_grad_() for tensor in heads_first]
    output = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
    for grad, exact in zip(grads, torch.autograd.grad(output.sum(), leaves)):
        torch.testing.assert_close(grad.transpose(1, 2).double(), exact, atol=TOLERANCE, rtol=TOLERANCE)
    return {plan.source: profile for plan, profile in zip(profiler.plans, profiler.profiles)}


def carried(half: Profile, whole: Profile, times: int, heads: int) -> Profile:
    """The launch of `heads` heads of `times` the tokens of `whole`, which has twice those of `half`: what a threadgroup
    counts at any share of the way through the launch is linear in the tokens."""

    def of_share(profile: Profile, share: float) -> Row:
        return profile.rows[profile.order[int(share * len(profile.order))]]

    def linear(a: int, b: int) -> int:
        return b + (b - a) * 2 * (times - 1)

    def total(a: int, b: int) -> int:  # of threadgroups, of which half has half as many
        return linear(2 * a, b) * times * heads

    count = times * len(whole.order)
    rows: Dict[Row, int] = {}
    order = []
    for index in range(count):
        a, b = (of_share(profile, index / count) for profile in (half, whole))
        row = Row(tuple(map(linear, a.classes, b.classes)), *map(linear, a[1:], b[1:]))
        order += [rows.setdefault(row, len(rows))] * heads
    before = {(t.name, t.space): t for t in half.traffic}
    traffic = [(*t[:2], *map(total, before[t.name, t.space][2:], t[2:])) for t in whole.traffic]
    return whole._replace(
        rows=tuple(rows),
        order=tuple(order),
        traffic=tuple(Traffic(*fields) for fields in traffic),
        accesses={key: total(half.accesses.get(key, 0), number) for key, number in whole.accesses.items()},
    )


def planned(build, chip: cost_model.Chip, head_dim: int, causal: bool) -> List[Tuple[str, int]]:
    """(source, heads) of each launch of the whole backward."""
    tensor = torch.empty(1, LENGTH, HEADS, head_dim, dtype=torch.float16, device="meta")
    fields = dict.fromkeys(build.call.Call._fields)
    fields.update(query=tensor, key=tensor, value=tensor, max_seqlen_q=LENGTH, max_seqlen_k=LENGTH)
    fields.update(softmax_scale=head_dim**-0.5, softcap=0.0, num_splits=0)
    fields.update(window_left=-1, window_right=0 if causal else -1)
    planner = importlib.import_module(f"{build.__name__}.planning.backward")
    device = build.device.Device(chip.family, chip.cores)
    chain = planner.plan_backward(
        device, build.call.Call(**fields), tensor, tensor, None, (tensor, tensor, tensor), False
    )
    return [(plan.source, plan.grid[1 if plan.source == TERMS else 0]) for plan in chain.launches]


class Case:
    """One mask and head_dim."""

    def __init__(self, build, head_dim: int, causal: bool):
        self.build, self.head_dim, self.causal = build, head_dim, causal
        self.counts: dict = {}  # by the forward's tile, which differs between chips

    def launch(self, chip: cost_model.Chip, source: str, heads: int) -> float:
        """Seconds of a launch of some heads, without the overhead of launching."""
        device = self.build.device.Device(chip.family, 1)  # whose forward does not divide the keys
        tile = self.build.planning.tiles.choose(
            device._replace(cores=chip.cores), torch.float16, *[self.head_dim] * 2, 0, self.threadgroups, True
        )
        if tile not in self.counts:
            device = device._replace(preferred=tile)
            shape = self.head_dim, self.causal
            self.counts[tile] = [counted(self.build, device, tokens, *shape) for tokens in (COUNTED // 2, COUNTED)]
        half, whole = (by_source[source] for by_source in self.counts[tile])
        profile = carried(half, whole, LENGTH // COUNTED, heads)
        return cost_model.predict(profile, chip, EFFICIENCY[source]).seconds - cost_model.LAUNCH_SECONDS

    @staticmethod
    def threadgroups(block_m: int) -> int:
        return HEADS * LENGTH // block_m

    def line(self, chip: cost_model.Chip) -> str:
        forward = self.launch(chip, FORWARD, HEADS) + cost_model.LAUNCH_SECONDS
        launches = collections.Counter(planned(self.build, chip, self.head_dim, self.causal))
        by_source: collections.Counter = collections.Counter()
        for (source, heads), count in launches.items():
            by_source[source] += count * self.launch(chip, source, heads)
        backward = sum(by_source.values()) + cost_model.LAUNCH_SECONDS
        pairs, peak = HEADS * LENGTH**2, chip.cores * MULTIPLY_ADDS * chip.gigahertz * 1e9
        visible = HEADS * LENGTH * (LENGTH + 1) / 2 if self.causal else pairs
        product = pairs * self.head_dim / (COMPOSITE_EFFICIENCY * peak)
        byte = pairs / (cost_model.BANDWIDTH_REACHED * chip.bandwidth * 1e9)
        composite, composite_forward = 28 * byte + 4 * product, 16 * byte + 2 * product
        times = forward, backward, by_source[QUERIES], by_source[KEYS], forward + backward
        return (
            f"{'causal' if self.causal else 'full':6} d{self.head_dim:<4} {chip.name:8}"
            + "".join(f"{1e3 * seconds:9.1f}" for seconds in times)
            + f"{100 * 7 * visible * self.head_dim / (peak * backward):6.0f} %{sum(launches.values()):9}"
            + f"{28e3 * byte:9.1f}{1e3 * composite:7.1f}"
            + f"{composite / backward:9.2f}{(composite + composite_forward) / (forward + backward):6.2f}"
        )


def backward_clocks(build, chips: Sequence[cost_model.Chip], tensors, **arguments) -> List[float]:
    """For each chip, of the kernels that the first one's plan has; without the forward's."""
    profiler, _ = profiled(build, build.device.Device(chips[0].family, chips[0].cores), tensors, **arguments)
    side = peers.Side([p for plan, p in zip(profiler.plans, profiler.profiles) if "backward" in plan.source])
    return [side.clocks(chip) for chip in chips]


def clocks_of_a_row(build, chips, tokens: Sequence[int], window: int = 0) -> List[float]:
    """For each chip, with a causal window, of the rows that the second number of tokens has more than the first, whose
    window is full; without a window, of what each row takes more then."""
    clocks = []
    for length in tokens:
        tensors = [tensor.transpose(1, 2).contiguous() for tensor in peers.inputs(1, 1, length, length, 64)]
        size = (window - 1, 0) if window else (-1, -1)
        own = backward_clocks(build, chips, tensors, window_size=size)
        clocks.append([number if window else number / length for number in own])
    return [(after - before) / (tokens[1] - tokens[0]) for before, after in zip(*clocks)]


def window_costs(build, chips, windows: Sequence[int]) -> List[List[float]]:
    """For each causal window and each chip: how many keys a row pays for beyond those that it sees, a pair without a
    mask being the price. In the steady state: the first rows of a sequence, which see fewer, are left out."""
    pair = clocks_of_a_row(build, chips, (512, 1024))
    return [
        [
            row / price - window
            for row, price in zip(clocks_of_a_row(build, chips, (2 * window, 3 * window), window), pair)
        ]
        for window in windows
    ]


def ragged_costs(build, chips, sequences: int) -> List[float]:
    """For each chip, clocks of a causal batch of sequences of 16 to 1024 tokens, over those of each alone."""
    lengths = [round(16 * 64 ** (i / (sequences - 1))) for i in range(sequences)]
    lengths = lengths[::2] + lengths[1::2][::-1]
    tensors = [t[0].transpose(0, 1).contiguous() for t in peers.inputs(1, 1, sum(lengths), sum(lengths), 64)]
    bounds = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    packed = {"cu_seqlens_q": bounds, "cu_seqlens_k": bounds}
    packed.update(max_seqlen_q=max(lengths), max_seqlen_k=max(lengths), causal=True)
    together = backward_clocks(build, chips, tensors, **packed)
    alone = [
        backward_clocks(build, chips, [tensor[None, begin:end] for tensor in tensors], causal=True)
        for begin, end in zip(bounds.tolist(), bounds.tolist()[1:])
    ]
    return [whole / sum(parts) for whole, parts in zip(together, zip(*alone))]


def main() -> None:
    build = kernels.get_local_kernel(ROOT / "build")
    chips = [chip_named(name) for name in CHIPS]
    print(f"{__doc__.split(chr(10) * 2, 1)[1]}\n{cost_model.LABEL}\n")
    print(f"{'':21}  forward backward  queries     keys     both    peak launches{'composite':>16}{'faster':>15}")
    for head_dim in (64, 128):
        for causal in (False, True):
            case = Case(build, head_dim, causal)
            for chip in chips:
                print(case.line(chip), flush=True)
    print("\nthe backward's clocks on M1 Max and M3 Max, head_dim 64")
    for window, more in zip(WINDOWS, window_costs(build, chips[1:3], WINDOWS)):
        shares = " and ".join(f"{keys:.0f} more ({100 * keys / window:.1f} %)" for keys in more)
        print(f"a row that sees {window} keys pays for {shares}", flush=True)
    ratios = " and ".join(f"{ratio:.3f}" for ratio in ragged_costs(build, chips[1:3], 32))
    print(f"32 sequences of 16 to 1024 tokens, causal, in one chunk: {ratios} times what they take alone")


if __name__ == "__main__":
    main()
