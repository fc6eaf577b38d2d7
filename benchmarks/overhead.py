"""What a public call costs before the GPU gets to work: make build && python benchmarks/overhead.py

Microseconds of processor time from the call of a public function to its return, with a launcher that does nothing and a
plan that is in the planner's cache; beside it, what a bare torch.library operator costs that only allocates the same
output. With --beside, also another build, with the median of the ratios ours / other. All run in turns in one process;
the times are medians. Level: Python on this machine. Goal: at most 40.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
import sys
import time

import kernels
import torch

GOAL = 40.0  # microseconds
BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"


def bare_operator():
    """An operator of three tensors that allocates its output and does nothing else."""
    library = torch.library.Library("metal_flash_sdpa_overhead", "FRAGMENT")
    library.define("bare(Tensor query, Tensor key, Tensor value) -> Tensor")
    library.impl("bare", lambda query, key, value: query.new_empty(query.shape), "CPU")
    return library, torch.ops.metal_flash_sdpa_overhead.bare.default  # the library, to keep it alive


def cases(kernel) -> dict:
    """By name: a call of a public function without arguments. None of them computes anything."""
    cu_seqlens = torch.tensor([0, 300, 1000], dtype=torch.int32)
    query, key, value = (torch.empty(1000, heads, 64, dtype=torch.float16) for heads in (32, 8, 8))
    out = torch.empty_like(query)
    packed = (query, key, value, cu_seqlens, cu_seqlens, 700, 700)
    dense = [torch.empty(2, 512, heads, 128, dtype=torch.float16) for heads in (32, 8, 8)]
    trained = [tensor.clone().requires_grad_() for tensor in dense]
    step, new = torch.empty(2, 1, 32, 128, dtype=torch.float16), torch.empty(2, 1, 8, 128, dtype=torch.float16)
    lengths = torch.tensor([100, 300], dtype=torch.int32)
    sinks, slopes = torch.zeros(32), torch.zeros(32)
    angles = torch.zeros(512, 64)
    append = (step, *dense[1:], new, new)
    settings = {"cache_seqlens": lengths, "causal": True, "num_splits": 1}
    short = [tensor[:, :128].contiguous() for tensor in dense[1:]]
    return {
        "flash_attn_func": lambda: kernel.flash_attn_func(*dense, causal=True),
        "flash_attn_func, training": lambda: kernel.flash_attn_func(*trained, causal=True),
        "flash_attn_varlen_func": lambda: kernel.flash_attn_varlen_func(*packed, causal=True),
        "flash_attn_varlen_func, features": lambda: kernel.flash_attn_varlen_func(
            *packed, causal=True, window_size=(127, 0), softcap=30.0, s_aux=sinks, alibi_slopes=slopes
        ),
        "flash_attention_varlen": lambda: kernel.flash_attention_varlen(out, *packed, True),
        "flash_attn_func, decode": lambda: kernel.flash_attn_func(step, *short, causal=True),
        "flash_attn_with_kvcache": lambda: kernel.flash_attn_with_kvcache(step, *dense[1:], **settings),
        "flash_attn_with_kvcache, append": lambda: kernel.flash_attn_with_kvcache(*append, **settings),
        "flash_attn_with_kvcache, rotary, append": lambda: kernel.flash_attn_with_kvcache(
            *append, angles, angles, **settings
        ),
    }


def microseconds(call, calls: int) -> float:
    begin = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - begin) / calls * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="folder of the staged variants")
    parser.add_argument("--beside", type=pathlib.Path, help="such a folder of another checkout, to be compared with")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side (default: 15)")
    parser.add_argument("--calls", type=int, default=500, help="calls in a measurement (default: 500)")
    options = parser.parse_args()
    builds = [kernels.get_local_kernel(folder) for folder in (options.build, options.beside) if folder]
    library, bare = bare_operator()
    tensors = [torch.empty(2, 512, heads, 128, dtype=torch.float16) for heads in (32, 8, 8)]
    print(f"torch {torch.__version__}, {options.rounds} rounds of {options.calls} calls; microseconds a call")
    names = ["ours", "bare operator", "other", "ours / other"][: 2 * len(builds)]
    print(f"{'call':40}" + "".join(f"{name:>16}" for name in names))
    worst = 0.0
    with contextlib.ExitStack() as launchers:
        for kernel in builds:
            launchers.enter_context(kernel.launchers.use_launcher(lambda plan, tensors: None))
        for name, *calls in zip(cases(builds[0]), *(cases(kernel).values() for kernel in builds)):
            sides = (calls[0], lambda: bare(*tensors), *calls[1:])
            rounds = [[microseconds(side, options.calls) for side in sides] for _ in range(options.rounds)]
            figures = [statistics.median(side) for side in zip(*rounds)]
            print(f"{name:40}" + "".join(f"{figure:16.1f}" for figure in figures), end="")
            if options.beside:
                print(f"{statistics.median(ours / other for ours, _, other in rounds):16.3f}", end="")
            print(flush=True)
            if not name.endswith("append"):  # which is two launches, and checks what they may write
                worst = max(worst, figures[0])
    print(f"worst but for the append: {worst:.1f}, goal at most {GOAL:.0f}: {'met' if worst <= GOAL else 'missed'}")
    del library
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
