"""Fixtures: the kernel as users load it, on every launcher that runs here."""

from __future__ import annotations

import contextlib
import os
import pathlib

import kernels
import pytest
import stage
import torch
from reference import rounded_weights
from simulated_launcher import SimulatedLauncher

if "PYTEST_XDIST_WORKER" in os.environ:  # one test process a core: threads on top would wait for one another
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--shards", type=int, default=1, help="sets of 200 random problems in tests/test_features.py")
    parser.addoption("--fast-math", action="store_true", help="only the launcher of the fast-math build")


def pytest_configure(config):
    config.addinivalue_line("markers", "fast_math: runs on kernels in the fast-math build, too")


def pytest_generate_tests(metafunc):
    if "shard" in metafunc.fixturenames:
        metafunc.parametrize("shard", range(metafunc.config.getoption("shards")))
    if "launcher" in metafunc.fixturenames:
        also = ["fast_math"] * (metafunc.definition.get_closest_marker("fast_math") is not None)
        if metafunc.definition.path.parent == pathlib.Path(__file__).parent:  # numeric tests of the forward pass
            also.insert(0, "unit")
        every = metafunc.config.getoption("fast_math")
        metafunc.parametrize("launcher", ["fast_math"] if every else ["cpu", "simulated", *also], indirect=True)


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> pathlib.Path:
    """A staged build: the folder that holds torch-cpu/ and torch-metal/."""
    folder = tmp_path_factory.mktemp("stage") / "build"
    stage.stage(folder)
    return folder


@pytest.fixture(scope="session")
def kernel(build):
    """The kernel's module, loaded as users load it."""
    return kernels.get_local_kernel(build)


@pytest.fixture
def launcher(request, kernel):
    """Runs the test once on the CPU implementation and once on the Metal kernels, simulated; if it is one of the
    forward pass, once on those of the matrix unit; where it is marked fast_math, once more in their fast-math build.
    The value is the name: "cpu", "simulated", "unit" or "fast_math"."""
    with contextlib.ExitStack() as stack:
        if request.param == "unit":
            device = kernel.device.Device(family=10, cores=10, matrix_unit=True)
            stack.enter_context(rounded_weights())
            stack.enter_context(kernel.launchers.use_launcher(SimulatedLauncher(), device))
        elif request.param != "cpu":
            stack.enter_context(
                kernel.launchers.use_launcher(SimulatedLauncher(fast_math=request.param == "fast_math"))
            )
        yield request.param


@pytest.fixture(scope="session")
def metal_kernel(build):
    """The torch-metal variant's module; its CPU calls work here, its run-time launcher needs an Apple GPU."""
    return kernels.get_local_kernel(build / "torch-metal")
