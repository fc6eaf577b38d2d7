"""Kernels of these tests are of no use to anyone else."""

import pytest

from .runner import scratch_cache


@pytest.fixture(scope="module", autouse=True)
def cache():
    with pytest.MonkeyPatch.context() as patch, scratch_cache(patch.setenv):
        yield
