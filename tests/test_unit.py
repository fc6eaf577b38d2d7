"""Random problems on the tiles of the matrix unit, with and without biases, and what is special about its tiles.

Levels: simulation; checker. --shards takes as many times more problems.
"""

from __future__ import annotations

import pytest
import torch
from biases import Bias
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from instantiate import tiles
from reference import assert_lse, attention, rounded_weights
from simulated_launcher import SimulatedLauncher
from test_bias import biases, with_bias
from test_features import compare, problems

TILES = sorted({tile for tile, _ in tiles().UNIT_KERNELS.values()})
TYPES = (torch.float16, torch.bfloat16)
LAUNCH_WORK = 10**11


class Recording(SimulatedLauncher):
    """Keeps the names of the kernels."""

    def __init__(self, **options):
        super().__init__(**options)
        self.launched = []

    def __call__(self, plan, given):
        self.launched.append(plan.kernel)
        super().__call__(plan, given)


def search(shard, examples, check, widest=256):
    @seed(shard)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        problem=problems(widest),
        bias=st.none() | biases(),
        aligns_first=st.booleans(),
        dtype=st.sampled_from(TYPES),
        cores=st.sampled_from([1, 10, 40]),
    )
    def each(problem, bias, aligns_first, dtype, cores):
        problem = {**problem, "dtype": dtype, "device": (10, cores, None, LAUNCH_WORK, True)}
        with rounded_weights():
            check(with_bias(problem, bias, aligns_first) if bias else problem)

    each()


def test_random(kernel, shard):
    search(shard, 60, lambda problem: compare(kernel, problem, SimulatedLauncher()))


@pytest.mark.nightly
def test_random_checked(kernel, shard):
    search(shard, 15, lambda problem: compare(kernel, problem, SimulatedLauncher(check=True, order=problem["seed"])))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.kernel(torch.float16))
def test_every_tile_checked(kernel, shard, tile):
    """Also those that only tuning may choose, with rows of any number."""

    def check(problem):
        sizes = {name: min(problem[name], getattr(tile, name)) for name in ("head_dim", "value_dim")}
        sizes |= {"lengths": problem["lengths"][:2]}
        problem = {**problem, **sizes, "device": (10, problem["device"][1], tile, LAUNCH_WORK, True)}
        launcher = Recording(check=True, order=problem["seed"])
        compare(kernel, problem, launcher)
        if any(query and key for query, key in problem["lengths"]):
            assert tile.kernel(problem["dtype"]) in launcher.launched

    search(shard * len(TILES) + TILES.index(tile), 2, check)


def call(kernel, query, key, value, device, **arguments):
    launcher = Recording()
    with kernel.launchers.use_launcher(launcher, device):
        return *kernel.flash_attn_func(query, key, value, return_attn_probs=True, **arguments)[:2], launcher.launched


def tensors(query_length=20, key_length=70, head_dim=64, dtype=torch.float16):
    generator = torch.Generator().manual_seed(3)
    lengths = query_length, key_length, key_length
    return [torch.randn(1, length, 2, head_dim, generator=generator).to(dtype) for length in lengths]


@pytest.fixture
def device(kernel):
    return kernel.device.Device(10, 1, matrix_unit=True)


def test_fp32_never_uses_it(kernel, device):
    """Its operands would lose 13 bits."""
    *_, kernels = call(kernel, *tensors(dtype=torch.float32), device)
    assert kernels and not any("unit" in name for name in kernels)


@pytest.mark.parametrize("rows", [1, 8, 9, 16, 17, 70])
def test_the_tile_by_the_number_of_rows(kernel, device, rows):
    [name] = call(kernel, *tensors(rows), device)[2]
    kind = "_g1x1x4_direct" if rows <= 8 else "_r16_n32_g1x1x4_unit" if rows <= 16 else "_r16_n32_g4x1x1_unit"
    assert name.endswith(kind)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("query_length", [12, 40])  # key groups, and none
@pytest.mark.parametrize("num_splits", [1, 3])
def test_weights_are_rounded_and_their_sum_is_of_what_was_rounded(kernel, device, dtype, query_length, num_splits):
    """Values of 1 come out as 1, which a sum of other weights would miss; lse is that of the exact ones."""
    query, key, value = tensors(query_length, 300, dtype=dtype)
    one = torch.ones_like(value)
    arguments = {"num_splits": num_splits}
    launcher = Recording()
    with kernel.launchers.use_launcher(launcher, device):
        output, lse, *_ = kernel.flash_attn_with_kvcache(query, key, one, return_softmax_lse=True, **arguments)
    assert any("unit" in name for name in launcher.launched)
    assert torch.equal(output, torch.ones_like(output))
    assert_lse(lse, attention(query, key, one)[1])
    error = (lse.double() - attention(query, key, one)[1]).abs().max().item()
    assert error < 3e-6  # a sum of rounded weights is off by up to 4e-4


def test_the_output_does_not_depend_on_whether_lse_is_wanted(kernel, device):
    query, key, value = tensors()
    launcher = SimulatedLauncher()
    with kernel.launchers.use_launcher(launcher, device):
        alone = kernel.flash_attn_func(query, key, value)
        output, *_ = kernel.flash_attn_func(query, key, value, return_attn_probs=True)
    assert torch.equal(alone, output)


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], ids=hex)
def test_nan_stays_whatever_its_bits(kernel, device, bits):
    """To round the weight of one must not make a number of it."""
    query, key, value = tensors()
    bias = torch.zeros(1, 1, 20, 70)
    bias.view(torch.int32)[0, 0, 3, 5] = bits - 2**32 if bits >= 2**31 else bits
    assert bias[0, 0, 3, 5].isnan()
    output, *_ = call(kernel, query, key, value, device, attn_bias=bias)
    assert output[0, 3].isnan().all() and output[0, [2, 4]].isfinite().all()


@pytest.mark.parametrize("layout", ["older", "invented", "old_target"])
def test_another_layout_gives_wrong_numbers(kernel, device, layout):
    """So the tiles do use the one that they take for granted: what the check is for."""
    query, key, value = tensors()
    with kernel.launchers.use_launcher(SimulatedLauncher(matrix_unit=layout), device):
        output = kernel.flash_attn_func(query, key, value)
    expected, _ = attention(query, key, value)
    assert not (output.double() - expected).abs().max() < 0.1


def test_dropout_drops_the_same_weights(kernel, device):
    """As other tiles, which the CPU implementation's are compared with (test_dropout.py)."""
    query, key, value = tensors(70, 90)
    results = []
    for planned_for in (device, kernel.device.Device(9, 1)):
        with kernel.launchers.use_launcher(SimulatedLauncher(), planned_for):
            torch.manual_seed(5)
            results.append(kernel.flash_attn_func(query, key, value, dropout_p=0.4).double())
    assert (results[0] - results[1]).abs().max() < 2**-9 * value.abs().max()


def test_a_negative_scale_and_a_read_query(kernel):
    """The query that is read again has no factor of its own."""
    query, key, value = tensors(40, 70)
    tile = next(tile for tile in TILES if tile.loader == "unit_rereads" and tile.head_dim == 64)
    tile = kernel.planning.tiles.Tile(*tile)
    device = kernel.device.Device(10, 1, tile, LAUNCH_WORK, True)
    for scale in (-0.2, 1e-36):
        output, lse, kernels = call(kernel, query, key, value, device, softmax_scale=scale)
        expected, expected_lse = attention(query, key, value, softmax_scale=scale)
        assert kernels == [tile.kernel(torch.float16)]
        assert (output.double() - expected).abs().max() < 2**-9 * value.abs().max()
        assert_lse(lse, expected_lse)


def test_a_bias_of_every_kind(kernel, device):
    for kind in ("mask", "own", "float"):
        query, key, value = tensors(70, 90)
        bias = Bias(kind, (1, 1, 1, 1)).tensor([(70, 90)], 2, query.dtype, False, 1)
        output, lse, kernels = call(kernel, query, key, value, device, attn_bias=bias)
        expected, expected_lse = attention(query, key, value, attn_bias=bias)
        assert any("unit" in name for name in kernels)
        assert (output.double() - expected).abs().max() < 2**-9 * value.abs().max()
        assert_lse(lse, expected_lse)
