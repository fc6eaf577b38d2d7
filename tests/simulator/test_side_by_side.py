"""The side-by-side benchmark: both implementations do the same work, and are right (it compares with float64)."""

import pathlib
import sys

import pytest
from metal_simulator.report import chip_named

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
pytorch_attention = pytest.importorskip("pytorch_attention")
pytestmark = pytest.mark.skipif(not pytorch_attention.available(), reason="this torch does not bring the Metal headers")


def test_prefill_takes_as_many_products(kernel):
    import peers

    full, causal = peers.prefill_cases(kernel, [64], 64)
    products = peers.HEADS * 2 * 64 * 64 * 64 // 512
    for side in (full.ours, full.theirs):
        assert side.total("mma_half", "mma_mixed") == products
    assert 0.2 < full.theirs.seconds(chip_named("M1 Max")) / full.ours.seconds(chip_named("M1 Max")) < 5
    assert causal.name.endswith("causal")


def test_decoding_in_two_passes_is_two_launches(kernel, capsys):
    import peers

    one, eight = peers.decode_cases(kernel, 256)
    assert len(one.theirs.profiles) == 2
    assert eight.ours.total("mma_half") == 8 * one.ours.total("mma_half")
    chip = chip_named("M1 Max")
    assert one.theirs.seconds(chip) >= one.theirs.longest(chip).seconds
    peers.print_times(one, [chip])
    peers.print_counters(one)
    assert "decode 256 keys" in capsys.readouterr().out
