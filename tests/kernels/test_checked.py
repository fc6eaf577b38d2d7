"""The forward kernel under the simulator's checker: no race, nothing outside a tensor, nothing read or left unwritten.

Level: checker.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, HEAD_DIMS, LENGTHS, dense, max_lengths, packed
from reference import assert_lse, assert_output, attention
from simulated_launcher import SimulatedLauncher


def unaligned(tensor):
    """The same values in rows that do not start on 16-byte boundaries."""
    view = tensor.new_empty(*tensor.shape[:-1], tensor.shape[-1] + 1)[..., 1:]
    return view.copy_(tensor)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("layout", ["packed", "dense"])
@pytest.mark.parametrize("alignment", [torch.clone, unaligned], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS, ids="d{}".format)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_clean(kernel, dtype, head_dim, alignment, layout):
    with kernel.launchers.use_launcher(SimulatedLauncher(check=True, check_written=True, order=head_dim)):
        if layout == "packed":
            *tensors, cu_q, cu_k = packed(LENGTHS[3:], 4, 2, head_dim, dtype)
            rest = (cu_q, cu_k, *max_lengths(cu_q, cu_k))
            call, bounds = kernel.flash_attn_varlen_func, (cu_q, cu_k)
        else:
            tensors, rest = dense(2, 40, 75, 4, 2, head_dim, dtype), ()
            call, bounds = kernel.flash_attn_func, ()
        output, lse, _ = call(*map(alignment, tensors), *rest, window_size=(20, 0), return_attn_probs=True)
        expected, expected_lse = attention(*tensors, *bounds, window=(20, 0))
        assert_output(output, expected, tensors[2])
        assert_lse(lse, expected_lse)
