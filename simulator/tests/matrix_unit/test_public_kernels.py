"""MLX's attention for the matrix unit, from its wheel; skipped where there is no wheel in the simulator's cache.

`python simulator/tests/support/public_matrix_unit.py` downloads it, and runs more.
"""

import math

import pytest
import torch
from support import public_matrix_unit as public


@pytest.fixture(scope="module")
def include():
    if not sorted(public.default_folder().glob("mlx_metal-*.whl")):
        pytest.skip("no wheel of mlx-metal in the simulator's cache")
    return public.headers(public.default_folder())


@pytest.mark.parametrize("mask", [False, True])
def test_attention_of_mlx(include, mask):
    attention = public.Attention(include, 64, torch.float16, mask)
    assert attention.error(70, 90, check=True) < 9e-4
    assert attention.error(70, 90, layout="older") > 0.1
    assert attention.error(70, 90, layout="invented") > 0.1
    assert math.isnan(attention.error(70, 90, layout="old_target"))
