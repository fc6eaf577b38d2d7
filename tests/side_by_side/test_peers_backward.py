"""The costs of the backward that the benchmark predicts, on small problems."""

import pathlib
import sys

import pytest
from metal_simulator.profiler.report import chip_named

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
pytorch_attention = pytest.importorskip("pytorch_attention")
pytestmark = pytest.mark.skipif(not pytorch_attention.available(), reason="this torch does not bring the Metal headers")

CHIPS = [chip_named("M1"), chip_named("M3 Max")]


@pytest.mark.parametrize("causal", [False, True])
def test_counts_carried_over_are_the_counts(kernel, causal):
    import peers_backward

    device = kernel.device.Device(7, 1)
    half, whole, exact = (peers_backward.counted(kernel, device, tokens, 64, causal) for tokens in (128, 256, 512))
    assert len(exact) == 4
    for source, profile in exact.items():
        carried = peers_backward.carried(half[source], whole[source], 2, 1)
        assert len(carried.order) == len(profile.order)
        for mine, right in (
            (carried.classes, profile.classes),
            *((a._asdict(), b._asdict()) for a, b in zip(carried.traffic, profile.traffic) if b.space == "device"),
        ):
            numbers = {name: number for name, number in right.items() if name not in ("name", "space")}
            assert {name: mine[name] for name in numbers} == pytest.approx(numbers, rel=0.01), source
        assert len(peers_backward.carried(half[source], whole[source], 2, 3).order) == 3 * len(profile.order)


def test_a_window_costs_what_it_shows(kernel):
    """Twice the visible pairs take twice the clocks within 5 %, but for what a row costs by itself: 67 keys on Apple7
    and 51 on Apple9, 31 of them the edges in whole blocks. With these, it is within 5 % from 1,340 keys on only."""
    import peers_backward

    for more, limit in zip(zip(*peers_backward.window_costs(kernel, CHIPS, [128, 256])), (70, 54)):
        assert abs(more[1] - more[0]) <= 0.05 * 128 and max(more) <= limit


@pytest.mark.nightly
def test_a_ragged_batch_costs_what_its_sequences_cost(kernel):
    """In one chunk: more chunks add threadgroups that find nothing to do."""
    import peers_backward

    assert all(0.9 < ratio <= 1.05 for ratio in peers_backward.ragged_costs(kernel, CHIPS, 8))


def test_lines(kernel):
    """All launches are predicted. Five products at the peak would be 140 % of it, counted as seven."""
    import peers_backward

    line = peers_backward.Case(kernel, 64, True).line(CHIPS[0])
    forward, backward, queries, keys, both, peak = map(float, line.split()[3:9])
    assert both == pytest.approx(forward + backward, abs=0.2) and queries + keys < backward < 1.02 * (queries + keys)
    assert 80 < peak < 7 / 5 * 100
