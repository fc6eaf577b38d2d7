"""head_dim above 256, where SIMD groups divide the columns of a row, and staged keys and values take turns.

Levels: CPU implementation; simulation under the checker, with the tiles of both families.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, dense
from reference import attention
from simulated_launcher import SimulatedLauncher
from test_features import compare

SIZES = [(320, 320), (512, 512), (576, 512)]  # each kernel, and one that has fewer columns than its kernel
EDGES = [(384, 384), (512, 256), (257, 1), (64, 512), (513, 8)]
USUAL = {
    "lengths": [(5, 30), (2, 17)],
    "layout": "packed",
    "num_heads": 2,
    "num_heads_kv": 1,
    "page_size": 16,
    "seqused_k": False,
    "window": (-1, 0),
    "softcap": 0.0,
    "scale": 1.0,
    "alibi": None,
    "sinks": False,
    "num_splits": 1,
    "seed": 5,
}
FEATURES = {
    "causal, group 8, sinks": {"lengths": [(3, 20), (0, 5), (5, 2)], "num_heads": 8, "sinks": True},
    "window, softcap, pages": {"layout": "packed paged", "window": (20, 3), "softcap": 30.0},
    "decode in parts": {"lengths": [(1, 75)], "layout": "dense", "num_heads": 8, "alibi": "heads", "num_splits": 2},
}
PLACES = {"cpu": None, "Apple7": (7, 8), "Apple9": (9, 8)}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(kernel, dtype, feature, place):
    is_simulated = place != "cpu"
    for head_dim, value_dim in SIZES + EDGES * (not is_simulated or dtype == torch.float16 and "pages" not in feature):
        problem = {**USUAL, **FEATURES[feature], "dtype": dtype, "head_dim": head_dim, "value_dim": value_dim}
        launcher = SimulatedLauncher(check=True, order=head_dim) if is_simulated else None
        compare(kernel, {**problem, "device": PLACES[place] or PLACES["Apple7"]}, launcher, also_without_lse=False)


def test_values_that_are_columns_of_the_keys(kernel):
    """As in the absorbed form of multi-head latent attention: 16 heads share keys of 576, the first 512 are values."""
    query, key, _ = dense(2, 1, 70, 16, 1, 576, torch.float16)
    value = key[..., :512]
    expected, _ = attention(query, key, value)
    for device in (kernel.device.Device(7, 8), kernel.device.Device(9, 8)):
        with kernel.launchers.use_launcher(SimulatedLauncher(check=True), device):
            output = kernel.flash_attn_with_kvcache(query, key, value)
        assert (output.double() - expected).abs().max() <= 2e-3


@pytest.mark.parametrize(("head_dim", "value_dim"), [(257, 257), (512, 512), (576, 512), (64, 257), (264, 64)])
@pytest.mark.parametrize("wanted", ["q", "k", "v", "s_aux"])
def test_gradients(kernel, head_dim, value_dim, wanted):
    """The CPU implementation has them; kernels refuse before anything runs."""
    query, key, _ = dense(1, 5, 9, 2, 1, head_dim, torch.float32)
    value = dense(1, 5, 9, 2, 1, value_dim, torch.float32, seed=7)[2]
    tensors = {"q": query, "k": key, "v": value, "s_aux": torch.ones(2)}
    leaf = tensors[wanted].requires_grad_()
    expected, _ = attention(query, key, value, sinks=tensors["s_aux"])
    [expected_grad] = torch.autograd.grad(expected.square().sum(), [leaf])
    [grad] = torch.autograd.grad(kernel.flash_attn_func(**tensors).square().sum(), [leaf])
    torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-5, check_dtype=False)
    launcher = SimulatedLauncher()
    with kernel.launchers.use_launcher(launcher):
        message = f"head_dim of 1 to 256, got {head_dim}, and {value_dim} of the values"
        with pytest.raises(NotImplementedError, match=message):
            kernel.flash_attn_func(**tensors)
        assert launcher.launches == 0
        with torch.no_grad():
            kernel.flash_attn_func(**tensors)
        assert launcher.launches > 0
