"""How near decoding comes to what a chip allows: python benchmarks/decode.py

Predicted time of calls with one query token, over the floor: for group sizes, head dims, numbers of sequences and of
keys. The floor is the longer of two times: that of reading keys and values once at the memory's reachable rate, and
that of the products of the rows that there are, in fragments of 8, at the reachable issue rate; a launch included.
Then what pages cost beside a contiguous cache, a window of 1,024 in a long cache beside a cache of 1,024, and drafts of
several tokens beside one token, or beside the floor where that is more.

Each call is planned as it is. One sequence and one head of keys and values of it is simulated, in as many parts, and
counted as often as there are; the kernel that joins the parts is included. fp16; no key is in a cache before.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import pathlib
from typing import Iterator, List, NamedTuple, Tuple

import kernels
import peers
import torch
from metal_simulator.profiler import cost_model
from metal_simulator.profiler.report import chip_named

CHIPS = ("M1", "M1 Max", "M3 Max", "M4", "M4 Max", "M5", "M5 Max")
GROUPS = (1, 4, 8, 16, 32)
SIZES = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256), (512, 512))
BATCHES = ((1, 1), (1, 8), (4, 8), (32, 8))  # sequences, heads of keys and values
KEYS = (8192, 32768, 131072)
PAGES = (16, 32, 64, 256)
TOKENS = (2, 3, 4, 8, 16)
GOAL, GOAL_OF_ONE = 1.10, 1.35  # times the floor; of one sequence with one head of keys and values
GOAL_OF_PAGES, GOAL_OF_DRAFTS = 1.03, 1.15  # times a contiguous cache; times one token
DRAFTED_ROWS = 24  # tokens x group, up to which drafts are held to the time of one token, beyond to the floor as well
WINDOW = 1024


class Decode(NamedTuple):
    """A call. page: 0 for a contiguous cache; window: keys that the last token sees, 0 for all of them."""

    group: int = 8
    head_dim: int = 128
    value_dim: int = 128
    sequences: int = 1
    heads_kv: int = 8
    keys: int = 8192
    page: int = 0
    tokens: int = 1
    window: int = 0

    def __str__(self) -> str:
        cache = f"{self.sequences} x {self.keys} keys"
        heads = f"{self.group * self.heads_kv}/{self.heads_kv} heads d{self.head_dim}"
        extra = [f"pages of {self.page}"] * (self.page > 0) + [f"window of {self.window}"] * (self.window > 0)
        return ", ".join([cache, heads, *extra, *([f"{self.tokens} tokens"] * (self.tokens > 1))])

    def arguments(self) -> dict:
        """Of flash_attn_with_kvcache. All heads and sequences lie in one place, which a plan does not see."""
        generator = torch.Generator().manual_seed(0)
        pages = -(-self.keys // self.page) if self.page else self.sequences
        length, heads = self.page or self.keys, self.group * self.heads_kv
        seqlens = torch.full((self.sequences,), self.keys, dtype=torch.int32)
        arguments = {"causal": True, "cache_seqlens": seqlens, "window_size": (self.window - 1, 0)}
        for name, width in (("k_cache", self.head_dim), ("v_cache", self.value_dim)):
            one = torch.randn(pages if self.page else 1, length, 1, width, generator=generator).half()
            arguments[name] = one.expand(pages, length, self.heads_kv, width)
        query = torch.randn(1, 1, heads, self.head_dim, generator=generator).half()
        arguments["q"] = query.expand(self.sequences, self.tokens, heads, self.head_dim)
        if self.page:
            arguments["block_table"] = torch.randperm(pages, generator=generator).int().expand(self.sequences, pages)
        return arguments

    def floor(self, chip: cost_model.Chip) -> float:
        """Seconds."""
        seen = min(self.keys, self.window + self.tokens - 1) if self.window else self.keys
        keys, widths = seen * self.sequences * self.heads_kv, self.head_dim + self.value_dim
        fragments = -(-self.tokens * self.group // 8) * keys / 8 * widths / 8
        clocks = fragments * cost_model.CLOCKS[chip.family]["mma_half"] / cost_model.SCHEDULERS / chip.cores
        products = clocks / cost_model.EFFICIENCY / (chip.gigahertz * 1e9) + cost_model.LAUNCH_SECONDS
        return max(peers.floor(2 * keys * widths, chip), products)


@functools.lru_cache(maxsize=None)
def counted(build, one: Decode, device, parts: int) -> Tuple:
    """Profiles of the launches of a call of one sequence, in so many parts."""
    profiler = peers.Profiler()
    with build.launchers.use_launcher(profiler, device):
        build.flash_attn_with_kvcache(**one.arguments(), num_splits=parts)
    return tuple(profiler.profiles)


def predict(build, call: Decode, chip: cost_model.Chip) -> Tuple[peers.Side, str]:
    """What a call takes on a chip, and how it was planned."""
    plans = []
    with build.launchers.use_launcher(lambda plan, tensors: plans.append(plan), peers.device(build, chip)):
        build.flash_attn_with_kvcache(**call.arguments())
    tiles, parts = build.planning.tiles, plans[0].grid[2]
    tile, _ = {**tiles.KERNELS, **tiles.UNIT_KERNELS}[plans[0].kernel]
    same = build.device.Device(10 if tile.uses_unit else 7, 1, preferred=tile, matrix_unit=tile.uses_unit)
    profiles = counted(build, call._replace(sequences=1, heads_kv=1), same, parts)
    name = plans[0].kernel.partition("_r")[2]
    side = peers.Side(profiles).of_heads(call.sequences * call.heads_kv)
    return side, f"{parts} part(s) of r{name}, {side.longest(chip).bound}"


def seconds(build, call: Decode, chip: cost_model.Chip) -> float:
    return predict(build, call, chip)[0].seconds(chip)


class Line(NamedTuple):
    """A call beside what it is compared with: `ratio` of `goal` is allowed."""

    call: Decode
    chip: cost_model.Chip
    ratio: float
    goal: float


def beside_the_floor(build, chips, options) -> Iterator[Line]:
    for size, group, (sequences, heads_kv), keys in itertools.product(options.sizes, GROUPS, BATCHES, options.keys):
        call = Decode(group, *size, sequences, heads_kv, keys)
        goal = GOAL_OF_ONE if sequences * heads_kv == 1 else GOAL
        for chip in chips:
            yield Line(call, chip, seconds(build, call, chip) / call.floor(chip), goal)


def pages(build, chips, options) -> Iterator[Line]:
    for size, group, (sequences, heads_kv), page in itertools.product(options.sizes, (1, 8, 32), BATCHES[1:], PAGES):
        call = Decode(group, *size, sequences, heads_kv, page=page)
        for chip in chips:
            whole = max(seconds(build, call._replace(page=0), chip), call.floor(chip))
            yield Line(call, chip, seconds(build, call, chip) / whole, GOAL_OF_PAGES)


def windows(build, chips, options) -> Iterator[Line]:
    """Beside a cache of the window and one block of the tile's keys; a launch is in both."""
    for size, group in itertools.product(options.sizes, (1, 8)):
        call = Decode(group, *size, keys=131072, window=WINDOW)
        for chip in chips:
            short = seconds(build, call._replace(keys=WINDOW + 128, window=0), chip)
            yield Line(call, chip, seconds(build, call, chip) / short, 1.0)


def drafts(build, chips, options) -> Iterator[Line]:
    for size, group, tokens, heads_kv in itertools.product(options.sizes, GROUPS, TOKENS, (1, 8)):
        call = Decode(group, *size, heads_kv=heads_kv, tokens=tokens)
        for chip in chips:
            one, floor = seconds(build, call._replace(tokens=1), chip), call.floor(chip)
            least = one if tokens * group <= DRAFTED_ROWS else max(one, floor)
            yield Line(call, chip, seconds(build, call, chip) / least, GOAL_OF_DRAFTS)


TABLES = {"floor": beside_the_floor, "pages": pages, "windows": windows, "drafts": drafts}
TITLES = ("over the floor", "over a contiguous cache", "over a cache of 1,152 keys", "over one token or the floor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", action="append", type=chip_named, help=f"default: {', '.join(CHIPS)}")
    parser.add_argument("--keys", type=int, action="append", help=f"default: {', '.join(map(str, KEYS))}")
    parser.add_argument("--head-dim", type=int, action="append", help=f"default: {', '.join(str(d) for d, _ in SIZES)}")
    parser.add_argument("--table", action="append", choices=TABLES, help="default: all")
    parser.add_argument("--all", action="store_true", help="print every call, not only those that miss their goal")
    options = parser.parse_args()
    options.keys = options.keys or KEYS
    options.sizes = [size for size in SIZES if not options.head_dim or size[0] in options.head_dim]
    chips = options.chip or [chip_named(name) for name in CHIPS]
    build = kernels.get_local_kernel(pathlib.Path(__file__).resolve().parent.parent / "build")
    print(__doc__.split("\n\n", 1)[1])
    for (name, table), title in zip(TABLES.items(), TITLES):
        if options.table and name not in options.table:
            continue
        print(f"\n{title}")
        ratios: List[float] = []
        missed = 0
        for line in table(build, chips, options):
            ratios.append(line.ratio)
            missed += line.ratio > line.goal
            if options.all or line.ratio > line.goal:
                how = predict(build, line.call, line.chip)[1]
                print(f"{line.chip.name:7} {line.ratio:5.2f} of {line.goal:.2f}  {line.call}: {how}", flush=True)
        middle = sorted(ratios)[len(ratios) // 2]
        print(f"{len(ratios)} calls, {missed} above their goal; median {middle:.2f}, largest {max(ratios):.2f}")


if __name__ == "__main__":
    main()
