"""The texts of the backward kernels that the run-time launcher gives to Apple's compiler: strict, and the same bits."""

from __future__ import annotations

import importlib

import pytest
import torch
from shader_library import ShaderLibrary
from simulated_launcher import SimulatedLauncher

from .problem import Problem, run

UNIT = {"family": 10, "matrix_unit": True}
PROBLEMS = {
    "plain": ({"dtype": torch.float16, "head_dim": 128, "lengths": (40, 50)}, {}),
    "features": (
        {
            "dtype": torch.bfloat16,
            "head_dim": 192,
            "value_dim": 100,
            "lengths": [(20, 40), (33, 35)],
            "window": (10, 3),
            "softcap": 2.0,
            "alibi_slopes": torch.full((4,), 0.1),
            "sinks": torch.zeros(4),
            "seqused_k": torch.tensor([30, 35], dtype=torch.int32),
        },
        {"dropout": (0.3, 7), "factors": lambda sequence, head, tokens, keys: torch.ones(tokens, keys).double()},
    ),
    "chunks": ({"dtype": torch.float32, "head_dim": 256, "lengths": (90, 200)}, {"scratch": 1, "chunk_keys": 128}),
    "unit": ({"dtype": torch.bfloat16, "head_dim": 64, "lengths": (40, 50), "window": (-1, 0)}, UNIT),
}


class RuntimeText:
    """A launcher that runs what the run-time launcher would compile."""

    def __init__(self, runtime, folder):
        self.runtime, self.folder, self.kernels = runtime, folder, {}

    def __call__(self, plan, tensors):
        key = plan.source, plan.kernel, plan.constants
        if key not in self.kernels:
            folder = self.folder / str(len(self.kernels))
            folder.mkdir()
            library = ShaderLibrary(self.runtime.specialised_source(*key), folder)
            assert library.library.kernels.count(plan.kernel) == 1
            assert [found for found in library.library.check() if found.severity == "error"] == []
            self.kernels[key] = getattr(library, plan.kernel)
        buffers = [tensors["query"] if buffer is None else buffer for buffer in plan.buffers(tensors)]
        buffers = [buffer if isinstance(buffer, torch.Tensor) else list(buffer.values()) for buffer in buffers]
        threads = [groups * threads for groups, threads in zip(plan.grid, plan.threads)]
        self.kernels[key](*buffers, threads=threads, group_size=list(plan.threads))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", PROBLEMS)
def test_specialised_sources_are_strict_and_give_the_same_bits(metal_kernel, tmp_path, name):
    fields, settings = PROBLEMS[name]
    runtime = importlib.import_module(f"{metal_kernel.__name__}.launching.runtime")
    launcher = RuntimeText(runtime, tmp_path)
    results = [run(metal_kernel, Problem(**fields), each, **settings)[0] for each in (launcher, SimulatedLauncher())]
    assert all(map(torch.equal, *results)) and len(launcher.kernels) == 3
