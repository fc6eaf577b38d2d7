"""Kernels give the numbers that NumPy gives, in every order and on every number of cores."""

import struct

import numpy as np
import pytest
import torch
from metal_simulator import LaunchError

TYPES = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("name", TYPES)
def test_row_sum_by_shuffles(library, name):
    x, out = random(50, 32, dtype=TYPES[name]), torch.full((50,), float("nan"))
    report = library("row_sum").kernel(f"row_sum_{name}").launch([x, out], (50, 1, 1), (32, 1, 1))
    assert torch.allclose(out.double(), x.double().sum(1), atol=1e-5)
    assert report.threadgroups == 50


@pytest.mark.parametrize(
    "name, left, right, result, tolerance",
    [
        ("half", "half", "half", "half", 2e-2),
        ("bfloat", "bfloat", "bfloat", "bfloat", 2e-1),
        ("float", "float", "float", "float", 1e-4),
        ("half_float", "half", "float", "float", 1e-4),
        ("float_bfloat", "float", "bfloat", "float", 1e-4),
    ],
)
def test_matrix_product(library, name, left, right, result, tolerance):
    a, b = random(64, 128, dtype=TYPES[left]), random(128, 48, dtype=TYPES[right], seed=1)
    c = torch.full((64, 48), float("nan"), dtype=TYPES[result])
    report = (
        library("matmul")
        .kernel(f"matmul_{name}")
        .launch([a, b, c, struct.pack("3i", 64, 48, 128)], (3, 4, 1), (32, 1, 1), check=True)
    )
    assert (c.double() - a.double() @ b.double()).abs().max() < tolerance
    assert report.findings == ()
    assert report.matrix_products == 64 * 48 * 128 // 512


@pytest.mark.parametrize("name, dtype", [("half", np.float16), ("float", np.float32)])
def test_transposed_load_and_origins(library, name, dtype):
    a = np.arange(16 * 40).reshape(16, 40).astype(dtype)
    c = np.zeros((40, 16), dtype)
    shape = np.array([16, 40], np.uint32)
    report = (
        library("transpose")
        .kernel(f"transpose_{name}", build="check")
        .launch([a, c, shape], (2, 5, 1), (32, 1, 1), check=True)
    )
    assert np.array_equal(c, a.T)
    assert report.findings == ()


@pytest.mark.parametrize("order", ["forward", "reverse", 1, 2])
@pytest.mark.parametrize("check", [False, True])
def test_threadgroup_memory(library, order, check):
    x, out = random(20, 256, dtype=torch.float16), torch.zeros(20)
    kernel = library("reduce").kernel("reduce_half")
    report = kernel.launch([x, out], (20, 1, 1), (256, 1, 1), order=order, check=check)
    assert torch.allclose(out.double(), x.double().mean(1), atol=1e-5)
    assert report.findings == () and report.barriers == 20 * 8
    assert kernel.threadgroup_bytes in (1024 + 4, 1024 + 4 + 8)


def test_threadgroup_arguments(library):
    x, out = random(64), torch.zeros(1)
    kernel = library("reduce").kernel("reduce_dynamic")
    kernel.launch([x, out], (1, 1, 1), (64, 1, 1), threadgroup_memory=[256])
    assert torch.allclose(out, x.sum(), atol=1e-5)
    with pytest.raises(LaunchError, match="sum at threadgroup 0"):
        kernel.launch([x, out], (1, 1, 1), (64, 1, 1))
    with pytest.raises(LaunchError, match="32768"):
        kernel.launch([x, out], (1, 1, 1), (64, 1, 1), threadgroup_memory=[40000])


def test_every_position(library):
    grid, size = (2, 3, 2), (8, 4, 3)
    total = [g * s for g, s in zip(grid, size)]
    out = np.zeros((total[2], total[1], total[0], 25), np.uint32)
    library("positions").kernel("positions").launch([out], grid, size, order=3)
    for (z, y, x), row in zip(np.ndindex(*out.shape[:3]), out.reshape(-1, 25)):
        group, inside = (x // 8, y // 4, z // 3), (x % 8, y % 4, z % 3)
        index = inside[0] + 8 * (inside[1] + 4 * inside[2])
        expected = [x, y, z, *inside, *group, *grid, *size, *total]
        expected += [index, index % 32, index // 32, 3, 32, index // 4, index % 4]
        assert row.tolist() == expected


def test_positions_of_fewer_dimensions_and_indices_by_order(library):
    out = np.zeros(96, np.uint16)
    library("positions").kernel("one_dimensional").launch([out], (3, 1, 1), (32, 1, 1))
    assert out.tolist() == [i // 32 for i in range(96)]


@pytest.mark.parametrize("name, dtype", [("float", np.float32), ("half", np.float16), ("int", np.int32)])
@pytest.mark.parametrize("order", ["forward", 5])
def test_collectives(library, name, dtype, order):
    x = np.random.default_rng(0).integers(-9, 9, 32).astype(dtype)
    out = np.zeros((32, 24), dtype)
    library("collectives").kernel(f"collectives_{name}").launch([x, out], (1, 1, 1), (32, 1, 1), order=order)
    lane, signs = np.arange(32), np.where(x > 0, 1, -1)
    expected = [
        np.full(32, x.sum()), np.full(32, x.min()), np.full(32, x.max()), x.cumsum(), x.cumsum() - x, x[::-1],
        x[lane ^ 5],
        x[np.where(lane < 3, lane, lane - 3)], x[np.where(lane > 28, lane, lane + 3 - 32)], x[(lane - 3) % 32],
        x[(lane + 3) % 32], np.where(lane < 3, lane + 29, x[lane - 3]),
        np.where(lane > 28, lane - 29, x[lane + 3 - 32]),
        np.full(32, x[7]), np.full(32, x[0]), x.reshape(8, 4).sum(1).repeat(4), x.reshape(8, 4).max(1).repeat(4),
        x[lane ^ 1], x[lane // 4 * 4 + 2], np.ones(32), np.zeros(32), np.full(32, 0x55), np.full(32, signs.prod()),
        lane == 0,
    ]  # fmt: skip
    assert np.array_equal(out, np.stack(expected, 1).astype(dtype))


@pytest.mark.parametrize("check", [False, True])
def test_atomics(library, check):
    x = np.random.default_rng(0).integers(0, 256, 640).astype(np.uint8)
    counts, total = np.zeros(16, np.uint32), np.zeros(1, np.float32)
    report = library("collectives").kernel("histogram").launch([x, counts, total], (10, 1, 1), (64, 1, 1), check=check)
    assert np.array_equal(counts, np.bincount(x % 16, minlength=16))
    assert total[0] == 320 and report.findings == ()


def test_same_bits_in_every_order_on_every_number_of_cores(library):
    a, b = random(64, 128, dtype=torch.float16), random(128, 48, dtype=torch.float16, seed=1)
    kernel = library("matmul").kernel("matmul_half")
    results = []
    for order in ("forward", "reverse", 1, 2):
        for workers in (1, 2, 5):
            c = torch.zeros(64, 48, dtype=torch.float16)
            kernel.launch(
                [a, b, c, struct.pack("3i", 64, 48, 128)], (3, 4, 1), (32, 1, 1), order=order, workers=workers
            )
            results.append(c)
    assert all(torch.equal(c, results[0]) for c in results)


def test_strided_tensors_and_arrays_with_negative_strides(library):
    storage = random(50, 64)
    x, out = storage[:, :32].T.T, torch.zeros(100)[::2]
    out.zero_()
    kernel = library("row_sum").kernel("row_sum_float")
    reverse = np.zeros(4, np.float32)[::-1]
    kernel.launch([torch.ones(4 * 32), reverse[::-1]], (4, 1, 1), (32, 1, 1), check=True)
    assert reverse.tolist() == [32] * 4
    kernel.launch([x, out], (1, 1, 1), (32, 1, 1), check=True)
    assert torch.allclose(out[0], x[0].sum())


def test_checked_launch_leaves_the_gaps_of_strided_outputs_alone(library):
    both = torch.full((50, 2), 7.0)
    library("row_sum").kernel("row_sum_float", build="check").launch(
        [torch.ones(32), both[:, 1]], (1, 1, 1), (32, 1, 1), check=True
    )
    assert both[0].tolist() == [7, 32] and (both[1:] == 7).all()


def test_member_functions(library):
    out = np.zeros(8, np.float32)
    library("members").kernel("members", build="check").launch([out], (1, 1, 1), (8, 1, 1), check=True)
    assert out.tolist() == [2 * (28 + i) for i in range(8)]


def test_partial_simdgroups(written):
    library = written(
        "kernel void f(device float* out, uint i [[thread_position_in_grid]]) { out[i] = simd_max(-float(i)); }"
    )
    out = np.zeros(40, np.float32)
    library.kernel("f").launch([out], (1, 1, 1), (40, 1, 1))
    assert out.tolist() == [0] * 32 + [-32] * 8


def test_empty_grid(library):
    report = library("row_sum").kernel("row_sum_half").launch([None, None], (0, 1, 1), (32, 1, 1))
    assert report.threadgroups == 0


@pytest.mark.parametrize("order", ["forward", 1])
def test_prefix_sums(library, order):
    x, out = random(1000), torch.full((1000,), float("nan"))
    report = (
        library("scan")
        .kernel("scan")
        .launch([x, out, struct.pack("I", 1000)], (4, 1, 1), (256, 1, 1), order=order, check_written=True)
    )
    assert report.findings == ()
    for block, expected in zip(out.split(256), x.double().split(256)):
        assert torch.allclose(block.double(), expected.cumsum(0), atol=1e-4)


def test_stencil(library):
    x, out = random(150, dtype=torch.float16), torch.full((150,), float("nan"), dtype=torch.float16)
    report = (
        library("stencil")
        .kernel("stencil")
        .launch([x, out, struct.pack("i", 150)], (3, 1, 1), (64, 1, 1), check_written=True, check_nan=True)
    )
    padded = torch.nn.functional.pad(x.double(), (1, 1))
    assert report.findings == ()
    assert torch.allclose(out.double(), padded[:-2] + 2 * padded[1:-1] + padded[2:], atol=2e-2)


def test_norm(library):
    x, weight, out = random(3, 300), random(300, seed=1), torch.full((3, 300), float("nan"), dtype=torch.float16)
    report = (
        library("norm")
        .kernel("norm")
        .launch([x, out, weight, struct.pack("I", 300)], (3, 1, 1), (64, 1, 1), check_written=True, check_nan=True)
    )
    expected = x.double() / (x.double().square().mean(1, keepdim=True) + 1e-5).sqrt() * weight
    assert report.findings == () and torch.allclose(out.double(), expected, atol=1e-2)
