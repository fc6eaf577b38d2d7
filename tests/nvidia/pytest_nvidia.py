"""pytest -p pytest_nvidia: tests run on an NVIDIA GPU what they would run on the simulator.

NVIDIA_TESTS is "run", or "record" on a machine without a GPU: then nothing is computed or compared, and only what the
tests would have launched is noted. NVIDIA_TESTS_FOLDER gets one JSON file for each test process:
{"launches": ..., "unspecialised": ..., "specialisations": [...]}
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import types

from package import ARCHIVE, load_variant, specialisation

RECORD = os.environ["NVIDIA_TESTS"] == "record"
FOLDER = pathlib.Path(os.environ["NVIDIA_TESTS_FOLDER"])

# The tests load the package by its path, for which the kernels library is not needed.
kernels = types.ModuleType("kernels")
kernels.get_local_kernel = load_variant
sys.modules["kernels"] = kernels

import simulated_launcher  # noqa: E402

if RECORD:
    import backward.exact
    import reference
    import torch

    def exact(query, key, value, *_arguments, **_keywords):
        lse = torch.zeros(*query.shape[:-3], query.shape[-2], query.shape[-3])
        output = query.new_zeros(*query.shape[:-1], value.shape[-1])
        return backward.exact.Exact(output, lse, torch.zeros(*lse.shape, 2), (query, key, value))

    reference.attention = lambda *_arguments, **_keywords: (None, None)
    reference.assert_output = reference.assert_lse = lambda *_arguments: None
    backward.exact.exact, backward.exact.assert_gradients = exact, lambda *_arguments, **_keywords: None

WRITTEN = ("output", "lse", "row_softmax", "row_terms", "grad_query", "grad_key", "grad_value")


class Recorder:
    """Notes what a plan needs, and computes nothing."""

    unspecialised = launches = 0

    def __call__(self, plan, tensors) -> None:
        for name in plan.arguments:
            if name in WRITTEN:
                tensors[name].zero_()


def _shared():
    if RECORD:
        return Recorder()
    from metal_simulator.nvidia.archive import Archive
    from nvidia_launcher import NvidiaLauncher

    return NvidiaLauncher(Archive(ARCHIVE))


shared, seen = _shared(), set()


class OnNvidia:
    """In the place of SimulatedLauncher, whose settings mean nothing to a GPU: its order is its own, and what its
    checkers find is another stage."""

    def __init__(self, **_settings):
        self.launches = 0

    def __call__(self, plan, tensors) -> None:
        self.launches += 1
        seen.add(specialisation(plan))
        shared(plan, tensors)


simulated_launcher.SimulatedLauncher = OnNvidia


def pytest_sessionfinish(session) -> None:
    counts = {"launches": shared.launches, "unspecialised": shared.unspecialised, "specialisations": sorted(seen)}
    (FOLDER / f"{os.getpid()}.json").write_text(json.dumps(counts))
