"""The CPU implementation on a dense batch of many short sequences: make build && python benchmarks/cpu_dense.py

2,000 sequences of 4 tokens, 8 heads, head_dim 64, fp32: what PyTorch's fused attention computes, and beside it what it
lacks. With --beside, also another build, with the median of the ratios ours / other. All run in turns in one process;
the times are medians. Level: the CPU implementation. Goal: no forward takes more than 10 times as long as the plain
one.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time

import kernels
import torch

GOAL = 10.0
BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"


def cases(kernel) -> dict:
    """By name: a call without arguments."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2000, 4, 8, 64, generator=generator) for _ in range(3)]
    slopes, sinks = torch.rand(2000, 8, generator=generator), torch.randn(8, generator=generator)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def attend(inputs=tensors, **features):
        return kernel.flash_attn_func(*inputs, **features)

    return {
        "plain": attend,
        "log-sum-exp": lambda: attend(return_attn_probs=True),
        "log-sum-exp, causal": lambda: attend(return_attn_probs=True, causal=True),
        "softcap": lambda: attend(softcap=30.0),
        "ALiBi by sequence": lambda: attend(alibi_slopes=slopes),
        "sinks": lambda: attend(s_aux=sinks),
        "dropout": lambda: attend(dropout_p=0.1),
        "with the backward": lambda: torch.autograd.grad(attend(leaves).sum(), leaves),
        "dropout, with the backward": lambda: torch.autograd.grad(attend(leaves, dropout_p=0.1).sum(), leaves),
    }


def milliseconds(call) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="folder of the staged variants")
    parser.add_argument("--beside", type=pathlib.Path, help="such a folder of another checkout, to be compared with")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side (default: 15)")
    options = parser.parse_args()
    builds = [kernels.get_local_kernel(folder) for folder in (options.build, options.beside) if folder]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds; milliseconds a call")
    print(f"{'call':28}" + "".join(f"{name:>14}" for name in ["ours", "other", "ours / other"][: 2 * len(builds) - 1]))
    plain, worst = 0.0, 0.0
    for name, *calls in zip(cases(builds[0]), *(cases(kernel).values() for kernel in builds)):
        rounds = [[milliseconds(call) for call in calls] for _ in range(options.rounds)]
        figures = [statistics.median(side) for side in zip(*rounds)]
        print(f"{name:28}" + "".join(f"{figure:14.2f}" for figure in figures), end="")
        if options.beside:
            print(f"{statistics.median(ours / other for ours, other in rounds):14.3f}", end="")
        print(flush=True)
        plain = plain or figures[0]
        if "backward" not in name:
            worst = max(worst, figures[0] / plain)
    print(f"worst forward / plain: {worst:.1f}, goal at most {GOAL:.0f}: {'met' if worst <= GOAL else 'missed'}")
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
