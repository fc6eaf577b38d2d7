"""The budget of the backward kernels, and the counters behind their table: python benchmarks/backward_tiles.py

For each row of planning/backward_tiles.py, both kernels in fp16, bf16 and fp32: threadgroup memory, instructions of the
optimised code, and, on Apple7 and Apple9, estimated live registers with nothing moved out of loops and with what LLVM
moves out of them, and, for 512 rows and keys without a mask, clocks, the share of matrix products in them and the SIMD
groups that a core holds. With --head-dim and --dtype fewer of them.

On Apple9 at head_dim 64 in fp16, products have 96.5 % of the queries' kernel, where 97 was the goal: the loop over keys
alone has 97.0, and the rest is what a tile of rows loads and stores once, which 512 keys do not outweigh.

Level: counters of the simulator and its cost model; nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import statistics

import kernels
import torch
from simulated_launcher import library
from tiles import CHIPS, ROOT, cost_model, library_bytes, registers

FOLDER = ROOT / "flash_sdpa"
LENGTH = 512
COLUMNS = f"{'bytes':>6} {'instr':>6}" + "".join(f" |   regs  moved {chip.name:>8} share held  rate" for chip in CHIPS)


def launches(build, family: int, dtype: torch.dtype, head_dim: int, value_dim: int):
    """(plan, tensors) of the queries' and the keys' kernel, for one head."""
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad_output = (
        torch.randn(1, LENGTH, 1, size, generator=generator).to(dtype)
        for size in (head_dim, head_dim, value_dim, value_dim)
    )
    usual = {**dict.fromkeys(build.call.TENSORS), "query": query, "key": key, "value": value}
    usual |= {"max_seqlen_q": LENGTH, "max_seqlen_k": LENGTH, "softmax_scale": head_dim**-0.5, "softcap": 0.0}
    usual |= {"window_left": -1, "window_right": -1, "num_splits": 0, "aligns_first": False}
    backward = importlib.import_module(f"{build.__name__}.planning.backward")
    device = build.device.Device(family, 64)
    grads = tuple(map(torch.empty_like, (query, key, value)))
    chain = backward.plan_backward(device, build.call.Call(**usual), grad_output, grad_output, None, grads, False)
    tensors = {"query": query, "key": key, "value": value, "output": grad_output, "grad_output": grad_output}
    tensors |= {"row_softmax": torch.full((1, 1, LENGTH, 2), 5.0)}
    tensors |= {f"grad_{name}": grad for name, grad in zip(("query", "key", "value"), grads)}
    tensors |= {scratch.name: torch.zeros(scratch.shape) for scratch in chain.scratch}
    _, queries, keys = chain.launches
    return [(queries, tensors), (keys, tensors)]


def compiled(plan):
    """The simulator's kernel of a plan."""
    return library(FOLDER / plan.source).kernel(plan.kernel, dict(plan.constants), build="count")


def describe(plan, tensors) -> str:
    """One line on a kernel."""
    kernel = compiled(plan)
    buffers = [tensors[a] if isinstance(a, str) else a and a.data for a in plan.arguments]
    profile, budget = kernel.profile(buffers, plan.grid, plan.threads), kernel.budget()
    line = f"{plan.kernel[19:]:39} {budget.threadgroup_bytes:6} {budget.instructions:6}"
    for chip in CHIPS:
        live, hoisted = registers.of_family(budget.registers_by_family, chip.family)
        prediction = cost_model.predict(profile, chip)
        clocks = sum(cost_model.clocks(profile.rows[index].classes, chip.family) for index in profile.order)
        held = prediction.occupancy
        line += f" | {live:6.1f} {hoisted:6.1f}"
        line += f" {clocks / 1e6:8.3f} {100 * prediction.matrix_share:5.1f}% {held.simdgroups:3} {held.rate:5.2f}"
    return line


def every_kernel(build):
    """(title of its table, plan, tensors) of each kernel of the tables, in the first table that has it."""
    tables = importlib.import_module(f"{build.__name__}.planning.backward_tiles").TABLES
    seen: set = set()
    for family, by_dtype in tables.items():
        for dtype, name in build.call.DTYPES.items():
            for row in by_dtype[dtype]:
                for plan, tensors in launches(build, family, dtype, *row.queries[:2]):
                    if plan.kernel not in seen:
                        seen.add(plan.kernel)
                        yield f"Apple{family} {name}", plan, tensors


def gradients_bytes(build, step: int = 1) -> float:
    """Of the native code of all kernels of the tables, estimated as by tiles.library_bytes()."""
    plans = [plan for _, plan, _ in every_kernel(build)]
    instructions = [compiled(plan).budget().instructions for plan in plans[::step]]
    return cost_model.code_bytes(statistics.mean(instructions) * len(plans))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, help="that of one row")
    parser.add_argument("--dtype", choices=["f16", "bf16", "f32"])
    options = parser.parse_args()
    build = kernels.get_local_kernel(pathlib.Path(ROOT / "build"))
    print(__doc__.split("\n\n", 1)[1])
    last = None
    for title, plan, tensors in every_kernel(build):
        if options.head_dim in (None, tensors["query"].shape[-1]) and options.dtype in (None, title.split()[1]):
            if title != last:
                print(f"{title:39} {COLUMNS}    registers, Mclocks, products, SIMD groups, rate")
            last = title
            print(describe(plan, tensors), flush=True)
    forward, gradients = library_bytes(build) / 2**20, gradients_bytes(build) / 2**20
    count = len(list(every_kernel(build)))
    print(f"\n{count} kernels, about {gradients:.2f} MiB of native code without features; {forward:.2f} the forward's")


if __name__ == "__main__":
    main()
