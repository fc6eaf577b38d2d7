"""The side-by-side benchmark: both implementations do the same work, and are right (it compares with float64)."""

import pathlib
import re
import sys

import pytest
from metal_simulator.profiler.report import chip_named

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
pytorch_attention = pytest.importorskip("pytorch_attention")
pytestmark = pytest.mark.skipif(not pytorch_attention.available(), reason="this torch does not bring the Metal headers")


CHIP = chip_named("M1 Max")


@pytest.fixture
def peers(monkeypatch):
    """The benchmark, without MLX, which may not be there."""
    import peers

    monkeypatch.setattr(peers.mlx_attention, "available", lambda: False)
    return peers


def test_prefill_takes_as_many_products(kernel, peers):
    full, causal = peers.prefill_cases(kernel, [CHIP], [64], 64)
    products = peers.HEADS * 2 * 64 * 64 * 64 // 512
    pytorch = full.theirs["PyTorch"][CHIP]
    for side in (full.ours[CHIP], pytorch):
        assert side.total("mma_half", "mma_mixed") == products
    assert 0.2 < pytorch.seconds(CHIP) / full.ours[CHIP].seconds(CHIP) < 5
    assert causal.name == "prefill 64 causal d64"


def test_decoding_in_two_passes_is_two_launches(kernel, peers, capsys):
    one, eight = peers.decode_cases(kernel, [CHIP], 1024)
    pytorch = one.theirs["PyTorch"][CHIP]
    assert len(pytorch.profiles) == len(one.ours[CHIP].profiles) == 2
    keys = [t for t in eight.ours[CHIP].profiles[0].traffic if t.name in ("key", "value")]
    assert len(keys) == 2 and all(t.read == t.first_read == 8 * 1024 * 128 * 2 for t in keys)  # each byte once
    assert eight.ours[CHIP].total("mma_half") == 8 * one.ours[CHIP].total("mma_half")
    assert pytorch.seconds(CHIP) >= pytorch.longest(CHIP).seconds
    peers.print_times(one)
    peers.print_counters(one)
    assert "decode 1024 keys" in capsys.readouterr().out


def test_heads_take_turns_in_our_grid(kernel, peers):
    """The launches of two heads, of which one is simulated, are those of two that are."""
    profiler, tensors = peers.Profiler(), peers.inputs(2, 2, 100, 1000, 64)
    with kernel.launchers.use_launcher(profiler, peers.device(kernel, CHIP)):
        kernel.flash_attn_func(*(tensor.transpose(1, 2) for tensor in tensors))
    both = peers.Side(profiler.profiles)
    one = peers.dense(kernel, [CHIP], peers.inputs(1, 1, 100, 1000, 64), 2, False)[CHIP]
    assert len(one.profiles) == len(both.profiles)
    for mine, right in zip(one.profiles, both.profiles):
        assert mine.classes == right.classes
        assert [mine.rows[row].classes for row in mine.order] == [right.rows[row].classes for row in right.order]


@pytest.mark.nightly
def test_costs_of_windows_and_ragged_batches(kernel, peers):
    """A window costs at most a block at each end more than it shows, a batch no more than its sequences."""
    chip = chip_named("M1")  # too few cores for the keys to be divided
    words = peers.window_cost(kernel, chip, 1024, 256)
    multiplied, seen, loaded, rows_see = (float(word) for word in re.findall(r" (\d+)(?: keys| loaded|,|;)", words))
    assert multiplied <= seen + 2 * 32 and loaded <= rows_see + 2 * 32
    ratio, surplus = re.match(r"M1: ([\d.]+) times .* (\d+) surplus", peers.ragged_cost(kernel, chip, 8)).groups()
    assert float(ratio) <= 1.05 and int(surplus) <= 8
