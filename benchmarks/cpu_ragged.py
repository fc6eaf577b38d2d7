"""The CPU implementation on a ragged packed batch, against a loop over PyTorch's attention, one sequence at a time.

    make build && python benchmarks/cpu_ragged.py

32 sequences of 16 to 512 tokens, 8 heads, head_dim 64. Both run in turns in one process; the figures are medians.
Level: the CPU implementation. Goal: no case takes more than 1.1 times as long as the loop.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time

import kernels
import torch
import torch.nn.functional as F

GOAL = 1.1
BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"


def ragged_batch(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """query, key, value [total, 8, 64] and cu_seqlens [33]; the same on every run."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(16, 513, (32,), generator=generator)
    cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    total = int(lengths.sum())
    return *(torch.randn(total, 8, 64, generator=generator).to(dtype) for _ in range(3)), cu_seqlens


def loop(query, key, value, cu_seqlens, causal) -> torch.Tensor:
    """What a user would write without packed attention."""
    bounds = cu_seqlens.tolist()
    outputs = []
    for begin, end in zip(bounds, bounds[1:]):
        q, k, v = (tensor[begin:end].transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=causal).squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def medians(attention, dtype: torch.dtype, causal: bool, rounds: int) -> tuple[float, float]:
    """Seconds of ours and of the loop, which must agree to rounding."""
    query, key, value, cu_seqlens = ragged_batch(dtype)
    longest = int(cu_seqlens.diff().max())

    def ours():
        return attention(query, key, value, cu_seqlens, cu_seqlens, longest, longest, causal=causal)

    def theirs():
        return loop(query, key, value, cu_seqlens, causal)

    torch.testing.assert_close(ours(), theirs(), atol=1e-5 if dtype == torch.float32 else 2e-2, rtol=0)
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return tuple(statistics.median(side) for side in zip(*times))


def seconds(function) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=BUILD, help="folder of the staged variants")
    parser.add_argument("--rounds", type=int, default=25, help="measurements of each side (default: 25)")
    options = parser.parse_args()
    attention = kernels.get_local_kernel(options.build).flash_attn_varlen_func
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.rounds} rounds; milliseconds")
    print(f"{'case':24}{'ours':>9}{'loop':>9}{'ratio':>8}")
    worst = 0.0
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for causal in (False, True):
            ours, theirs = medians(attention, dtype, causal, options.rounds)
            name = f"{str(dtype).removeprefix('torch.')}{', causal' if causal else ''}"
            print(f"{name:24}{ours * 1e3:9.2f}{theirs * 1e3:9.2f}{ours / theirs:8.3f}", flush=True)
            worst = max(worst, ours / theirs)
    print(f"worst ratio {worst:.3f}, goal at most {GOAL}: {'met' if worst <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
