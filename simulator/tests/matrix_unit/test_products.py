"""Products of cooperative tensors: layouts, the old targets, precision, and operands in memory."""

import struct

import numpy as np
import pytest
import torch
from metal_simulator import LaunchError, Library
from metal_simulator.launch.matrix_unit import LAYOUTS, VARIABLE

SOUND = LAYOUTS[:3]
TYPES = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}
# Left type, right type, m, n, k, left transposed, right transposed.
PRODUCTS = {
    "half": ("half", "half", 16, 32, 16, False, False),
    "bfloat_transposed": ("bfloat", "bfloat", 16, 32, 16, False, True),
    "float_half": ("float", "half", 16, 32, 16, True, False),
    "float_exact": ("float", "float", 16, 32, 16, False, False),
    "tall": ("half", "half", 32, 16, 16, True, True),
    "deep": ("half", "float", 16, 16, 32, False, True),
    "wide": ("bfloat", "float", 32, 32, 32, True, True),
}


def integers(*shape, dtype, seed=0):
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def launch(library, name, buffers, **keywords):
    return library.kernel(name).launch(buffers, (1, 1, 1), (32, 1, 1), **keywords)


@pytest.fixture(scope="module")
def unit(request):
    folder = request.path.parent.parent / "kernels"
    return Library(folder / "matrix_unit.metal", language="metal4.0", deployment_target="26.2")


@pytest.mark.parametrize("layout", SOUND)
@pytest.mark.parametrize("name", PRODUCTS)
def test_by_coordinates_products_are_right_in_every_layout(unit, name, layout):
    left, right, m, n, k, left_turned, right_turned = PRODUCTS[name]
    a, b, c = integers(m, k, dtype=TYPES[left]), integers(k, n, dtype=TYPES[right]), integers(m, n, dtype=torch.float)
    expected = c + a.float() @ b.float()
    stored = [(a.T if left_turned else a).contiguous(), (b.T if right_turned else b).contiguous(), c]
    report = launch(unit, name, stored, matrix_unit=layout, check=True)
    assert report.findings == () and report.unit_products == 1
    assert torch.equal(c, expected)


def by_layout(library, **keywords):
    """Whether each row is right of a product through the layout of family 10."""
    a, b, c = integers(16, 16, dtype=torch.half), integers(16, 32, dtype=torch.half, seed=1), torch.zeros(16, 32)
    launch(library, "by_layout", [a, b, c], **keywords)
    return (c == a.float() @ b.float()).all(1).tolist()


def test_a_layout_taken_for_granted(unit, monkeypatch):
    assert all(by_layout(unit)) and all(by_layout(unit, matrix_unit="apple10"))
    assert not any(by_layout(unit, matrix_unit="older")) and not any(by_layout(unit, matrix_unit="invented"))
    monkeypatch.setenv(VARIABLE, "older")
    assert not any(by_layout(unit)) and all(by_layout(unit, matrix_unit="apple10"))


def test_old_targets_get_eight_rows_right(unit, request):
    assert by_layout(unit, matrix_unit="old_target") == [True] * 8 + [False] * 8
    source = unit.source.path
    for target, right in (("26.0", False), ("26.1", False), ("26.2", True), ("27", True)):
        library = Library(source, language="metal4.0", deployment_target=target)
        assert by_layout(library) == [True] * 8 + [right] * 8


def test_unknown_layout(unit, monkeypatch):
    with pytest.raises(LaunchError, match="matrix_unit is one of apple10, older, invented, old_target, not '10'"):
        by_layout(unit, matrix_unit="10")
    monkeypatch.setenv(VARIABLE, "M5")
    with pytest.raises(LaunchError, match=f"{VARIABLE} is one of .*, not 'M5'"):
        by_layout(unit)


def test_fp32_is_cut_where_it_may_be(unit):
    """To 10 bits of mantissa, toward zero; exactly where it may not, and never half."""
    a, b = torch.full((16, 16), 1 + 2.0**-10 + 2.0**-11), torch.eye(16, 32)
    for name, kept, right in (("float_half", 1 + 2.0**-10, torch.half), ("float_exact", a[0, 0].item(), torch.float)):
        c = torch.zeros(16, 32)
        launch(unit, name, [a, b.to(right), c])
        assert (c[:, :16] == kept).all() and (c[:, 16:] == 0).all()


@pytest.mark.parametrize("depth", [16, 40, 64])
@pytest.mark.parametrize("layout", SOUND)
def test_operands_in_memory_and_rows(unit, depth, layout):
    """40 is no multiple of what is multiplied at once; of b's 32 rows, 20 exist."""
    a, b = integers(16, depth, dtype=torch.half), integers(20, depth, dtype=torch.half, seed=1)
    c, rows = torch.full((16, 32), float("nan")), torch.full((16, 2), float("nan"))
    buffers = [a, b, c, rows, struct.pack("i", depth), struct.pack("i", 20)]
    report = launch(unit, "in_memory", buffers, matrix_unit=layout, check=True)
    expected = torch.cat([a.float() @ b.float().T, torch.zeros(16, 12)], 1)
    assert report.findings == ()
    assert torch.equal(c, expected)
    assert torch.equal(rows, torch.stack([expected.sum(1), expected.amax(1)], 1))


def test_more_rows_than_the_buffer_has(unit):
    """Extents that say more than there is: every access is seen."""
    a, b = integers(16, 16, dtype=torch.half), integers(20, 16, dtype=torch.half, seed=1)
    c, rows = torch.zeros(16, 32), torch.zeros(16, 2)
    buffers = [a, b, c, rows, struct.pack("i", 16), struct.pack("i", 21)]
    found = launch(unit, "in_memory", buffers, check=True).findings
    assert {(f.kind.partition(":")[0], f.buffer) for f in found} == {(found[0].kind, 1)}
    assert "out of bounds" in found[0].kind and found[0].element == 20 * 16


@pytest.mark.parametrize("order", ["reverse", 1])
def test_other_orders(unit, order):
    a, b, c = integers(16, 16, dtype=torch.half), integers(16, 32, dtype=torch.half, seed=1), torch.zeros(16, 32)
    launch(unit, "half", [a, b, c], order=order, check=True)
    assert np.array_equal(c, a.float() @ b.float())
