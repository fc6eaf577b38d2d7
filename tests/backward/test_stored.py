"""What goes through the scratch: each block of a SIMD group's rows and 32 keys in which a row sees a key, once in, and
once out for each part of the columns; nothing else. Counted by the simulator."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from .problem import Problem, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from backward_tiles import compiled

# Bytes of a block's weights, and of their gradients; of the factors of both; of those that the lanes read for a part.
BYTES = {8: (8 * 32 * 4, 0, 0), 16: (16 * 32 * 2, 8, 32 * 4)}  # by the rows of a block: 16 on the matrix unit
USED = torch.tensor([61, 0, 40], dtype=torch.int32)
PROBLEMS = {
    "no mask": {"lengths": (70, 100)},
    "causal": {"lengths": (200, 290), "heads": (2, 1), "window": (-1, 0)},
    "more queries": {"lengths": (290, 200), "heads": (3, 1), "window": (-1, 0)},
    "packed window": {"lengths": [(150, 280), (15, 9), (0, 40), (90, 90), (33, 0)], "window": (15, 3)},
    "window of none": {"lengths": (90, 130), "heads": (1, 1), "window": (0, 0)},
    "a tile's window": {"lengths": (130, 130), "heads": (1, 1), "window": (63, 64)},
    "seqused_k": {"lengths": [(70, 100), (20, 30), (64, 64)], "window": (-1, 0), "seqused_k": USED},
    "one row, one key": {"lengths": [(1, 70), (70, 1), (1, 1)], "heads": (6, 2), "window": (-1, -1)},
}
BUDGETS = {"whole": {}, "rows": {"scratch": 1}, "keys": {"chunk_keys": 128}, "both": {"scratch": 1, "chunk_keys": 128}}


class Counts:
    """A launcher that counts what the kernels do with the scratch: (written, distinct; read, distinct), in bytes."""

    def __init__(self):
        self.written, self.read = [0, 0], [0, 0]
        self.parts = 0  # of the columns of both gradients

    def __call__(self, plan, tensors):
        buffers = [
            tensor if isinstance(tensor, (torch.Tensor, type(None))) else tensor.data
            for tensor in plan.buffers(tensors)
        ]
        profile = compiled(plan).profile(buffers, plan.grid, plan.threads)
        for traffic in (traffic for traffic in profile.traffic if traffic.name == "weights"):
            assert (traffic.read if "queries" in plan.kernel else traffic.written) == 0
            self.written = [self.written[0] + traffic.written, self.written[1] + traffic.first_written]
            self.read = [self.read[0] + traffic.read, self.read[1] + traffic.first_read]
        if "keys" in plan.kernel:
            head_dim, value_dim, columns = map(int, re.search(r"_d(\d+)_v(\d+)_c(\d+)_", plan.kernel).groups())
            self.parts = (head_dim + value_dim) // columns


def blocks(problem, heads, rows) -> int:
    """Of so many rows, in which a row sees a key, of all key/value heads; by the definition of the masks."""
    lengths = [(problem.query.shape[1], problem.key.shape[1])]
    if "cu_seqlens_q" in problem.fields:
        lengths = list(zip(*(problem.fields[f"cu_seqlens_{side}"].diff().tolist() for side in "qk")))
    used = problem.fields.get("seqused_k", [keys for _, keys in lengths])
    count = 0
    for (tokens, _), keys in zip(lengths, map(int, used)):
        position = (torch.arange(tokens) + keys - tokens).repeat_interleave(heads[0] // heads[1])
        distance = torch.arange(-(-keys // 32) * 32) - position[:, None]
        visible = (torch.arange(distance.shape[1]) < keys).expand_as(distance).clone()
        for limit, far in ((problem.fields["window_left"], -distance), (problem.fields["window_right"], distance)):
            if limit >= 0:
                visible &= far <= limit
        visible = torch.nn.functional.pad(visible, (0, 0, 0, -len(visible) % rows))
        count += int(visible.view(len(visible) // rows, rows, visible.shape[1] // 32, 32).any(dim=3).any(dim=1).sum())
    return count * heads[1]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float16, 64), (torch.float32, 192)])
def test_each_block_once(kernel, dtype, head_dim, name, budget):
    assert_each_once(kernel, dtype, head_dim, 8, name, budget)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_block_of_the_unit_once(kernel, name):
    assert_each_once(kernel, torch.float16, 64, 16, name, "both")


def assert_each_once(kernel, dtype, head_dim, rows, name, budget):
    heads = PROBLEMS[name].get("heads", (4, 2))
    problem, counts = Problem(dtype, head_dim, **PROBLEMS[name]), Counts()
    run(kernel, problem, counts, cores=1, family=10, matrix_unit=rows == 16, **BUDGETS[budget])
    count, (half, factors, read) = blocks(problem, heads, rows), BYTES[rows]
    stored = count * (2 * half + factors)
    assert stored > 0 and counts.written == [stored, stored]
    assert counts.read == [count * (half + read) * counts.parts, stored]
