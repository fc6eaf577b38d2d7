"""The benchmark of the matrix unit: counts carried over from short prefills are those of long ones."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
matrix_unit = pytest.importorskip("matrix_unit")


@pytest.mark.parametrize("has_unit", [True, False])
def test_prefills_carried_over(kernel, monkeypatch, has_unit):
    device = kernel.device.Device(10, 1, matrix_unit=has_unit)

    def counted(tokens):
        monkeypatch.setattr(matrix_unit, "COUNTED", tokens)
        return matrix_unit.ours(kernel, 64, device)

    short, exact = counted(256), counted(512).whole
    monkeypatch.setattr(matrix_unit, "COUNTED", 256)
    carried = short.carried(512)
    assert ("_unit" in exact.kernel) == has_unit and carried.kernel == exact.kernel
    assert len(carried.order) == len(exact.order)
    assert {name: carried.classes[name] for name in exact.classes} == pytest.approx(exact.classes, rel=0.01)
    read = [[(t.name, t.read) for t in profile.traffic if t.space == "device"] for profile in (carried, exact)]
    assert dict(read[0]) == pytest.approx(dict(read[1]), rel=0.01)


def test_peers_that_are_not_there(monkeypatch):
    monkeypatch.setattr(matrix_unit.peers.mlx_attention, "available", lambda: False)
    monkeypatch.setattr(matrix_unit.peers.pytorch_attention, "available", lambda _name: False)
    assert matrix_unit.theirs(64) == [None, None]
