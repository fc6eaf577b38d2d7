"""Bytes of a training call from its forward to its backward, beside PyTorch's composite path.

    make build && python benchmarks/memory.py [--family 7] [--cores 32]

Planned, not measured: our results and scratch are what the planner asks for. On `mps`, PyTorch's attention with
gradients forms all scores; by its source (aten's scaled dot product attention, math), it keeps their softmax in fp32
from the forward to the backward, and three such matrices at its peak.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import kernels
import torch

BUILD = Path(__file__).resolve().parent.parent / "build"
HEADS, HEAD_DIM, DTYPE = 32, 128, torch.float16
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes of a training call, planned.")
    parser.add_argument("--family", type=int, default=7, help="of the GPU; default: 7, as M1")
    parser.add_argument("--cores", type=int, default=32, help="of the GPU; default: 32, as M1 Max")
    options = parser.parse_args()
    kernel = kernels.get_local_kernel(BUILD)
    planner = importlib.import_module(f"{kernel.__name__}.planning.backward")
    device = importlib.import_module(f"{kernel.__name__}.planning.device").known(options.family, options.cores)
    print(f"one sequence, {HEADS} heads of {HEAD_DIM}, {DTYPE}, causal; {options.cores} cores of Apple{options.family}")
    print(f"{'tokens':>8}{'kept, GiB':>24}{'peak of the backward, GiB':>30}")
    print(f"{'':>8}{'ours':>12}{'composite':>12}{'ours':>18}{'composite':>12}{'launches':>12}")
    for tokens in (1024, 4096, 16384, 65536):
        tensor = torch.empty(1, tokens, HEADS, HEAD_DIM, dtype=DTYPE, device="meta")
        fields = dict.fromkeys(kernel.call.Call._fields)
        fields.update(query=tensor, key=tensor, value=tensor, max_seqlen_q=tokens, max_seqlen_k=tokens)
        fields.update(softmax_scale=HEAD_DIM**-0.5, window_left=-1, window_right=0, softcap=0.0, num_splits=0)
        call = kernel.call.Call(**fields)
        chain = planner.plan_backward(device, call, tensor, tensor, None, (tensor, tensor, tensor), False)
        output, row_softmax = tensor.nbytes, HEADS * tokens * 8
        scratch = 4 * sum(torch.Size(shape).numel() for _, shape in chain.scratch)
        matrix, gradients = 4 * HEADS * tokens**2, 3 * tensor.nbytes
        launches = sum(1 for _ in chain.launches)
        print(
            f"{tokens:8}{(output + row_softmax) / GIB:12.3f}{(output + matrix) / GIB:12.3f}"
            f"{(output + row_softmax + scratch + gradients) / GIB:18.3f}{(output + 3 * matrix + gradients) / GIB:12.3f}"
            f"{launches:12}"
        )


if __name__ == "__main__":
    main()
